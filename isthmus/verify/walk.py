"""A packet's walk as a value that prints itself: what a user is shown when a promise is broken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address
from typing import NamedTuple

from isthmus.model import MAIN_TABLE, FirewallRule, Inventory, Peer, Route
from isthmus.verify.machine import LOOPBACK


class Outcome(Enum):
    """What finally happens to a packet: exactly one of these. The value is the condition."""

    DELIVERED = "it arrives at its destination"
    MISDELIVERED = "another host takes the destination for an address of its own"
    NO_ROUTE = "a host has no route for the destination"
    NO_PEER = "no peer's AllowedIPs hold the destination"
    NO_ENDPOINT = "the peer has no endpoint to send to"
    OWN_TUNNEL = "the peer's endpoint is routed into the very tunnel it carries"
    NOWHERE = "nobody who can be reached from there has the address"
    SPOOFED = "the private network drops a source that is not the sender's"
    WRONG_PORT = "nobody listens for the mesh on the endpoint's port"
    WRONG_KEY = "another host than the peer answers at the endpoint"
    UNKNOWN_SENDER = "the receiver has no peer with the sender's key"
    SOURCE_REFUSED = "the receiver's AllowedIPs do not give the source to the sender"
    REVERSE_PATH = "rp_filter drops it: the way back leaves by another device"
    NOT_FORWARDING = "a host that should pass it on has ip_forward off"
    DENIED = "no firewall rule of ours accepts it"
    OTHER_DEVICE = "it leaves by a device that is neither the mesh's nor the private network's"
    LOOP = "it comes back to where it was"
    UNSEEN = "nothing is known of a host on the way"


class Link(Enum):
    """How a packet gets from one host to the next."""

    PRIVATE = "private network"
    TUNNEL = "tunnel over the private network"
    INTERNET = "tunnel over the internet"


_ARROWS = {Link.PRIVATE: "-->", Link.TUNNEL: "==>", Link.INTERNET: "=internet=>"}


class Path(NamedTuple):
    """The hosts of a walk, and the links between them: one fewer. Prints as `n2 ==> n1 =internet=> s1 --> mysql`."""

    hosts: tuple[str, ...]
    links: tuple[Link | None, ...]

    def __str__(self) -> str:
        rest = (
            f" {_ARROWS[link] if link else '?'} {host}" for link, host in zip(self.links, self.hosts[1:], strict=True)
        )
        return self.hosts[0] + "".join(rest)

    def reversed(self) -> Path:
        """Return the way back."""
        return Path(self.hosts[::-1], self.links[::-1])


class Hop(NamedTuple):
    """What one host (or, as first or last, a resource) did with the packet. Addresses are integers: `address_text`."""

    host: str
    arrived: str
    """The device it came in by; LOOPBACK for the host's own packet."""
    source: int
    """The packet's source as it came in."""
    route: Route | None = None
    accepted: FirewallRule | None = None
    """The FORWARD rule that let it pass."""
    translated: IPv4Address | None = None
    """The source address it was given."""
    peer: Peer | None = None
    link: Link | None = None
    """The way to the next hop; None at the last."""


@dataclass(frozen=True)
class Walk:
    """One packet from a host to another or to a resource. `reason` says what is wrong at the last hop, if anything."""

    source: str
    destination: str
    outcome: Outcome
    hops: tuple[Hop, ...]
    address: int
    """The destination address, as an integer."""
    seen_as: int
    """The source address at the last hop, as an integer."""
    reason: str = ""

    @property
    def delivered(self) -> bool:
        """It arrived."""
        return self.outcome is Outcome.DELIVERED

    @property
    def path(self) -> Path:
        """Where it came past."""
        return Path(tuple(hop.host for hop in self.hops), tuple(hop.link for hop in self.hops[:-1]))

    def __str__(self) -> str:
        """Return the walk, one hop a line."""
        width = max(len(hop.host) for hop in self.hops)
        lines = [f"{self.source} to {self.destination} ({address_text(self.address)}): {self.outcome.value}"]
        for number, hop in enumerate(self.hops):
            words = list(self._hop_words(number, hop))
            lines.append(f"  {hop.host:<{width}}  {'; '.join(words)}")
        return "\n".join(lines)

    def _hop_words(self, number: int, hop: Hop) -> Iterator[str]:
        last = number == len(self.hops) - 1
        if hop.arrived == LOOPBACK:
            yield f"sends from {address_text(hop.source)}"
        elif number and self.hops[number - 1].peer is not None:
            yield f"in by {hop.arrived} from {self.hops[number - 1].host}"
        else:
            yield f"in by {hop.arrived}"
        if hop.route is not None:
            yield f"route {route_text(hop.route)}"
        if hop.accepted is not None:
            yield f"FORWARD accepts {rule_text(hop.accepted)}"
        if hop.translated is not None:
            yield f"source becomes {hop.translated}"
        if hop.peer is not None:
            yield peer_text(hop.peer, self.address)
        if last:
            yield f"STOP: {self.reason}" if self.reason else "arrives"
        elif hop.link is not None:
            yield f"out by {hop.route.device}, {hop.link.value}" if hop.route else hop.link.value


def path_text(walk: Walk) -> str:
    """Return a walk on one line: `n2 ==> n1 =internet=> s1`, and where and why it stopped if it did."""
    return str(walk.path) if walk.delivered else f"{walk.path} (stopped: {walk.outcome.value})"


def promised_path(inventory: Inventory, source: str, destination: str) -> Path:
    """Return the path that a packet from a host to another host or to a resource is promised.

    Inside a site it is direct and plain. Between sites: the source's gateway, the internet once, the other gateway; a
    gateway sends and gets its own traffic itself, in charge or not.
    """
    here = inventory.hosts[source].site
    target = inventory.hosts.get(destination) or inventory.resources[destination]
    if here == target.site:
        return Path((source, destination), (Link.PRIVATE,))
    first = source if inventory.is_gateway(source) else inventory.sites[here].gateway
    second = destination if inventory.is_gateway(destination) else inventory.sites[target.site].gateway
    hosts: tuple[str, ...] = (first, second)
    links: tuple[Link, ...] = (Link.INTERNET,)
    if source != first:
        hosts, links = (source, *hosts), (Link.TUNNEL, *links)
    if destination != second:
        last_link = Link.TUNNEL if destination in inventory.hosts else Link.PRIVATE
        hosts, links = (*hosts, destination), (*links, last_link)
    return Path(hosts, links)


# --- words --------------------------------------------------------------------------------------------------------


def address_text(address: int) -> str:
    """Return an address in dotted decimals."""
    return str(IPv4Address(address))


def route_text(route: Route) -> str:
    """Return a route much as `ip route` prints it."""
    words = [str(route.destination) if route.destination.prefixlen else "default"]
    if route.gateway is not None:
        words.append(f"via {route.gateway}")
    words.append(f"dev {route.device}")
    if route.table != MAIN_TABLE:
        words.append(f"table {route.table}")
    if route.metric:
        words.append(f"metric {route.metric}")
    return " ".join(words)


def peer_text(peer: Peer, address: int) -> str:
    """Return a peer, the one of its AllowedIPs that holds the address, and its endpoint."""
    target = IPv4Address(address)
    held = max((net for net in peer.allowed_ips if target in net), key=lambda net: net.prefixlen, default=None)
    return f"peer {peer.host} (AllowedIPs {held}, endpoint {peer.endpoint or 'none'})"


def rule_text(rule: FirewallRule) -> str:
    """Return what a firewall rule matches: `172.16.0.0/24 to 172.16.0.0/12 from wg0 to wg0`."""
    words = []
    if rule.source is not None or rule.destination is not None:
        words.append(f"{rule.source or 'anywhere'} to {rule.destination or 'anywhere'}")
    if rule.in_interface is not None:
        words.append(f"in {rule.in_interface}")
    if rule.out_interface is not None:
        words.append(f"out {rule.out_interface}")
    if rule.protocol is not None:
        words.append(f"{rule.protocol} {rule.destination_port or 'any port'}")
    if rule.established:
        words.append("of established flows")
    return " ".join(words) or "everything"
