"""Every check in one run over one set of connections: is all as it should be?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from isthmus.check import PingReport, ping
from isthmus.errors import HostError
from isthmus.model import Inventory
from isthmus.mtu import MtuReport, mtu
from isthmus.open_ports import PortReport, open_ports
from isthmus.paths import PathReport, paths
from isthmus.remote import Fleet
from isthmus.survey import Progress, silent


@dataclass(frozen=True)
class Checkup:
    """What every check found."""

    ping: PingReport
    path: PathReport
    mtu: MtuReport
    ports: PortReport

    @property
    def failures(self) -> Mapping[str, HostError]:
        """The hosts that some check could not ask, with the first reason."""
        return {**self.ports.failures, **self.mtu.failures, **self.path.failures, **self.ping.failures}

    @property
    def passed(self) -> bool:
        """Every check found everything right and could ask everybody."""
        astray = any(not pair.kept for pair in self.path.pairs)
        broken = self.ping.broken or astray or self.path.broken or self.mtu.broken or self.ports.closed
        return not (broken or self.failures)


def check_up(
    fleet: Fleet, inventory: Inventory, only: Collection[str] | None = None, progress: Progress = silent
) -> Checkup:
    """Run the checks one after the other, so that none disturbs what another measures."""
    return Checkup(
        ping=ping(fleet, inventory, only, progress=progress),
        path=paths(fleet, inventory, only, progress),
        mtu=mtu(fleet, inventory, only, progress),
        ports=open_ports(fleet, inventory, only, progress),
    )
