"""Inventory -> which port must be open on which host, and to whom: what a cloud's security groups must let in.

WireGuard's port between the hosts that are each other's peers, SSH's port to whoever logs in. What members say to each
other across sites is inside WireGuard: a gateway's group lets its leaves' traffic pass with the one port of its own.
Groups of Alibaba and Tencent Cloud are stateful and let everything out unless told otherwise, so all rules are ingress.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from isthmus.model import Host, Inventory

WORKSTATION = "the workstation"
"""The source of what `inv` itself sends; its address is not in the inventory."""


@dataclass(frozen=True)
class PortRule:
    """One port that a host's security group must admit from one source."""

    host: str
    protocol: str
    """`udp` or `tcp`."""
    port: int
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


def port_rules(inventory: Inventory) -> tuple[PortRule, ...]:
    """Return every rule: hosts in the order of the file, for each host SSH first, then WireGuard from its peers."""
    return tuple(
        rule
        for host in inventory.hosts.values()
        for rule in (*_ssh(inventory, host), *_from_sites(inventory, host), *_from_site(inventory, host))
    )


def _ssh(inventory: Inventory, host: Host) -> Iterator[PortRule]:
    """Yield the rules for logging in: a host without a public address is reached through its site's gateways."""
    gateways = [inventory.hosts[name] for name in inventory.sites[host.site].gateways if name != host.name]
    gateways = [] if host.public else [gateway for gateway in gateways if gateway.public]
    for gateway in gateways:
        why = f"SSH, for inv, through the gateway {gateway.name}"
        yield PortRule(host.name, "tcp", host.ssh.port, host.address, gateway.name, gateway.address, why)
    if not gateways:  # without any public address the workstation is inside
        why = "SSH, for inv"
        yield PortRule(host.name, "tcp", host.ssh.port, host.public_place or host.address, WORKSTATION, None, why)


def _from_sites(inventory: Inventory, host: Host) -> Iterator[PortRule]:
    """Yield what the gateways of other sites send to this one."""
    if host.public_place is None or not inventory.is_gateway(host.name):
        return
    for site in inventory.sites.values():
        for name in site.gateways if site.name != host.site else ():
            peer = inventory.hosts[name]
            why = f"WireGuard from {site.name}; carries all that its hosts say to those of {host.site}"
            yield PortRule(
                host.name, "udp", inventory.mesh.listen_port, host.public_place, name, peer.public_place, why
            )


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
        yield PortRule(host.name, "udp", inventory.mesh.listen_port, host.address, peer.name, peer.address, why)
