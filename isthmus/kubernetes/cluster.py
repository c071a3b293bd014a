"""Inventory -> Cluster: what hosts.toml asks of Kubernetes, or every problem of it at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from isthmus.errors import InventoryError, Problem
from isthmus.model import Host, Inventory, Resource

API_PORT = 6443
MINORS = ("1.34", "1.35", "1.36", "1.37")
"""1.35 and 1.36 were run. By their documentation the others take the same files: kubeadm's v1beta4, containerd 2.2."""
ZONE = "topology.kubernetes.io/zone"
"""The label that every node carries, with its site."""
CONTROL_PLANE = "control-plane"
LOOPBACK = IPv4Address("127.0.0.1")


@dataclass(frozen=True, order=True)
class Taint:
    """`key=value:effect`; Kubernetes knows one by key and effect."""

    key: str
    effect: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.key}{'=' if self.value else ''}{self.value}:{self.effect}"

    @property
    def name(self) -> str:
        """What kubectl removes it by."""
        return f"{self.key}:{self.effect}"


ROLE_LABEL = "node-role.kubernetes.io/control-plane"
"""The label that kubeadm gives every control plane."""
CONTROL_PLANE_TAINT = Taint(ROLE_LABEL, "NoSchedule")


@dataclass(frozen=True)
class Node:
    """What one host is to be in the cluster."""

    name: str
    site: str
    address: IPv4Address
    control_plane: bool
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]


@dataclass(frozen=True)
class Cluster:
    """The whole cluster. Every host of the inventory is a node, in the order of the file."""

    interface: str
    mtu: int
    version: str
    """Minor or exact, as hosts.toml has it."""
    pod_subnet: IPv4Network
    service_subnet: IPv4Network
    endpoint: str
    nodes: Mapping[str, Node]
    resources: tuple[Resource, ...] = ()
    """Those that are to have a Service."""

    @property
    def control_planes(self) -> tuple[Node, ...]:
        """The nodes with the API and etcd; the first one initialises the cluster."""
        return tuple(node for node in self.nodes.values() if node.control_plane)

    @property
    def control_plane(self) -> Node:
        """The control plane that initialises the cluster."""
        return self.control_planes[0]

    @property
    def has_balancers(self) -> bool:
        """Return whether workers reach the API through a load balancer of their own."""
        return len(self.control_planes) > 1

    def api_addresses(self, node: Node) -> tuple[IPv4Address, ...]:
        """Return where the API's name leads on a node, first choice first.

        On a worker of several control planes that is its load balancer. A control plane asks itself, and another where
        it is refused: port 6443 is its own API's, and kubeadm has its kubelet ask that one anyway.
        """
        if not self.has_balancers:
            return (self.control_plane.address,)
        if not node.control_plane:
            return (LOOPBACK,)
        return (node.address, *(other.address for other in self.control_planes if other != node))

    @property
    def workers(self) -> tuple[str, ...]:
        """The names of all other nodes."""
        return tuple(name for name, node in self.nodes.items() if not node.control_plane)

    @property
    def pod_mtu(self) -> int:
        """The MTU of pods: VXLAN takes 50 bytes of the mesh's."""
        return self.mtu - 50

    def satisfied_by(self, version: str) -> bool:
        """Return whether an exact version such as 1.36.2 is the one asked for."""
        return version == self.version or version.startswith(f"{self.version}.")


def cluster_of(inventory: Inventory) -> Cluster:
    """Return what an inventory asks of Kubernetes; InventoryError with all that is wrong with it."""
    problems = tuple(_problems(inventory))
    if problems or inventory.kubernetes is None:
        raise InventoryError(inventory.source, problems)
    asked = inventory.kubernetes
    return Cluster(
        interface=inventory.mesh.interface,
        mtu=inventory.mesh.mtu,
        version=asked.version,
        pod_subnet=asked.pod_subnet,
        service_subnet=asked.service_subnet,
        endpoint=asked.endpoint,
        nodes={name: _node(host) for name, host in inventory.hosts.items()},
        resources=tuple(resource for resource in inventory.resources.values() if resource.service),
    )


def read_taint(text: str) -> Taint:
    """Read a taint of hosts.toml, whose syntax was checked."""
    key_value, _, effect = text.rpartition(":")
    key, _, value = key_value.partition("=")
    return Taint(key, effect, value)


def _node(host: Host) -> Node:
    control_plane = CONTROL_PLANE in host.roles
    taints = {read_taint(text) for text in host.taints}
    if control_plane and "worker" not in host.roles:
        taints.add(CONTROL_PLANE_TAINT)
    labels = {ZONE: host.site}
    labels.update({key: value for key, _, value in (label.partition("=") for label in host.labels)})
    return Node(host.name, host.site, host.address, control_plane, labels, tuple(sorted(taints)))


def _problems(inventory: Inventory) -> Iterator[Problem]:
    asked = inventory.kubernetes
    if asked is None:
        yield Problem("kubernetes", "nothing", "a section [kubernetes]")
        return
    yield from _control_plane_problems(inventory)
    for host in inventory.hosts.values():
        if any(label.partition("=")[0] == ZONE for label in host.labels):
            yield Problem(
                f"hosts.{host.name}.labels", f"the label {ZONE}", "labels of yours: this one is the site's name"
            )
    if ".".join(asked.version.split(".")[:2]) not in MINORS:
        expected = f"a version that Isthmus supports: {', '.join(MINORS)}, or an exact one of these"
        yield Problem("kubernetes.version", f'"{asked.version}"', expected)
    names: dict[str, str] = {}
    for resource in inventory.resources.values():
        if resource.service:
            other = names.setdefault(resource.service, resource.name)
            if other != resource.name:
                expected = f"a Service of its own (resources.{other} has this one)"
                yield Problem(f"resources.{resource.name}.service", f'"{resource.service}"', expected)


def _control_plane_problems(inventory: Inventory) -> Iterator[Problem]:
    hosts = [host for host in inventory.hosts.values() if CONTROL_PLANE in host.roles]
    planes = [host.name for host in hosts]
    if not planes:
        yield Problem("hosts", 'no host with roles = ["control-plane"]', "one, which holds the cluster's API")
    elif len(planes) % 2 == 0:
        expected = "one, or an odd number: of an even one neither half can go on alone"
        yield Problem("hosts", f"{len(planes)} control planes ({', '.join(planes)})", expected)
    elif len({host.site for host in hosts}) > 1:
        found = ", ".join(f"{host.name} in {host.site}" for host in hosts)
        yield Problem("hosts", f"control planes of several sites ({found})", "all in one: etcd waits for a majority")
