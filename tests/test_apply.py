"""Runs against hosts in memory: what is done, in which order, and what is left when something fails in the middle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_host import FakeFleet, FakeHost, FakePeer, Running, ScriptError
from hypothesis import given, settings
from strategies import inventories

from isthmus.apply import mesh_down, mesh_up
from isthmus.errors import BrokenPromiseError, UnreachableError, UnsupportedError
from isthmus.inventory import parse_inventory
from isthmus.model import Inventory
from isthmus.survey import Report, known_keys, mesh_plan

ARTICLE = (Path(__file__).parent.parent / "hosts.toml").read_text(encoding="utf-8")
N4 = '\n[hosts.n4]\nsite = "nanjing"\naddress = "172.16.0.4"\n'
BEIJING = """
[sites.beijing]
subnet = "172.20.0.0/24"
gateways = ["b1"]
[hosts.b1]
site = "beijing"
address = "172.20.0.1"
public = "198.51.100.1"
"""


def article(*changed: tuple[str, str], more: str = "") -> Inventory:
    """Return the article's inventory with texts replaced that must be in it."""
    text = ARTICLE
    for old, new in changed:
        assert old in text
        text = text.replace(old, new)
    return parse_inventory(text + more, "hosts.toml")


@pytest.fixture
def fleet() -> FakeFleet:
    """The article's four hosts, bare."""
    return FakeFleet(article())


@pytest.fixture
def meshed(fleet: FakeFleet) -> FakeFleet:
    """The same with their mesh up."""
    assert up(fleet).failures == {}
    fleet.calls.clear()
    fleet.scripts.clear()
    return fleet


@pytest.fixture(autouse=True)
def nobody_waits_for_real(fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.survey.time", fleet.clock)
    monkeypatch.setattr("isthmus.apply.time", fleet.clock)


def up(fleet: FakeFleet, only: list[str] | None = None, undo_after: int = 60) -> Report:
    return mesh_up(fleet.inventory, fleet, only, undo_after)  # type: ignore[arg-type]


def plan(fleet: FakeFleet, only: list[str] | None = None) -> Report:
    return mesh_plan(fleet.inventory, fleet, only)  # type: ignore[arg-type]


def down(fleet: FakeFleet, only: list[str] | None = None, forget_keys: bool = False) -> Report:
    return mesh_down(fleet.inventory, fleet, only, forget_keys)  # type: ignore[arg-type]


def fails(words: str, status: int | None = 1) -> Callable[[], None]:
    def fail() -> None:
        raise ScriptError(words, status)

    return fail


def messages(report: Report) -> dict[str, str]:
    return {name: error.message for name, error in report.failures.items()}


def peers_of(fleet: FakeFleet, name: str) -> list[str]:
    """Return the hosts in a host's wg-quick file."""
    text, _ = fleet[name].state.files["/etc/wireguard/wg0.conf"]
    return [line.removeprefix("# ") for line in text.splitlines()[1:] if line.startswith("# ")]


# --- it works -----------------------------------------------------------------------------------------------------


def test_the_first_run_makes_a_mesh_of_bare_hosts_and_the_second_finds_nothing_to_do(fleet: FakeFleet) -> None:
    report = up(fleet)
    assert report.failures == {}
    assert report.notes == ()
    assert report.changed == ("n1", "n2", "n3", "s1")
    assert {name: len(one.changes) for name, one in report.plans.items()} == {"n1": 11, "n2": 10, "n3": 10, "s1": 11}
    assert [name for name, host in fleet.hosts.items() if host.transaction] == []
    assert [fleet[name].state.enabled for name in fleet.hosts] == [True] * 4
    assert sorted(peers_of(fleet, "n1")) == ["n2", "n3", "s1"]
    assert peers_of(fleet, "n2") == ["n1"]

    before = str(fleet)
    fleet.calls.clear()
    report = up(fleet)
    assert report.changed == report.waiting == ()
    assert fleet.ran("prepare", "apply", "confirm", "undo") == []
    assert len(fleet.calls) == 4, "one round trip a host"
    assert str(fleet) == before


def test_every_host_is_observed_before_one_is_changed_and_confirmed_after_a_fresh_probe(fleet: FakeFleet) -> None:
    up(fleet)
    assert [script for host, script in fleet.calls if host == "n2"] == ["probe", "prepare", "apply", "probe", "confirm"]
    order = [script for _, script in fleet.calls]
    assert order[:4] == ["probe"] * 4
    assert order[4:8] == ["prepare"] * 4, "every key is made before the first file is written"
    assert order[8:12] == ["apply"] * 4


def test_a_plan_changes_nothing_and_says_what_up_would_do(fleet: FakeFleet) -> None:
    before = str(fleet)
    planned = plan(fleet)
    assert str(fleet) == before
    assert {script for _, script in fleet.calls} == {"probe"}
    assert planned.waiting == ("n1", "n2", "n3", "s1")
    assert planned.plans == up(fleet).plans


def test_keys_are_made_once_and_kept(meshed: FakeFleet) -> None:
    keys = {name: host.private_key for name, host in meshed.hosts.items()}
    meshed["n2"].state.files.clear()
    meshed["n2"].state.running = None
    assert up(meshed).changed == ("n2",)
    assert {name: host.private_key for name, host in meshed.hosts.items()} == keys


def _remove_a_peer(fleet: FakeFleet) -> None:
    running = fleet["n1"].state.running
    assert running
    running.peers.pop(fleet["n3"].public_key or "")


def _edit_the_file(fleet: FakeFleet) -> None:
    text, mode = fleet["n1"].state.files[fleet["n1"].conf]
    fleet["n1"].state.files[fleet["n1"].conf] = (text.replace("MTU = 1420", "MTU = 1280"), mode)


def _stop_the_service(fleet: FakeFleet) -> None:
    fleet["n1"].state.running = None
    fleet["n1"].state.routes = set()


@pytest.mark.parametrize(
    ("by_hand", "kinds"),
    [
        (_remove_a_peer, ["peer n3"]),
        (_edit_the_file, ["file /etc/wireguard/wg0.conf"]),
        (_stop_the_service, ["interface wg0"]),
        (lambda fleet: fleet["n1"].state.routes.pop(), None),
        (lambda fleet: fleet["n1"].state.chains.pop(("mangle", "ISTHMUS-FORWARD")), None),
        (lambda fleet: fleet["n1"].state.sysctls.update({"net.ipv4.ip_forward": "0"}), ["sysctl net.ipv4.ip_forward"]),
        (lambda fleet: setattr(fleet["n1"].state, "enabled", False), ["unit wg-quick@wg0"]),
    ],
)
def test_drift_is_seen_on_its_host_and_repaired_there_alone(
    meshed: FakeFleet, by_hand: Callable[[FakeFleet], None], kinds: list[str] | None
) -> None:
    before = str(meshed)
    by_hand(meshed)
    assert str(meshed) != before
    report = plan(meshed)
    assert report.waiting == ("n1",)
    if kinds:
        assert [f"{change.kind.value} {change.name}" for change in report.plans["n1"].changes] == kinds
    assert up(meshed).changed == ("n1",)
    assert meshed.ran("prepare", "apply", "confirm") == ["n1", "n1"]
    assert str(meshed) == before


@pytest.mark.parametrize(
    "by_hand",
    [
        lambda host: host.packages.discard("iputils-ping"),
        lambda host: setattr(host, "key_mode", 0o644),
    ],
)
def test_a_host_that_only_had_to_be_prepared_is_told_as_changed(
    meshed: FakeFleet, by_hand: Callable[[FakeHost], None]
) -> None:
    before = str(meshed)
    by_hand(meshed["n2"])
    assert plan(meshed).waiting == ("n2",)
    assert up(meshed).changed == ("n2",)
    assert str(meshed) == before
    assert up(meshed).changed == ()


# --- hosts that cannot be reached ---------------------------------------------------------------------------------


def test_the_others_are_done_when_a_leaf_cannot_be_reached_and_it_follows_later(fleet: FakeFleet) -> None:
    fleet["n2"].unreachable = "connection refused"
    report = up(fleet)
    assert messages(report) == {"n2": "connection refused"}
    assert report.changed == ("n1", "n3", "s1")
    assert "n2" not in report.plans
    assert report.notes == (
        "n2: its public key is not known yet; the others get it with the next mesh.up that reaches n2",
    )
    assert peers_of(fleet, "n1") == ["n3", "s1"]

    fleet["n2"].unreachable = None
    fleet.reconnect(["n2"])
    report = up(fleet)
    assert report.failures == {}
    assert report.changed == ("n1", "n2"), "n1 gets its new peer"
    assert plan(fleet).waiting == ()


def test_a_host_that_is_off_keeps_its_place_in_its_neighbours_files(meshed: FakeFleet) -> None:
    before = str(meshed)
    meshed["n2"].unreachable = "no answer within 10 s"
    meshed.reconnect(meshed.hosts)
    report = up(meshed)
    assert messages(report) == {"n2": "no answer within 10 s"}
    assert report.changed == ()
    assert report.notes == ()
    assert str(meshed) == before
    assert known_keys(report.facts)["n2"] == meshed["n2"].public_key


def test_a_gateway_that_cannot_be_reached_holds_up_its_leaves_and_not_the_other_site(fleet: FakeFleet) -> None:
    fleet["n1"].unreachable = "connection refused"
    report = up(fleet)
    assert messages(report) == {
        "n1": "connection refused",
        "n3": "its gateway n1 cannot be reached: connection refused",
        "n2": "not changed: the public key of its gateway n1 is unknown",
    }
    error = report.failures["n3"]
    assert isinstance(error, UnreachableError)
    assert error.gateway == "n1"
    assert report.changed == ("s1",)
    assert fleet["n2"].state.files == {}

    fleet["n1"].unreachable = None
    fleet.reconnect(["n1", "n3"])
    report = up(fleet)
    assert report.failures == {}
    assert plan(fleet).waiting == ()


def test_leaves_whose_gateway_is_off_keep_what_they_know_of_it(meshed: FakeFleet) -> None:
    meshed["n1"].unreachable = "connection refused"
    meshed.reconnect(meshed.hosts)
    meshed["n2"].state.enabled = False
    report = up(meshed)
    assert set(report.failures) == {"n1", "n3"}
    assert report.changed == ("n2",)
    assert peers_of(meshed, "n2") == ["n1"]


def test_a_host_that_prints_nonsense_is_one_line_and_the_others_are_done(fleet: FakeFleet) -> None:
    fleet["n3"].state.sysctls["net.ipv4.ip_forward"] = "never"
    report = up(fleet)
    assert messages(report) == {
        "n3": "the probe's answer makes no sense: invalid literal for int() with base 10: 'never'"
    }
    assert report.changed == ("n1", "n2", "s1")


# --- failures in the middle ---------------------------------------------------------------------------------------


def test_a_host_whose_packages_cannot_be_installed_is_left_alone_and_the_others_do_without_it(fleet: FakeFleet) -> None:
    before = str(fleet["n2"])
    fleet["n2"].apt_says = "E: You don't have enough free space in /var/cache/apt/archives/."
    report = up(fleet)
    assert messages(report) == {
        "n2": "prepare: status 100: E: You don't have enough free space in /var/cache/apt/archives/."
    }
    assert report.changed == ("n1", "n3", "s1")
    assert peers_of(fleet, "n1") == ["n3", "s1"]
    assert str(fleet["n2"]) == before
    assert "n2" not in fleet.ran("apply")


def test_a_gateway_whose_packages_cannot_be_installed_stops_its_leaves(fleet: FakeFleet) -> None:
    fleet["n1"].apt_says = "E: no"
    report = up(fleet)
    assert set(report.failures) == {"n1", "n2", "n3"}
    assert messages(report)["n2"] == "not changed: the public key of its gateway n1 is unknown"
    assert report.changed == ("s1",)


def test_a_prepared_host_that_tells_no_key_is_a_failure(fleet: FakeFleet) -> None:
    real = fleet["n2"]._prepare
    fleet["n2"]._prepare = lambda inputs, tail: f"Setting up wireguard-tools ...\n{real(inputs, tail)}"  # type: ignore[method-assign]
    report = up(fleet)
    assert set(report.failures) == {"n2"}
    assert "public key" in messages(report)["n2"]
    assert report.changed == ("n1", "n3", "s1")


# --- two gateways -------------------------------------------------------------------------------------------------

STANDING_BY = ('gateways = ["n1"]', 'gateways = ["n1", "n2"]')
IN_CHARGE = ('gateways = ["n1"]', 'gateways = ["n2", "n1"]')


@pytest.fixture
def two_gateways(fleet: FakeFleet) -> FakeFleet:
    """The article's hosts, up, with n2 standing by."""
    fleet = FakeFleet(article(STANDING_BY), fleet)
    assert up(fleet).failures == {}
    assert {host.moment for host in fleet.hosts.values()} == {0}, "somebody waited for nothing"
    fleet.calls.clear()
    return fleet


@pytest.mark.parametrize(("undo_after", "seconds"), [(5, 2), (120, 3)])
def test_all_hosts_change_peers_at_one_moment_when_another_gateway_takes_charge(
    two_gateways: FakeFleet, undo_after: int, seconds: int
) -> None:
    fleet = FakeFleet(article(IN_CHARGE), two_gateways)
    report = up(fleet, undo_after=undo_after)
    assert (report.failures, report.changed) == ({}, ("n1", "n2", "n3", "s1"))  # n1 is now the one that watches
    assert {fleet[name].moment - int(fleet.clock.now) for name in report.changed} == {seconds}
    assert not up(fleet).waiting


def test_a_host_that_changes_peers_alone_waits_for_no_moment(two_gateways: FakeFleet) -> None:
    fleet = two_gateways
    running = fleet["n3"].state.running
    assert running is not None
    for peer in running.peers.values():
        peer.allowed_ips = []
    report = up(fleet)
    assert (report.failures, report.changed, fleet["n3"].moment) == ({}, ("n3",), 0)


def test_another_gateway_takes_charge_when_the_first_is_dead(two_gateways: FakeFleet) -> None:
    fleet = FakeFleet(article(IN_CHARGE), two_gateways)
    fleet["n1"].unreachable = "no answer within 20 s"
    fleet.reconnect(fleet.hosts)
    report = up(fleet)
    assert set(report.failures) == {"n1"}
    assert report.changed == ("n2", "n3", "s1")
    assert not up(fleet).waiting
    fleet["n1"].unreachable = None
    fleet.reconnect(["n1"])
    assert up(fleet).changed == ("n1",)  # it has to learn that it is to watch n2
    assert not up(fleet).waiting


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        ("disk_full", True, "apply: status 1: cannot save /etc/isthmus/wg0.iptables: 0 free on /"),
        (
            "sync_says",
            "iptables-restore failed",
            "apply: status 1: iptables-restore failed; the old state was put back",
        ),
    ],
)
def test_a_host_where_the_change_fails_is_as_before_and_the_others_are_changed(
    meshed: FakeFleet, attribute: str, value: object, expected: str
) -> None:
    fleet = FakeFleet(article(("listen_port = 51820", "mtu = 1400")), meshed)
    before = str(fleet["n2"])
    setattr(fleet["n2"], attribute, value)
    report = up(fleet)
    assert messages(report) == {"n2": expected}
    assert report.changed == ("n1", "n3", "s1")
    assert str(fleet["n2"]) == before
    assert "n2" not in report.plans, "what was not done is not shown as done"


def test_a_host_that_cannot_be_reached_after_the_change_undoes_it_by_itself(meshed: FakeFleet) -> None:
    fleet = FakeFleet(article(("listen_port = 51820", "mtu = 1400")), meshed)
    before = str(fleet["s1"])
    fleet["s1"].cut_off_by_change = True
    report = up(fleet, undo_after=45)
    error = report.failures["s1"]
    assert isinstance(error, UnreachableError)
    assert error.message == "not reachable after the change (no answer within 10 s); undoes it within 45 s"
    assert report.changed == ("n1", "n2", "n3")
    assert fleet.ran("confirm") == ["n1", "n2", "n3"]
    assert str(fleet["s1"]) != before
    fleet.clock.sleep(45)
    assert str(fleet["s1"]) == before


def test_behind_a_gateway_that_is_cut_off_nobody_can_be_confirmed(fleet: FakeFleet) -> None:
    fleet["n1"].cut_off_by_change = True
    report = up(fleet)
    error = report.failures["n3"]
    assert isinstance(error, UnreachableError)
    assert error.gateway == "n1"
    assert set(report.failures) == {"n1", "n3"}
    fleet.clock.sleep(60)
    assert fleet["n3"].state.files == fleet["n1"].state.files == {}


def test_a_connection_that_breaks_during_the_change_leaves_the_host_to_its_timer(fleet: FakeFleet) -> None:
    fleet["n2"].after["apply"] = fails("", None)
    report = up(fleet, undo_after=45)
    assert messages(report) == {"n2": "apply: the connection broke; if the change was begun, it is undone within 45 s"}
    assert "n2" not in fleet.ran("confirm")
    assert fleet["n2"].transaction
    fleet.clock.sleep(45)
    assert fleet["n2"].state.files == {}


def test_a_change_that_did_not_take_is_undone_at_once(meshed: FakeFleet) -> None:
    fleet = FakeFleet(article(more=N4), meshed)
    before = str(fleet["n1"])

    def lose_a_peer() -> None:
        running = fleet["n1"].state.running
        assert running
        running.peers.pop(fleet["s1"].public_key or "")

    fleet["n1"].after["apply"] = lose_a_peer
    report = up(fleet)
    assert messages(report) == {"n1": "the change did not take, the old state was put back; still differing: peer s1"}
    assert "n1" in fleet.ran("undo")
    assert str(fleet["n1"]) == before
    assert report.changed == ("n4",)


def test_a_run_that_is_slower_than_its_undo_timer_is_told_so(meshed: FakeFleet) -> None:
    fleet = FakeFleet(article(("listen_port = 51820", "mtu = 1400")), meshed)
    before = str(fleet["n2"])
    fleet["n2"].after["apply"] = lambda: fleet.clock.sleep(30)
    report = up(fleet, undo_after=30)
    text = "the change was undone before it was confirmed: more than 30 s passed; see --undo-after"
    assert messages(report)["n2"] == text
    assert str(fleet["n2"]) == before


@pytest.mark.parametrize(("undo_after", "seconds"), [(5, 2.5), (60, 40), (3600, 180)])
def test_a_host_that_hangs_leaves_the_others_time_to_be_confirmed(undo_after: int, seconds: float) -> None:
    fleet = FakeFleet(article())
    up(fleet, undo_after=undo_after)
    assert seconds in fleet.timeouts


def test_a_confirmation_that_comes_too_late_is_a_failure_and_the_host_is_as_before(meshed: FakeFleet) -> None:
    fleet = FakeFleet(article(("listen_port = 51820", "mtu = 1400")), meshed)
    before = str(fleet["n2"])
    fleet["n2"].before["confirm"] = lambda: fleet.clock.sleep(61)
    report = up(fleet)
    assert messages(report)["n2"] == "confirm: status 1: the change was undone before it was confirmed"
    assert str(fleet["n2"]) == before


# --- another run --------------------------------------------------------------------------------------------------


def told(fleet: FakeFleet, undo_after: int = 60) -> tuple[Report, list[str]]:
    """Return the report and what was told meanwhile."""
    lines: list[str] = []
    report = mesh_up(fleet.inventory, fleet, None, undo_after, lambda host, what: lines.append(f"{host}: {what}"))  # type: ignore[arg-type]
    return report, lines


def test_a_host_that_another_run_holds_is_waited_for(meshed: FakeFleet) -> None:
    meshed["n2"].begin_anothers_run("bob@laptop (2)", seconds=20)
    meshed["n2"].state.enabled = False
    start = meshed.clock.now
    report, lines = told(meshed)
    assert report.failures == {}
    assert lines.count("n2: held by an unconfirmed run of bob@laptop (2); waiting for it, or for its undo timer") == 1
    assert 20 <= meshed.clock.now - start < 25
    assert report.changed == (), "the undo put back what was right"


def test_a_run_gives_up_on_a_host_that_stays_held_and_does_the_others(meshed: FakeFleet) -> None:
    meshed["n2"].begin_anothers_run("bob@laptop (2)", seconds=3600)
    for name in ("n2", "n3"):
        meshed[name].state.enabled = False
    start = meshed.clock.now
    report, _ = told(meshed, undo_after=60)
    assert messages(report) == {"n2": "still held by an unconfirmed run of bob@laptop (2)"}
    assert 90 <= meshed.clock.now - start < 100
    assert report.changed == ("n3",)
    assert meshed["n2"].transaction


def test_a_plan_does_not_wait_and_notes_who_holds_the_host(meshed: FakeFleet) -> None:
    meshed["n2"].begin_anothers_run("bob@laptop (2)", seconds=3600)
    start = meshed.clock.now
    report = plan(meshed)
    assert report.notes == ("n2: held by an unconfirmed run of bob@laptop (2), or by its undo timer",)
    assert meshed.clock.now == start


def another_run_comes_first(fleet: FakeFleet, name: str, times: int = 1) -> None:
    """Let another run get hold of a host between our plan and our change, so many times."""

    def begin() -> None:
        nonlocal times
        if times:
            times -= 1
            fleet[name].begin_anothers_run("bob@laptop (2)", 20)

    fleet[name].before["apply"] = begin


def test_a_run_that_another_one_outruns_waits_for_it_and_plans_anew(meshed: FakeFleet) -> None:
    fleet = FakeFleet(article(("listen_port = 51820", "mtu = 1400")), meshed)
    another_run_comes_first(fleet, "n2")
    report, lines = told(fleet)
    assert report.failures == {}
    assert report.changed == ("n1", "n2", "n3", "s1")
    assert "n2: apply: status 75: another run holds this host: bob@laptop (2)" in lines
    assert "n2: held by an unconfirmed run of bob@laptop (2); waiting for it, or for its undo timer" in lines
    assert fleet.ran("apply") == ["n2", "n3", "n1", "s1"], "nobody else was touched before n2 was ours"


def test_a_run_that_meets_another_half_way_undoes_what_it_has_done_and_begins_anew(meshed: FakeFleet) -> None:
    fleet = FakeFleet(article(("listen_port = 51820", "mtu = 1400")), meshed)
    before = {name: str(fleet[name]) for name in ("n2", "n3", "s1")}
    seen: dict[str, str] = {}
    another_run_comes_first(fleet, "n1")
    fleet["s1"].after["undo"] = lambda: seen.update({name: str(fleet[name]) for name in before})
    report, lines = told(fleet)
    assert seen == before
    assert lines.count("n2: undone, since another run is at work") == 1
    assert report.failures == {}
    assert report.changed == ("n1", "n2", "n3", "s1")
    assert plan(fleet).waiting == ()


def test_a_run_that_is_always_outrun_gives_up_and_leaves_nothing_of_its_own(meshed: FakeFleet) -> None:
    fleet = FakeFleet(article(("listen_port = 51820", "mtu = 1400")), meshed)
    before = {name: str(fleet[name]) for name in ("n2", "n3", "s1")}
    another_run_comes_first(fleet, "n1", times=99)
    report = up(fleet)
    other = "not changed: another run is at work"
    held = "apply: status 75: another run holds this host: bob@laptop (2)"
    assert messages(report) == {"n1": held, "n2": other, "n3": other, "s1": other}
    assert report.changed == ()
    assert {name: str(fleet[name]) for name in before} == before
    assert fleet["n1"].transaction
    assert fleet["n1"].transaction.owner == "bob@laptop (2)"


def test_what_another_run_changed_and_finished_meanwhile_is_told(meshed: FakeFleet) -> None:
    fleet = FakeFleet(article(more=N4), meshed)  # a change of n1 and n4 alone

    def anothers_run() -> None:
        fleet["s1"].state.enabled = False

    fleet["n1"].after["apply"] = anothers_run
    report = up(fleet)
    assert set(report.failures) == {"s1"}
    assert (
        "was changed by somebody else during this run; run mesh.up again: unit wg-quick@wg0" in messages(report)["s1"]
    )
    assert report.changed == ("n1", "n4")


def test_a_host_with_nothing_to_do_that_breaks_off_at_the_end_is_told_without_an_undo(meshed: FakeFleet) -> None:
    fleet = FakeFleet(article(more=N4), meshed)
    fleet["n1"].after["apply"] = lambda: fleet["s1"].before.update(probe=fails("", None))
    report, lines = told(fleet)
    assert messages(report) == {"s1": "probe: the connection broke"}
    assert report.changed == ("n1", "n4")
    assert "n1: confirmed" in lines
    assert "n2: unchanged" in lines


def test_after_waiting_every_host_is_looked_at_again(meshed: FakeFleet) -> None:
    meshed["n2"].begin_anothers_run("bob@laptop (2)", seconds=20)
    finished: list[bool] = []

    def finish() -> None:
        if meshed.clock.now > begun + 5 and not finished:
            finished.append(True)
            meshed["n2"].transaction = None
            meshed["s1"].state.enabled = False

    begun = meshed.clock.now
    meshed.clock.watchers.append(finish)
    assert up(meshed).changed == ("s1",)


# --- refused ------------------------------------------------------------------------------------------------------


def test_what_must_not_be_touched_is_a_failure_of_its_host_and_the_others_are_done(fleet: FakeFleet) -> None:
    fleet["n2"].system = "ubuntu 24.04"
    fleet["n3"].state.files[fleet["n3"].conf] = ("[Interface]\nAddress = 10.8.0.1/24\n", 0o600)
    before = {name: str(fleet[name]) for name in ("n2", "n3")}
    report = up(fleet)
    assert messages(report) == {
        "n2": "runs ubuntu 24.04; supported are debian 11, debian 12, debian 13",
        "n3": "/etc/wireguard/wg0.conf was not written by Isthmus; move it away, or choose another [mesh] interface",
    }
    assert isinstance(report.failures["n2"], UnsupportedError)
    assert report.changed == ("n1", "s1")
    assert peers_of(fleet, "n1") == ["s1"]
    assert {name: str(fleet[name]) for name in before} == before


def test_a_foreign_interface_of_the_meshs_name_is_not_touched(fleet: FakeFleet) -> None:
    fleet["n2"].packages.add("wireguard-tools")
    fleet["n2"].private_key = "another program's"
    fleet["n2"].state.running = running = _foreign_interface()
    report = up(fleet)
    assert messages(report) == {"n2": "has a network interface wg0 that is not ours; choose another [mesh] interface"}
    assert fleet["n2"].state.running is running
    assert down(fleet).failures.keys() == {"n2"}
    assert fleet["n2"].state.running is running


def _foreign_interface() -> Running:
    return Running("theirs", "4444", "1420", ["10.8.0.1/24"], peers={"A" * 43 + "=": FakePeer(["10.8.0.0/24"])})


def test_a_login_that_leads_to_another_machine_is_refused_and_lends_it_no_name(meshed: FakeFleet) -> None:
    # n3's way leads to n2's machine: it has n2's address and n2's key.
    fleet = FakeFleet(article(), meshed)
    fleet.hosts["n3"] = fleet["n2"]
    report = up(fleet)
    assert messages(report) == {
        "n3": "has no network interface with 172.16.0.3, its address in the inventory; it has 172.16.0.2 (eth0)"
    }
    assert report.changed == ()
    assert fleet.ran("apply") == []


@pytest.mark.parametrize("run", [up, plan])
def test_dockers_bridge_inside_a_sites_subnet_stops_everything_before_anything_is_touched(
    run: Callable[[FakeFleet], Report],
) -> None:
    fleet = FakeFleet(article(("172.16.128.", "172.17.0.")))
    fleet["n2"].addresses.append(("docker0", "172.17.0.1/16"))
    before = str(fleet)
    with pytest.raises(BrokenPromiseError) as caught:
        run(fleet)
    assert "n2" in str(caught.value)
    assert "172.17.0.0/16" in str(caught.value)
    assert {script for _, script in fleet.calls} == {"probe"}
    assert str(fleet) == before


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("unicast 172.16.128.0/25 via 172.16.0.254 dev eth0 table main proto static scope global ", True),
        ("unicast 172.16.128.0/24 dev tun0 table main proto kernel scope link ", True),
        ("unicast 172.16.0.0/12 dev tun0 table main proto kernel scope link ", False),  # it has the site's own too
        ("unicast 172.20.0.0/16 dev docker1 table main proto kernel scope link ", False),
        ("unicast 0.0.0.0/1 via 10.8.0.1 dev tun0 table main ", False),
        ("unicast default via 172.16.0.254 dev eth0 table main ", False),
        ("unicast 172.0.0.0/8 via 172.16.0.254 dev eth0 table main ", False),
        ("unicast 172.16.128.0/17 via 172.16.0.254 dev eth0 table main ", False),
        ("blackhole 172.16.128.0/24 table main proto static scope global ", True),
        ("unreachable 172.16.128.50 table main proto static scope global metric 5 ", True),
        ("unicast 172.16.128.0/24 table main proto static scope global \n\tnexthop via 172.16.0.254 dev eth0 ", True),
        ("blackhole 172.16.0.0/12 table main proto static scope global ", False),
        ("unreachable default table main metric 4278198272 ", False),
        ("blackhole 10.66.0.0/16 table main proto static scope global ", False),
    ],
)
def test_a_route_that_the_mesh_would_take_over_is_refused_and_a_wider_one_is_not(
    fleet: FakeFleet, line: str, refused: bool
) -> None:
    fleet["n2"].foreign_routes.append(line)
    if refused:
        with pytest.raises(BrokenPromiseError):
            plan(fleet)
    else:
        assert plan(fleet).waiting == ("n1", "n2", "n3", "s1")


# --- only ---------------------------------------------------------------------------------------------------------


def test_only_the_named_hosts_are_changed(fleet: FakeFleet) -> None:
    report = up(fleet, ["n1", "s1"])
    assert report.failures == {}
    assert report.changed == ("n1", "s1")
    assert set(report.plans) == {"n1", "s1"}
    assert set(fleet.ran("prepare", "apply", "undo", "confirm")) == {"n1", "s1"}
    assert peers_of(fleet, "n1") == ["s1"], "the leaves have no keys yet"
    assert up(fleet, ["n1", "s1"]).changed == ()
    report = up(fleet, ["n2"])
    assert report.changed == ("n2",)
    assert up(fleet).changed == ("n1", "n3")
    assert plan(fleet).waiting == ()


def test_only_a_leaf_needs_its_gateways_key(fleet: FakeFleet) -> None:
    report = up(fleet, ["n2"])
    assert messages(report) == {"n2": "not changed: the public key of its gateway n1 is unknown"}
    assert fleet["n2"].state.files == {}


def test_failures_of_hosts_that_were_not_asked_for_are_not_told(fleet: FakeFleet) -> None:
    fleet["s1"].unreachable = "connection refused"
    fleet["n3"].system = "ubuntu 24.04"
    report = up(fleet, ["n1"])
    assert report.failures == {}
    assert report.changed == ("n1",)


def test_a_host_that_was_not_asked_for_is_not_waited_for(meshed: FakeFleet) -> None:
    meshed["s1"].begin_anothers_run("bob@laptop (2)", seconds=3600)
    start = meshed.clock.now
    assert up(meshed, ["n1"]).failures == {}
    assert meshed.clock.now == start


# --- down ---------------------------------------------------------------------------------------------------------


def test_down_makes_hosts_what_they_were_and_keeps_their_keys(fleet: FakeFleet) -> None:
    before = {name: str(host) for name, host in fleet.hosts.items()}
    up(fleet)
    keys = {name: host.private_key for name, host in fleet.hosts.items()}
    assert down(fleet).changed == ("n1", "n2", "n3", "s1")
    for name, host in fleet.hosts.items():
        assert host.private_key == keys[name]
        host.packages, host.private_key = set(), None
        assert str(host) == before[name]
    assert down(fleet).changed == ()


def test_down_can_forget_the_keys_of_some_hosts(meshed: FakeFleet) -> None:
    assert down(meshed, ["n2"]).changed == ("n2",)
    assert down(meshed, ["n2", "n3"], forget_keys=True).changed == ("n2", "n3")
    assert [name for name, host in meshed.hosts.items() if host.private_key is None] == ["n2", "n3"]
    assert meshed["n1"].state.running


def test_down_does_not_leave_a_mesh_running_that_nothing_could_take_off_later(meshed: FakeFleet) -> None:
    del meshed["n2"].state.files["/usr/local/sbin/isthmus"]
    report = down(meshed)
    assert messages(report) == {
        "n2": "/usr/local/sbin/isthmus is missing and nothing else can take the mesh off: run mesh.up first"
    }
    assert meshed["n2"].state.running
    assert up(meshed).failures == {}
    assert down(meshed).failures == {}
    assert meshed["n2"].state.running is None


def test_down_looks_again_at_a_host_that_a_killed_run_is_just_taking_off(
    meshed: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    del meshed["n2"].state.files["/usr/local/sbin/isthmus"]
    monkeypatch.setattr("isthmus.apply.time.sleep", lambda _seconds: meshed["n2"].state.files.clear())
    report = down(meshed)
    assert report.failures == {}
    assert "n2" not in report.changed


def test_down_tells_hosts_it_could_not_reach(meshed: FakeFleet) -> None:
    meshed["n1"].unreachable = "connection refused"
    meshed.reconnect(meshed.hosts)
    report = down(meshed)
    assert set(report.failures) == {"n1", "n3"}
    assert report.changed == ("n2", "s1")


# --- secrets ------------------------------------------------------------------------------------------------------


def test_no_private_key_is_in_a_script_or_a_report(fleet: FakeFleet) -> None:
    fleet["n3"].sync_says = "no"
    reports = [plan(fleet), up(fleet), plan(fleet), down(fleet, forget_keys=False)]
    secrets = [host.private_key for host in fleet.hosts.values()]
    assert all(secrets)
    everything = repr(reports) + "".join(map(str, reports)) + "".join(fleet.scripts) + str(fleet)
    for secret in secrets:
        assert str(secret) not in everything


# --- changes of the inventory -------------------------------------------------------------------------------------


def test_inventories_one_after_the_other_change_what_they_must_and_nothing_else(fleet: FakeFleet) -> None:
    steps: list[tuple[Inventory, tuple[str, ...]]] = [
        (article(), ("n1", "n2", "n3", "s1")),
        # A host more: its gateway learns of it, nobody else.
        (article(more=N4), ("n1", "n4")),
        # A site more: every host learns the way there.
        (article(more=N4 + BEIJING), ("n1", "n2", "n3", "s1", "n4", "b1")),
        # A public address: the other gateways.
        (article(("203.0.113.129", "203.0.113.130"), more=N4 + BEIJING), ("n1", "b1")),
        # Another gateway of a site: its members, and the other gateways.
        (
            article(("203.0.113.129", "203.0.113.130"), ('gateways = ["n1"]', 'gateways = ["n2"]'), more=N4 + BEIJING),
            ("n1", "n2", "n3", "s1", "n4", "b1"),
        ),
        # And back.
        (article(more=N4), ("n1", "n2", "n3", "s1", "n4")),
        (article(), ("n1",)),
    ]
    machines: dict[int, str] = {}
    for number, (inventory, changed) in enumerate(steps):
        fleet = FakeFleet(inventory, fleet)
        report = up(fleet)
        assert report.failures == {}
        assert report.changed == changed, number
        assert plan(fleet).waiting == (), number
        machines[number] = str(fleet)
    assert machines[6] == machines[0], "the same inventory gives the same machines, whatever was there between"


def test_a_gateway_that_became_a_leaf_has_no_file_of_a_gateway(meshed: FakeFleet) -> None:
    fleet = FakeFleet(article(('gateways = ["n1"]', 'gateways = ["n2"]')), meshed)
    up(fleet)
    assert "/etc/sysctl.d/90-isthmus.conf" not in fleet["n1"].state.files
    assert set(fleet["n1"].state.chains) == {("filter", "ISTHMUS-INPUT")}
    assert fleet["n1"].state.sysctls == fleet["n3"].state.sysctls != fleet["n2"].state.sysctls
    assert "/etc/sysctl.d/90-isthmus.conf" in fleet["n2"].state.files


@settings(max_examples=25)
@given(inventories(max_sites=4, max_hosts=4))
def test_whatever_the_inventory_bare_hosts_are_meshed_in_one_run(inventory: Inventory) -> None:
    fleet = FakeFleet(inventory)
    report = up(fleet)
    assert report.failures == {}
    assert report.notes == ()
    assert set(report.changed) == set(inventory.hosts)
    assert plan(fleet).waiting == ()
    before = str(fleet)
    assert up(fleet).changed == ()
    assert str(fleet) == before
