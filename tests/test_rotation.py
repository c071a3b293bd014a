"""Who gets a new key in which round, on values; and hosts in memory that get one together or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_host import FakeFleet

from isthmus.apply import UNDO_AFTER_S, mesh_up
from isthmus.compile import compile_mesh
from isthmus.errors import IsthmusError
from isthmus.inventory import load_inventory
from isthmus.rotate import rotate_keys
from isthmus.rotation import HOLD_S, lines_of, movable, rounds_of
from isthmus.survey import Report, mesh_plan

INVENTORY = load_inventory(Path(__file__).parent / "golden" / "two_gateways" / "hosts.toml")
CONFIGS = compile_mesh(INVENTORY)
HOSTS = list(INVENTORY.hosts)


# --- rounds -------------------------------------------------------------------------------------------------------


def test_leaves_come_first_and_no_two_peers_are_in_one_round() -> None:
    rounds = rounds_of(INVENTORY, HOSTS)
    assert [name for names in rounds for name in names if INVENTORY.is_gateway(name)] == ["n1", "n2", "s1"]
    assert sorted(name for names in rounds for name in names) == sorted(HOSTS)
    for names in rounds:
        peers = {peer.host for name in names for peer in CONFIGS[name].peers}
        assert not peers & set(names)
    assert rounds_of(INVENTORY, ["s1"]) == [["s1"]]
    assert rounds_of(INVENTORY, []) == []


def test_each_host_changes_its_own_key_and_a_little_later_its_peers_take_it() -> None:
    old, new = ({name: f"{name}-{age}" for name in HOSTS} for age in ("old", "new"))
    rounds = [["n3", "s2"], ["n1"], ["n2"], ["s1"]]
    assert lines_of(CONFIGS["n3"], rounds, old, new) == [
        "1 own",
        f"{2 + HOLD_S} peer n1-old n1-new",
        f"{3 + HOLD_S} peer n2-old n2-new",
    ]
    assert lines_of(CONFIGS["s1"], rounds, old, new)[-1] == "4 own"
    assert lines_of(CONFIGS["s2"], [["n1"]], old, new) == []


def test_who_cannot_tell_all_peers_keeps_its_key() -> None:
    assert movable(CONFIGS, HOSTS, HOSTS) == (HOSTS, {})
    well = [name for name in HOSTS if name != "s2"]
    hosts, kept = movable(CONFIGS, HOSTS, well)
    assert hosts == [name for name in well if name != "s1"]
    assert kept == {"s1": "keeps its key: its peer s2 could not be told the new one"}
    assert movable(CONFIGS, ["n3"], well) == (["n3"], {})


# --- on hosts in memory -------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    """The two gateways' hosts, up, and every tunnel in use."""
    fleet = FakeFleet(INVENTORY)
    for module in ("survey", "apply", "rotate"):
        monkeypatch.setattr(f"isthmus.{module}.time", fleet.clock)
    assert mesh_up(INVENTORY, fleet).failures == {}  # type: ignore[arg-type]
    for host in fleet.hosts.values():
        assert host.state.running is not None
        for peer in host.state.running.peers.values():
            peer.latest_handshake = int(fleet.clock.now) - 100
    return fleet


def rotated(fleet: FakeFleet, *only: str) -> Report:
    return rotate_keys(INVENTORY, fleet, only or None)  # type: ignore[arg-type]


def private_keys(fleet: FakeFleet) -> dict[str, str | None]:
    return {name: host.private_key for name, host in fleet.hosts.items()}


def renewed(fleet: FakeFleet, before: dict[str, str | None]) -> list[str]:
    return [name for name, key in private_keys(fleet).items() if key != before[name]]


def assert_settled(fleet: FakeFleet) -> None:
    """Nobody is held, no plan finds anything to do, and the timers, had they been left, would find nothing."""
    fleet.clock.sleep(UNDO_AFTER_S + 100)
    assert [host.transaction for host in fleet.hosts.values() if host.transaction] == []
    fleet.reconnect(HOSTS)
    assert not mesh_plan(INVENTORY, fleet).waiting  # type: ignore[arg-type]


def test_all_hosts_get_new_keys_and_nothing_is_left_to_do(fleet: FakeFleet) -> None:
    before = private_keys(fleet)
    report = rotated(fleet)
    assert (report.failures, list(report.changed)) == ({}, HOSTS)
    assert renewed(fleet, before) == HOSTS
    assert len({host.moment for host in fleet.hosts.values()}) == 1, "not together"
    assert_settled(fleet)
    assert renewed(fleet, before) == HOSTS


def test_only_some_get_new_keys_and_only_their_peers_take_part(fleet: FakeFleet) -> None:
    before = private_keys(fleet)
    fleet.calls.clear()
    report = rotated(fleet, "n3")
    assert (report.failures, report.changed, renewed(fleet, before)) == ({}, ("n3",), ["n3"])
    assert set(fleet.ran("apply", "confirm")) == {"n1", "n2", "n3"}
    assert_settled(fleet)


def test_a_host_that_is_off_keeps_its_key_and_so_do_its_peers(fleet: FakeFleet) -> None:
    fleet["s2"].unreachable = "no answer within 20 s"
    fleet.reconnect(["s2"])
    before = private_keys(fleet)
    report = rotated(fleet)
    assert {name: error.message for name, error in report.failures.items()} == {
        "s2": "no answer within 20 s",
        "s1": "keeps its key: its peer s2 could not be told the new one",
    }
    assert list(report.changed) == renewed(fleet, before) == [name for name in HOSTS if name not in ("s1", "s2")]
    fleet["s2"].unreachable = None
    assert_settled(fleet)


BROKEN: dict[str, tuple[Callable[[FakeFleet], object], str]] = {
    "a full disk": (lambda fleet: setattr(fleet["s1"], "disk_full", True), "apply: status 1: cannot save a new key"),
    "a wrong clock": (
        lambda fleet: setattr(fleet["s1"], "clock_is_off", -30.0),
        "its clock is -30.0 s off: set it first (NTP)",
    ),
    "a change that fails": (
        lambda fleet: setattr(fleet["s1"], "sync_says", "no"),
        "apply: status 1: no; the old state was put back",
    ),
    "a host that hears nobody": (
        lambda fleet: setattr(fleet["s1"], "deaf", True),
        "does not hear n1, n2, s2 with the new keys",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_when_one_fails_all_keep_their_old_keys(fleet: FakeFleet, how: str) -> None:
    before, keys = str(fleet), private_keys(fleet)
    breaks, says = BROKEN[how]
    breaks(fleet)
    report = rotated(fleet)
    assert {name: error.message for name, error in report.failures.items()} == {"s1": says}
    assert report.changed == ()
    assert (renewed(fleet, keys), str(fleet)) == ([], before)
    fleet["s1"].disk_full = False
    assert_settled(fleet)


def test_a_host_that_is_cut_off_by_its_new_key_is_put_back_by_its_timer_and_the_others_at_once(
    fleet: FakeFleet,
) -> None:
    keys = private_keys(fleet)
    fleet["s2"].cut_off_by_change = True
    report = rotated(fleet)
    assert set(report.failures) == {"s2"}
    assert "has its old key back within" in report.failures["s2"].message
    assert renewed(fleet, keys) == ["s2"]
    assert_settled(fleet)
    assert renewed(fleet, keys) == []


def test_a_run_that_dies_half_way_leaves_all_hosts_to_their_timers(fleet: FakeFleet) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    keys = private_keys(fleet)
    fleet["n3"].before["confirm"] = die
    with pytest.raises(KeyboardInterrupt):
        rotated(fleet)
    assert renewed(fleet, keys) == HOSTS
    assert_settled(fleet)
    assert renewed(fleet, keys) == []


def test_another_run_is_waited_for(fleet: FakeFleet) -> None:
    fleet["n3"].begin_anothers_run("bob@desk (2)", 40)
    keys = private_keys(fleet)
    report = rotated(fleet)
    assert (report.failures, renewed(fleet, keys)) == ({}, HOSTS)


def test_another_run_that_begins_meanwhile_keeps_its_host_and_ours_are_taken_back(fleet: FakeFleet) -> None:
    def once() -> None:
        fleet["n3"].before.clear()
        fleet["n3"].begin_anothers_run("bob@desk (2)", 40)

    keys = private_keys(fleet)
    fleet["n3"].before["apply"] = once
    report = rotated(fleet)
    assert (report.failures, renewed(fleet, keys)) == ({}, HOSTS)
    assert_settled(fleet)


def test_nothing_begins_while_changes_wait(fleet: FakeFleet) -> None:
    fleet["n2"].state.sysctls["net.ipv4.ip_forward"] = "0"
    before = str(fleet)
    with pytest.raises(IsthmusError, match=r"^not begun: changes are waiting on n2: `inv mesh.up` first$"):
        rotated(fleet)
    assert str(fleet) == before
