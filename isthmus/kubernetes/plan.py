"""(wanted, found) -> what is left to do on each host, as steps one can read: title, what is missing, who does it.

A step whose `missing` is empty is done. A second run finds nothing missing anywhere, and so does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from isthmus.kubernetes.bundle import OF_KUBERNETES, Bundle, Deb, Image
from isthmus.kubernetes.cluster import Cluster, Node
from isthmus.kubernetes.configs import BALANCER, BALANCER_UNIT, balancer_files, host_files, manifests, sum_of
from isthmus.kubernetes.drift import drift
from isthmus.kubernetes.facts import ApiFacts, NodeFacts
from isthmus.kubernetes.state import CLEANED, JOINED, Found, State, api_of, speaker, states
from isthmus.render import File

SYSTEMS = ("debian 11", "debian 12", "debian 13")
OTHER_RUNTIMES = ("containerd", "docker.io", "cri-o")
"""Packages that containerd.io would push off a host, with whatever runs in them."""
SYSCTLS = ("net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables")


class Do(Enum):
    """Who does a step; the phases of a bootstrap, in its order."""

    CLEAN_UP = "clean up"
    PREPARE = "prepare"
    INITIALISE = "initialise"
    APPLY = "apply"
    JOIN = "join"
    MARK = "label and taint"


@dataclass(frozen=True)
class Wanted:
    """What one host is to be."""

    cluster: Cluster
    node: Node
    bundle: Bundle
    files: Mapping[str, File]
    balancer: Mapping[str, File]
    """The files of its load balancer, where it has one."""
    manifests: Mapping[str, str]
    """On control planes: every manifest of ours."""

    @property
    def images(self) -> tuple[Image, ...]:
        """The images this host needs."""
        return tuple(image for image in self.bundle.images if self.node.control_plane or image.needed_everywhere)


@dataclass(frozen=True)
class Step:
    """One step of every host: its title, who does it, and a function that says what of it is missing."""

    title: str
    do: Do
    missing: Callable[[Wanted, NodeFacts, Found], Iterator[str]]


@dataclass(frozen=True)
class Todo:
    """A step that is not done on a host, and what is missing."""

    title: str
    do: Do
    missing: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.title}: {', '.join(self.missing)}"


@dataclass(frozen=True)
class NodePlan:
    """What is left to do on one host; where something stands `against` it, nothing is done."""

    host: str
    found: Found
    todo: tuple[Todo, ...]
    against: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.todo)

    def has(self, *dos: Do) -> bool:
        """Return whether something is left for one of these phases."""
        return any(todo.do in dos for todo in self.todo)


# --- the steps ----------------------------------------------------------------------------------------------------


def missing_debs(wanted: Wanted, facts: NodeFacts) -> tuple[Deb, ...]:
    """Return the packages that are not installed in the bundle's version."""
    installed = {name: package.version for name, package in facts.packages.items()}
    return tuple(deb for deb in wanted.bundle.debs if installed.get(deb.package) != deb.version)


def missing_images(wanted: Wanted, facts: NodeFacts) -> tuple[Image, ...]:
    """Return the images that containerd does not have."""
    return tuple(image for image in wanted.images if not set(image.references) <= facts.images)


def differing_files(files: Mapping[str, File], facts: NodeFacts) -> tuple[str, ...]:
    """Return the paths where another file is than should be."""
    return tuple(
        path
        for path, file in files.items()
        if path not in facts.files or (facts.files[path].sha256, facts.files[path].mode) != (file.sha256, file.mode)
    )


def _packages(wanted: Wanted, facts: NodeFacts, _: Found) -> Iterator[str]:
    missing = missing_debs(wanted, facts)
    yield from (f"{deb.package} {deb.version}" for deb in missing)
    for deb in wanted.bundle.debs:
        if deb not in missing and not facts.packages[deb.package].held:
            yield f"hold {deb.package}"


def _files(wanted: Wanted, facts: NodeFacts, _: Found) -> Iterator[str]:
    yield from differing_files(wanted.files, facts)


def balancing(wanted: Wanted, facts: NodeFacts) -> Iterator[str]:
    """Yield what is missing of the load balancer, or is there though none is wanted."""
    active, enabled = facts.units.get(BALANCER_UNIT.rpartition("/")[2].removesuffix(".service"), ("", ""))
    if wanted.balancer:
        yield from differing_files(wanted.balancer, facts)
        if active != "active" or enabled != "enabled":
            yield "start it"
    elif active == "active" or {BALANCER, BALANCER_UNIT} & facts.files.keys():
        yield "take it off"


def _balancer(wanted: Wanted, facts: NodeFacts, _: Found) -> Iterator[str]:
    yield from balancing(wanted, facts)


def _endpoint(wanted: Wanted, facts: NodeFacts, _: Found) -> Iterator[str]:
    addresses = tuple(map(str, wanted.cluster.api_addresses(wanted.node)))
    if facts.endpoint != addresses:
        yield f"{wanted.cluster.endpoint} = {' or '.join(addresses)}"


def _kernel(_wanted: Wanted, facts: NodeFacts, _: Found) -> Iterator[str]:
    yield from sorted({"overlay", "br_netfilter"} - facts.kernel)
    yield from (f"{name} = 1" for name in SYSCTLS if facts.sysctls.get(name) != "1")


def _services(_wanted: Wanted, facts: NodeFacts, _: Found) -> Iterator[str]:
    active, enabled = facts.units.get("containerd", ("", ""))
    if active != "active":
        yield "start containerd"
    if enabled != "enabled":
        yield "enable containerd"
    if facts.units.get("kubelet", ("", ""))[1] != "enabled":
        yield "enable kubelet"


def _images(wanted: Wanted, facts: NodeFacts, _: Found) -> Iterator[str]:
    yield from (image.references[0] for image in missing_images(wanted, facts))


def _leftovers(_wanted: Wanted, _facts: NodeFacts, found: Found) -> Iterator[str]:
    if found.state in CLEANED or found.state in (State.STALE, State.FOREIGN):  # FOREIGN: only where it is forced
        yield found.evidence


def _init(_wanted: Wanted, _facts: NodeFacts, found: Found) -> Iterator[str]:
    if found.state not in (*JOINED, State.SILENT):
        yield "kubeadm init"


def _join(wanted: Wanted, _facts: NodeFacts, found: Found) -> Iterator[str]:
    if found.state not in (*JOINED, State.SILENT):
        yield "kubeadm join as a control plane" if wanted.node.control_plane else "kubeadm join"


PREPARATION = (
    Step("packages", Do.PREPARE, _packages),
    Step("files", Do.PREPARE, _files),
    Step("load balancer", Do.PREPARE, _balancer),
    Step("the API's name", Do.PREPARE, _endpoint),
    Step("kernel", Do.PREPARE, _kernel),
    Step("services", Do.PREPARE, _services),
    Step("images", Do.PREPARE, _images),
)
LEFTOVERS = Step("clean up", Do.CLEAN_UP, _leftovers)
INITIALISE = Step("initialise", Do.INITIALISE, _init)
JOIN = Step("join", Do.JOIN, _join)


# --- the plan -----------------------------------------------------------------------------------------------------


def wanted_of(cluster: Cluster, bundle: Bundle) -> dict[str, Wanted]:
    """Return what every host is to be."""
    files = host_files(cluster, bundle)
    applied = manifests(cluster, bundle)
    return {
        name: Wanted(cluster, node, bundle, files, balancer_files(cluster, node), applied if node.control_plane else {})
        for name, node in cluster.nodes.items()
    }


def plan_nodes(
    cluster: Cluster, bundle: Bundle, facts: Mapping[str, NodeFacts], forced: Collection[str] = ()
) -> dict[str, NodePlan]:
    """Return the plan of every host that was looked at; `forced` are taken out of whatever cluster they are in."""
    wanted = wanted_of(cluster, bundle)
    plane = speaker(cluster, facts)
    first = plane.host if plane else cluster.control_plane.name
    api = api_of(cluster, facts)
    unseen = tuple(node.name for node in cluster.control_planes if node.name not in facts)
    all_found = states(cluster, facts)
    behind = _behind(bundle, api, all_found)
    plans = {}
    for name, found in all_found.items():
        against = [*objections(wanted[name], facts[name], found, behind, forced=name in forced)]
        if name == first and found.state not in (*JOINED, State.SILENT):
            # To begin a cluster beside one that is there, on a control plane that is off, would make two of it.
            against += [f"{other} may hold the cluster already, and could not be asked" for other in unseen]
        plans[name] = (
            NodePlan(name, found, (), tuple(against))
            if against
            else _plan(wanted[name], facts[name], found, api, speaks=name == first)
        )
    return plans


def _plan(wanted: Wanted, facts: NodeFacts, found: Found, api: ApiFacts | None, *, speaks: bool) -> NodePlan:
    steps = [LEFTOVERS, *PREPARATION, INITIALISE if speaks else JOIN]
    todo = [
        Todo(step.title, step.do, missing) for step in steps if (missing := tuple(step.missing(wanted, facts, found)))
    ]
    todo += _cluster_todo(wanted, found, api, speaks=speaks)
    return NodePlan(facts.host, found, tuple(todo))


def _cluster_todo(wanted: Wanted, found: Found, api: ApiFacts | None, *, speaks: bool) -> Iterator[Todo]:
    node = wanted.node
    if speaks:
        there = api.manifests if api else {}
        missing = tuple(name for name, text in wanted.manifests.items() if there.get(name) != sum_of(text))
        surplus = tuple(f"no {name}" for name in there if name not in wanted.manifests)
        if missing or surplus:
            yield Todo("apply", Do.APPLY, (*missing, *surplus))
    known = api.nodes.get(node.name) if api and found.state in JOINED else None
    if known is None:
        yield Todo(
            "label and taint",
            Do.MARK,
            (*(f"label {k}={v}" for k, v in node.labels.items()), *(f"taint {taint}" for taint in node.taints)),
        )
    elif differing := tuple(drift(node, known)):
        yield Todo("label and taint", Do.MARK, differing)


def _behind(bundle: Bundle, api: ApiFacts | None, found: Mapping[str, Found]) -> str:
    """Return which node has another version than the bundle's, or is in the middle of its upgrade; nothing if none."""
    for name, node in (api.nodes if api else {}).items():
        if name in found and found[name].state not in JOINED:
            continue
        if node.under_upgrade:
            return f"the upgrade of {name} has begun and not ended: `inv k8s.upgrade` goes on with it"
        if node.version and node.version != bundle.kubernetes:
            return f"{name} runs Kubernetes {node.version}, the bundle has {bundle.kubernetes}: `inv k8s.upgrade` first"
    return ""


def objections(
    wanted: Wanted, facts: NodeFacts, found: Found, behind: str = "", *, forced: bool = False
) -> Iterator[str]:
    """Return why nothing can be done on a host; `behind` is why versions are to be made one first."""
    yield from against_host(wanted, facts)
    if found.state is State.FOREIGN and not forced:
        yield f"of another cluster: {found.evidence}; it is left alone without --force-reset {facts.host}"
    if found.state is State.OTHER_ROLE:
        yield f"{found.evidence}: `inv k8s.remove {facts.host}` first, then it joins anew"
    if found.state is State.SILENT:
        yield found.evidence
    if found.state in JOINED:
        for package in OF_KUBERNETES:
            there = facts.packages.get(package)
            if there and not there.version.startswith(f"{wanted.bundle.kubernetes}-"):
                what = f"{package} {there.version}, the bundle has {wanted.bundle.kubernetes}"
                yield f"runs {what}: `inv k8s.upgrade` upgrades it"
                return
    if behind:
        yield behind


def against_host(wanted: Wanted, facts: NodeFacts) -> Iterator[str]:
    """Return what stands against Kubernetes on a host, whatever its state."""
    if facts.system not in SYSTEMS:
        yield f"runs {facts.system or 'an unknown system'}, expected one of {', '.join(SYSTEMS)}"
    address = wanted.node.address
    if address not in facts.addresses:
        yield f"the mesh is not up: {wanted.cluster.interface} has no address {address}; run `inv mesh.up` first"
    if not facts.nameservers:
        yield "has no name server in /etc/resolv.conf that is not itself: the cluster's DNS would not start here"
    for package in OTHER_RUNTIMES:
        if package in facts.packages:
            yield f"has the package {package}, which containerd.io would replace: remove it first"
