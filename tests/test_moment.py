"""Which changes wait for one moment, and how long."""

from __future__ import annotations

import pytest

from isthmus.moment import moment_for
from isthmus.plan import Change, HostPlan, Kind

MOVED = Change(
    Kind.PEER, "n1", ("allowed-ips 10.0.0.0/24", "endpoint (none)"), ("allowed-ips 10.0.0.1/32", "endpoint (none)")
)
OTHER_ENDPOINT = Change(
    Kind.PEER, "n1", ("allowed-ips 10.0.0.0/24", "endpoint a:1"), ("allowed-ips 10.0.0.0/24", "endpoint b:1")
)
NEW = Change(Kind.PEER, "n2", (), ("allowed-ips 10.0.0.2/32", "endpoint (none)"))


def plans(*changes: Change) -> list[HostPlan]:
    return [HostPlan(f"h{number}", (change,), (), False, {}, ()) for number, change in enumerate(changes)]


@pytest.mark.parametrize("changes", [(), (MOVED,), (MOVED, NEW, OTHER_ENDPOINT), (NEW, NEW), (OTHER_ENDPOINT,) * 2])
def test_what_no_two_hosts_must_do_together_waits_for_nothing(changes: tuple[Change, ...]) -> None:
    assert moment_for(plans(*changes), 120, 1000.5) == 0


@pytest.mark.parametrize(
    ("hosts", "undo_after", "moment"), [(2, 120, 1003), (20, 120, 1005), (1000, 120, 1009), (1000, 8, 1003)]
)
def test_hosts_between_which_networks_move_have_time_to_get_ready(hosts: int, undo_after: int, moment: int) -> None:
    assert moment_for(plans(*[MOVED] * hosts), undo_after, 1000.5) == moment
