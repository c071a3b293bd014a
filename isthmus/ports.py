"""Inventory -> which port must be open on which host, and to whom: what a cloud's security groups must let in.

WireGuard's port between the hosts that are each other's peers, SSH's port to whoever logs in; where a site has two
gateways, the pings that tell who is in charge; with [kubernetes], what nodes of one site say to each other. What
members say to each other across sites is inside WireGuard: a gateway's group admits its leaves' traffic by one port.
Groups of Alibaba and Tencent Cloud are stateful and let everything out unless told otherwise, so all rules are ingress.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

from isthmus.kubernetes.cluster import API_PORT, CONTROL_PLANE
from isthmus.model import Host, Inventory
from isthmus.watching import pings

WORKSTATION = "the workstation"
"""The source of what `inv` itself sends; its address is not in the inventory."""

ETCD_PORTS = (2379, 2380)
KUBELET_PORT = 10250
VXLAN_PORT = 8472
"""Linux' own, which flannel keeps; 4789 is IANA's."""


class Service(Enum):
    """Whose traffic it is."""

    SSH = "SSH"
    WIREGUARD = "WireGuard"
    PING = "ping"
    KUBERNETES = "Kubernetes"


@dataclass(frozen=True)
class PortRule:
    """One port that a host's security group must admit from one source; or its pings."""

    host: str
    service: Service
    protocol: str
    """`udp`, `tcp` or `icmp`."""
    port: int | None
    """None for ICMP, which has none."""
    address: IPv4Address | str
    """The host's address, or its DNS name, that the source sends to: a private one is reached within the site."""
    source: str
    """A host of the inventory, or WORKSTATION."""
    source_address: IPv4Address | str | None
    """What the group sees as the source, or its DNS name; None for the workstation."""
    why: str

    @property
    def direction(self) -> str:
        """Seen from the host's security group."""
        return "ingress"

    @property
    def admits(self) -> str:
        """`22/tcp`; `icmp`."""
        return self.protocol if self.port is None else f"{self.port}/{self.protocol}"


def port_rules(inventory: Inventory) -> tuple[PortRule, ...]:
    """Return every rule: hosts in the order of the file; for each SSH, WireGuard from its peers, pings, Kubernetes."""
    asking: dict[str, list[Host]] = {}
    for source, asked in pings(inventory):
        asking.setdefault(asked.name, []).append(source)
    return tuple(
        rule
        for host in inventory.hosts.values()
        for rule in (
            *_ssh(inventory, host),
            *_from_sites(inventory, host),
            *_from_site(inventory, host),
            *_pings(host, asking.get(host.name, ())),
            *_from_nodes(inventory, host),
        )
    )


def _ssh(inventory: Inventory, host: Host) -> Iterator[PortRule]:
    """Yield the rules for logging in: a host without a public address is reached through its site's gateways."""
    gateways = [inventory.hosts[name] for name in inventory.sites[host.site].gateways if name != host.name]
    gateways = [] if host.public else [gateway for gateway in gateways if gateway.public]
    for gateway in gateways:
        why = f"SSH, for inv, through the gateway {gateway.name}"
        yield PortRule(host.name, Service.SSH, "tcp", host.ssh.port, host.address, gateway.name, gateway.address, why)
    if not gateways:  # without any public address the workstation is inside
        why = "SSH, for inv"
        yield PortRule(
            host.name, Service.SSH, "tcp", host.ssh.port, host.public_place or host.address, WORKSTATION, None, why
        )


def _from_sites(inventory: Inventory, host: Host) -> Iterator[PortRule]:
    """Yield what the gateways of other sites send to this one."""
    if host.public_place is None or not inventory.is_gateway(host.name):
        return
    for site in inventory.sites.values():
        for name in site.gateways if site.name != host.site else ():
            peer = inventory.hosts[name]
            why = f"WireGuard from {site.name}; carries all that its hosts say to those of {host.site}"
            yield _wireguard(inventory, host, host.public_place, name, peer.public_place, why)


def _from_site(inventory: Inventory, host: Host) -> Iterator[PortRule]:
    """Yield what peers of the same site send: between a gateway and everybody else."""
    for peer in inventory.members(host.site):
        if peer.name == host.name or len(inventory.sites) == 1:
            continue
        if inventory.is_gateway(host.name):
            why = f"WireGuard from {peer.name}; carries what it says to other sites"
        elif inventory.is_gateway(peer.name):
            why = f"WireGuard from the gateway {peer.name}; carries what other sites say to {host.name}"
        else:
            continue
        yield _wireguard(inventory, host, host.address, peer.name, peer.address, why)


def _wireguard(
    inventory: Inventory,
    host: Host,
    address: IPv4Address | str,
    source: str,
    source_address: IPv4Address | str | None,
    why: str,
) -> PortRule:
    port = inventory.mesh.listen_port
    return PortRule(host.name, Service.WIREGUARD, "udp", port, address, source, source_address, why)


def _pings(host: Host, sources: Iterable[Host]) -> Iterator[PortRule]:
    """Yield what watchers ask this host."""
    for source in sources:
        why = "echo requests, which tell who is in charge of the site"
        yield PortRule(host.name, Service.PING, "icmp", None, host.address, source.name, source.address, why)


def _from_nodes(inventory: Inventory, host: Host) -> Iterator[PortRule]:
    """Yield what the cluster's nodes of the same site send to this one by their private network."""
    if inventory.kubernetes is None:
        return
    for node in inventory.members(host.site):
        if node.name == host.name:
            continue
        ports = [
            ("tcp", KUBELET_PORT, "the kubelet: logs, exec, metrics"),
            ("udp", VXLAN_PORT, "flannel: what pods say"),
        ]
        if CONTROL_PLANE in host.roles:
            ports.insert(0, ("tcp", API_PORT, "Kubernetes' API"))
            if CONTROL_PLANE in node.roles:
                ports += [("tcp", port, "etcd") for port in ETCD_PORTS]
        for protocol, port, why in ports:
            yield PortRule(host.name, Service.KUBERNETES, protocol, port, host.address, node.name, node.address, why)
