"""Is every port open that must be? Each is tried from where its traffic comes, with a fresh flow, mesh or no mesh."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum

from isthmus.check import REFUSED, knock
from isthmus.errors import HostError
from isthmus.model import Inventory
from isthmus.packets import Question, answering, ask, new_token
from isthmus.ports import WORKSTATION, PortRule, Service, port_rules
from isthmus.remote import Fleet, Remote
from isthmus.remote.sockets import connect_tcp
from isthmus.survey import Progress, silent

CONNECT_S = 5
"""Seconds until a port that does not accept a connection is called closed: one lost SYN is sent again after 1 and 3."""
OTHER_WAY = "~/.ssh/config leads there another way"
NOTHING = {"tcp": "no connection", "udp": "no datagram arrives", "icmp": "no answer"}
"""What there is to say where a packet is lost."""
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
    """One rule and what came of trying it; `reason` says more."""

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

    UDP: the source sends a datagram from a port of its own, and the host answers beside WireGuard, and beside flannel.
    A handshake would prove nothing: gateways keep their flows alive from both ends, and stateful groups let those in,
    until a reboot or a pause shows that the port was closed all the time.
    TCP: a connection; where Kubernetes does not run yet, that it is refused tells as well that the port is open.
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
    found |= _answers(fleet, [rule for rule in left if rule.protocol != "udp"], failures)
    return PortReport(tuple(found[rule] for rule in rules), failures)


def _from_workstation(fleet: Fleet, rules: Iterable[PortRule]) -> dict[PortRule, Tried]:
    """Connect from here, where ~/.ssh/config does not lead another way."""
    by_host = {rule.host: rule for rule in rules}

    def connect(remote: Remote) -> Tried:
        rule = by_host[remote.name]
        way = remote.way
        assert rule.port is not None, "it is SSH's"
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
    questions = {
        source: [Question(_name(rule), rule.address, rule.port, SIZE, SIZE) for rule in rules if rule.source == source]
        for source in _hosts(inventory, (rule.source for rule in rules))
    }
    asked: dict[int, set[str]] = {}
    for rule in rules:
        if rule.port is not None:
            asked.setdefault(rule.port, set()).add(rule.host)
    with ExitStack() as stack:
        for port, hosts in asked.items():
            stack.enter_context(answering(fleet, _hosts(inventory, hosts), port, token, failures))
        results = ask(fleet, questions, token, progress)
    return {rule: _judged(rule, results[rule.source], failures) for rule in rules}


def _answers(fleet: Fleet, rules: Collection[PortRule], failures: dict[str, HostError]) -> dict[PortRule, Tried]:
    """Let hosts connect to each other's TCP ports, and ping."""
    targets = {
        source: [(_name(rule), rule.address, str(rule.port or "-")) for rule in rules if rule.source == source]
        for source in {rule.source: None for rule in rules}
    }
    logins = [rule.host for rule in rules if rule.service is Service.SSH]
    ways = fleet.each(logins, lambda remote: remote.way)
    results = fleet.each(targets, lambda remote: knock(remote, targets[remote.name], count=1, wait_s=CONNECT_S))
    found = {}
    for rule in rules:
        way = ways.get(rule.host)
        if rule.service is Service.SSH and (isinstance(way, HostError) or way is None or rule.source not in way.via):
            found[rule] = Tried(rule, State.UNTESTED, OTHER_WAY)
        else:
            found[rule] = _judged(rule, results[rule.source], failures)
    return found


def _judged(
    rule: PortRule, result: Mapping[str, float | str | None] | HostError, failures: dict[str, HostError]
) -> Tried:
    if isinstance(result, HostError):
        failures[rule.source] = result
        return Tried(rule, State.UNTESTED, f"{rule.source} could not be asked")
    answer = result.get(_name(rule))
    if answer == REFUSED and rule.service is Service.KUBERNETES:
        return Tried(rule, State.OPEN, "nothing listens there yet")
    if answer is not None and answer != REFUSED:
        return Tried(rule, State.OPEN)
    if rule.protocol == "udp" and rule.host in failures:
        return Tried(rule, State.UNTESTED, f"{rule.host} could not be asked")
    return Tried(rule, State.CLOSED, "connection refused" if answer == REFUSED else NOTHING[rule.protocol])


def _name(rule: PortRule) -> str:
    """Return what a source's targets are told apart by."""
    return f"{rule.host}:{rule.admits}"


def _hosts(inventory: Inventory, names: Iterable[str]) -> list[str]:
    """Return the hosts named, once each, in the order of the file."""
    wanted = set(names)
    return [name for name in inventory.hosts if name in wanted]
