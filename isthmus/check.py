"""Asks the running mesh: does every pair reach each other, and by which path?"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from isthmus.errors import HostError
from isthmus.host_scripts import host_script
from isthmus.model import Inventory
from isthmus.remote import Fleet, Remote
from isthmus.survey import Progress

PING_COUNT = 3
ANSWER_S = 6
"""Seconds to wait for an answer: a lost WireGuard handshake is tried again after 5 s (REKEY_TIMEOUT)."""
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


def _round_trips(told: str) -> dict[str, float | None]:
    """Read what reach.sh prints: `NAME MILLISECONDS`, or `NAME -`."""
    answers = [line.split() for line in told.splitlines()]
    return {name: None if rtt == "-" else float(rtt) for name, rtt in answers}


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
        script = host_script("reach", count=count, wait_s=ANSWER_S)
        targets = [(host.name, host.address, "-") for host in inventory.hosts.values() if host.name != remote.name]
        targets += [(r.name, r.address, str(r.port or "-")) for r in inventory.resources.values()]
        script += "".join(f"to {shlex.quote(name)} {address} {port}\n" for name, address, port in targets)
        # ping goes on until all are answered, or `count` seconds after the last could have been.
        told = remote.run(f"{script}wait\n", timeout=ANSWER_S + count + SPARE_S)
        try:
            rtts = _round_trips(told)
        except ValueError as error:
            raise HostError(remote.name, f"reach: the answer makes no sense: {error}") from None
        return tuple(Pair(remote.name, name, rtts.get(name)) for name, _, _ in targets)

    results = fleet.each(sources, measure, on_done=lambda host, _result: progress(host, "measured"))
    for name in sources:
        result = results[name]
        if isinstance(result, HostError):
            failures[name] = result
        else:
            pairs += result
    return PingReport(tuple(pairs), failures)
