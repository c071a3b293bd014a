"""Is every port open that must be? Each is tried from where its traffic comes, with a fresh flow, mesh or no mesh."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from isthmus.check import reach
from isthmus.errors import HostError
from isthmus.model import Inventory
from isthmus.packets import Question, answering, ask, new_token
from isthmus.ports import WORKSTATION, PortRule, port_rules
from isthmus.remote import Fleet, Remote
from isthmus.remote.sockets import connect_tcp
from isthmus.survey import Progress, silent

CONNECT_S = 5
"""Seconds until a port that does not accept a connection is called closed: one lost SYN is sent again after 1 and 3."""
OTHER_WAY = "~/.ssh/config leads there another way"
SIZE = 100
"""Bytes of the packets that knock; small enough for any path."""


class State(Enum):
    """What became of a try."""

    OPEN = "open"
    CLOSED = "closed"
    UNTESTED = "untested"
    """An end of it could not be asked, or `inv` does not come this way."""


@dataclass(frozen=True)
class Tried:
    """One rule and what came of trying it; `reason` says more unless it is open."""

    rule: PortRule
    state: State
    reason: str = ""


@dataclass(frozen=True)
class PortReport:
    """Every rule in the order of `port_rules`; hosts that could not be asked apart."""

    tried: tuple[Tried, ...]
    failures: Mapping[str, HostError]

    @property
    def closed(self) -> tuple[Tried, ...]:
        """The rules that a security group or a host's firewall lacks."""
        return tuple(tried for tried in self.tried if tried.state is State.CLOSED)


def open_ports(
    fleet: Fleet, inventory: Inventory, only: Collection[str] | None = None, progress: Progress = silent
) -> PortReport:
    """Try the rules of the hosts in `only` (all by default).

    UDP: the source sends a datagram to WireGuard's port from a port of its own, and the host answers beside WireGuard.
    A handshake would prove nothing: gateways keep their flows alive from both ends, and stateful groups let those in,
    until a reboot or a pause shows that the port was closed all the time.
    """
    rules = [rule for rule in port_rules(inventory) if only is None or rule.host in only]
    found = _from_workstation(fleet, [rule for rule in rules if rule.source == WORKSTATION])
    shut = {rule.host for rule, tried in found.items() if tried.state is State.CLOSED}  # known; no use in asking them
    for rule in rules:
        for end in sorted({rule.host, rule.source} & shut) if rule not in found else ():
            found[rule] = Tried(rule, State.UNTESTED, f"{end} could not be asked")
    left = [rule for rule in rules if rule not in found]
    failures: dict[str, HostError] = {}
    found |= _datagrams(fleet, inventory, [rule for rule in left if rule.protocol == "udp"], failures, progress)
    found |= _connections(fleet, [rule for rule in left if rule.protocol == "tcp"], failures)
    return PortReport(tuple(found[rule] for rule in rules), failures)


def _from_workstation(fleet: Fleet, rules: Iterable[PortRule]) -> dict[PortRule, Tried]:
    """Connect from here, where ~/.ssh/config does not lead another way."""
    by_host = {rule.host: rule for rule in rules}

    def connect(remote: Remote) -> Tried:
        rule = by_host[remote.name]
        way = remote.way
        if way.via or way.command or (way.address, way.port) != (str(rule.address), rule.port):
            return Tried(rule, State.UNTESTED, OTHER_WAY)
        try:
            connect_tcp(str(rule.address), rule.port, CONNECT_S).close()
        except OSError as error:
            return Tried(rule, State.CLOSED, error.strerror or str(error))
        return Tried(rule, State.OPEN)

    results = fleet.each(by_host, connect)
    return {result.rule: result for result in results.values() if isinstance(result, Tried)}


def _datagrams(
    fleet: Fleet,
    inventory: Inventory,
    rules: Collection[PortRule],
    failures: dict[str, HostError],
    progress: Progress,
) -> dict[PortRule, Tried]:
    token = new_token()
    asked = _hosts(inventory, (rule.host for rule in rules))
    questions = {
        source: [Question(rule.host, rule.address, rule.port, SIZE, SIZE) for rule in rules if rule.source == source]
        for source in _hosts(inventory, (rule.source for rule in rules))
    }
    with answering(fleet, asked, inventory.mesh.listen_port, token, failures):
        results = ask(fleet, questions, token, progress)
    return {rule: _judged(rule, results[rule.source], failures) for rule in rules}


def _connections(fleet: Fleet, rules: Collection[PortRule], failures: dict[str, HostError]) -> dict[PortRule, Tried]:
    """Let gateways connect to hosts without a public address."""
    targets = {
        source: [(rule.host, rule.address, str(rule.port)) for rule in rules if rule.source == source]
        for source in {rule.source: None for rule in rules}
    }
    ways = fleet.each([rule.host for rule in rules], lambda remote: remote.way)
    results = fleet.each(targets, lambda remote: reach(remote, targets[remote.name], count=1, wait_s=CONNECT_S))
    found = {}
    for rule in rules:
        way = ways[rule.host]
        used = not isinstance(way, HostError) and rule.source in way.via
        tried = _judged(rule, results[rule.source], failures, tcp=True)
        found[rule] = tried if used else Tried(rule, State.UNTESTED, OTHER_WAY)
    return found


def _judged(
    rule: PortRule, result: Mapping[str, float | None] | HostError, failures: dict[str, HostError], *, tcp: bool = False
) -> Tried:
    if isinstance(result, HostError):
        failures[rule.source] = result
        return Tried(rule, State.UNTESTED, f"{rule.source} could not be asked")
    if result.get(rule.host) is not None:
        return Tried(rule, State.OPEN)
    if not tcp and rule.host in failures:
        return Tried(rule, State.UNTESTED, f"{rule.host} could not be asked")
    return Tried(rule, State.CLOSED, "no connection" if tcp else "no datagram arrives")


def _hosts(inventory: Inventory, names: Iterable[str]) -> list[str]:
    """Return the hosts named, once each, in the order of the file."""
    wanted = set(names)
    return [name for name in inventory.hosts if name in wanted]
