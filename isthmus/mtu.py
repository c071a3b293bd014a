"""The largest packets that really pass, between members and under every tunnel, and the `[mesh] mtu` that fits them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from isthmus.check import wake
from isthmus.errors import HostError
from isthmus.model import Inventory
from isthmus.packets import LEAST, Question, answering, ask, new_token
from isthmus.ports import PortRule, Service, port_rules
from isthmus.remote import Fleet
from isthmus.survey import Progress, silent

OVERHEAD = 80
"""Bytes between the mesh's MTU and the path's, as wg-quick has it: 40 IPv6, 8 UDP, 32 WireGuard.

Over IPv4 a full packet needs 60. The other 20 are what clouds and carriers add without saying so, and what keeps the
MTU right when an outer path becomes IPv6. (WireGuard pads data to 16 bytes, but never beyond the interface's MTU.)
"""

LEAST_MTU = 1280
"""The least that `[mesh] mtu` may be."""


@dataclass(frozen=True)
class Passage:
    """The largest packet, in bytes, that passes from one host to another in one piece."""

    source: str
    destination: str
    wanted: int
    found: int | None
    """None when none arrives, however small."""
    beyond: bool = False
    """A packet larger than wanted arrives too: the mesh interface has another MTU than `[mesh] mtu`."""

    @property
    def kept(self) -> bool:
        """As large as wanted, and not a byte more."""
        return self.found == self.wanted and not self.beyond


@dataclass(frozen=True)
class MtuReport:
    """`pairs` are ordered pairs of members by their mesh addresses, `tunnels` the outer paths between peers."""

    mtu: int
    pairs: tuple[Passage, ...]
    tunnels: tuple[Passage, ...]
    failures: Mapping[str, HostError]
    proposal: int | None
    """The `[mesh] mtu` that every path carries; None when the present one does, or when there is none."""

    @property
    def broken(self) -> tuple[Passage, ...]:
        """What is narrower than wanted, or wider."""
        return tuple(passage for passage in (*self.tunnels, *self.pairs) if not passage.kept)


def mtu(
    fleet: Fleet, inventory: Inventory, only: Collection[str] | None = None, progress: Progress = silent
) -> MtuReport:
    """Measure from the hosts of `only` (all by default), in parallel, a few round trips a host.

    Between members up to the mesh's MTU, and across sites one byte more. WireGuard's own packets may be cut in two on
    their way, so full packets may pass a path that is too narrow, until one drops fragments, as many do: hence the
    outer path of every tunnel is measured by itself, with DF, from peer to peer up to the MTU it needs.
    """
    sources = [name for name in inventory.hosts if only is None or name in only]
    rules = [rule for rule in port_rules(inventory) if rule.service is Service.WIREGUARD and rule.source in sources]
    token = new_token()
    questions = {name: [*_inner(inventory, name), *_outer(inventory, name, rules)] for name in sources}
    asked = [name for name in inventory.hosts if any(rule.host == name for rule in rules)]
    failures: dict[str, HostError] = {}
    with answering(fleet, asked, inventory.mesh.listen_port, token, failures):
        wake(fleet, inventory, sources)
        results = ask(fleet, questions, token, progress)
    pairs: list[Passage] = []
    tunnels: list[Passage] = []
    for name, result in results.items():
        if isinstance(result, HostError):
            failures[name] = result
            continue
        for question in questions[name]:
            kind, _, other = question.name.partition(":")
            found = result.get(question.name)
            if kind == "pair":
                beyond = result.get(f"beyond:{other}") is not None
                pairs.append(Passage(name, other, question.most, found, beyond))
            elif kind == "tunnel" and other not in failures:
                tunnels.append(Passage(name, other, question.most, found))
    proposal = propose(inventory, pairs, tunnels)
    return MtuReport(inventory.mesh.mtu, tuple(pairs), tuple(tunnels), failures, proposal)


def propose(inventory: Inventory, pairs: Iterable[Passage], tunnels: Iterable[Passage]) -> int | None:
    """Return the largest `[mesh] mtu` that every measured path carries, if it is less than the present one.

    Inside a site packets go by the NIC's MTU, which `[mesh] mtu` does not change.
    """
    sizes = [tunnel.found - OVERHEAD for tunnel in tunnels if tunnel.found is not None]
    site = {host.name: host.site for host in inventory.hosts.values()}
    sizes += [pair.found for pair in pairs if pair.found is not None and site[pair.source] != site[pair.destination]]
    best = min(sizes, default=inventory.mesh.mtu)
    return best if LEAST_MTU <= best < inventory.mesh.mtu else None


def _inner(inventory: Inventory, source: str) -> Iterable[Question]:
    most = inventory.mesh.mtu
    for host in inventory.hosts.values():
        if host.name == source:
            continue
        yield Question(f"pair:{host.name}", host.address, None, LEAST, most)
        if host.site != inventory.hosts[source].site:
            yield Question(f"beyond:{host.name}", host.address, None, most + 1, most + 1)


def _outer(inventory: Inventory, source: str, rules: Iterable[PortRule]) -> Iterable[Question]:
    for rule in rules:
        if rule.source == source:
            yield Question(f"tunnel:{rule.host}", rule.address, rule.port, LEAST, inventory.mesh.mtu + OVERHEAD)
