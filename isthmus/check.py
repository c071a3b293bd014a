"""Asks the running mesh: does every pair reach each other, and by which path?"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from isthmus.errors import HostError
from isthmus.host_scripts import host_script
from isthmus.model import Inventory
from isthmus.remote import Fleet, Remote
from isthmus.survey import Progress

PING_COUNT = 3
ANSWER_S = 6
"""Seconds to wait for an answer: a lost WireGuard handshake is tried again after 5 s (REKEY_TIMEOUT)."""
WAKE_S = 1
"""Seconds to wait for the answer that is only to wake a tunnel: where all is well it takes milliseconds."""
SPARE_S = 30
"""What starting a ping to each of hundreds of hosts may take."""


@dataclass(frozen=True)
class Pair:
    """One measurement. `rtt_ms` is the mean round-trip time; None when nothing came back."""

    source: str
    destination: str
    rtt_ms: float | None

    @property
    def delivered(self) -> bool:
        """An answer came back."""
        return self.rtt_ms is not None


@dataclass(frozen=True)
class PingReport:
    """Every ordered pair of members, then every resource from every member; hosts that could not be asked apart."""

    pairs: tuple[Pair, ...]
    failures: Mapping[str, HostError]

    @property
    def broken(self) -> tuple[Pair, ...]:
        """The pairs without an answer."""
        return tuple(pair for pair in self.pairs if not pair.delivered)


REFUSED = "refused"
"""What reach.sh prints of a port where nothing listens: the packet arrived all the same."""


def _round_trips(told: str) -> dict[str, float | str | None]:
    """Read what reach.sh prints: `NAME MILLISECONDS`, `NAME refused`, or `NAME -`."""
    answers = [line.split() for line in told.splitlines()]
    return {name: None if rtt == "-" else rtt if rtt == REFUSED else float(rtt) for name, rtt in answers}


def _reach_script(targets: Iterable[tuple[str, IPv4Address | str, str]], count: int, wait_s: int) -> str:
    lines = (f"to {shlex.quote(name)} {address} {port}\n" for name, address, port in targets)
    return f"{host_script('reach', count=count, wait_s=wait_s)}{''.join(lines)}wait\n"


def reach(
    remote: Remote, targets: Collection[tuple[str, IPv4Address | str, str]], count: int, wait_s: int
) -> dict[str, float | None]:
    """Let a host reach (name, address, TCP port or `-` for ping) each; return by name the milliseconds, None if not."""
    found = knock(remote, targets, count, wait_s)
    return {name: None if isinstance(rtt, str) else rtt for name, rtt in found.items()}


def knock(
    remote: Remote, targets: Collection[tuple[str, IPv4Address | str, str]], count: int, wait_s: int
) -> dict[str, float | str | None]:
    """Do as `reach` does, and return REFUSED where a host answers that nothing listens at that port."""
    # ping goes on until all are answered, or `count` seconds after the last could have been.
    told = remote.run(_reach_script(targets, count, wait_s), timeout=wait_s + count + SPARE_S)
    try:
        return _round_trips(told)
    except ValueError as error:
        raise HostError(remote.name, f"reach: the answer makes no sense: {error}") from None


def wake(fleet: Fleet, inventory: Inventory, sources: Collection[str]) -> None:
    """Let leaves speak first, so that only one end begins the handshake between a leaf and its gateway.

    Where both begin at the same moment, as when everybody pings everybody, each gives up its own for the other's: both
    fail and are tried again after 5 s. What goes wrong here is seen again, and told, when it is measured.
    """
    gateways = [inventory.hosts[site.gateway] for site in inventory.sites.values()]
    far = {site: next((host for host in gateways if host.site != site), None) for site in inventory.sites}
    leaves = [name for name in sources if not inventory.is_gateway(name) and far[inventory.hosts[name].site]]

    def wake(remote: Remote) -> None:
        host = far[inventory.hosts[remote.name].site]
        assert host is not None
        reach(remote, [(host.name, host.address, "-")], 1, WAKE_S)

    fleet.each(leaves, wake)


def ping(
    fleet: Fleet,
    inventory: Inventory,
    only: Collection[str] | None = None,
    count: int = PING_COUNT,
    progress: Progress = lambda _host, _what: None,
) -> PingReport:
    """Measure from the hosts of `only` (all by default) to every other member and every resource, in parallel.

    A resource with a port is reached by a TCP connection, since managed databases answer no ping.
    """
    sources = [name for name in inventory.hosts if only is None or name in only]
    failures: dict[str, HostError] = {}
    pairs: list[Pair] = []

    def measure(remote: Remote) -> tuple[Pair, ...]:
        targets = [(host.name, host.address, "-") for host in inventory.hosts.values() if host.name != remote.name]
        targets += [(r.name, r.address, str(r.port or "-")) for r in inventory.resources.values()]
        rtts = reach(remote, targets, count, ANSWER_S)
        return tuple(Pair(remote.name, name, rtts.get(name)) for name, _, _ in targets)

    wake(fleet, inventory, sources)
    results = fleet.each(sources, measure, on_done=lambda host, _result: progress(host, "measured"))
    for name in sources:
        result = results[name]
        if isinstance(result, HostError):
            failures[name] = result
        else:
            pairs += result
    return PingReport(tuple(pairs), failures)
