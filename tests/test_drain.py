"""A gateway is taken out of charge for maintenance and put back, on hosts in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_host import FakeFleet

from isthmus.apply import mesh_up
from isthmus.drain import drain, undrain
from isthmus.errors import IsthmusError, UsageError
from isthmus.inventory import load_inventory
from isthmus.paths import paths
from isthmus.survey import Report, mesh_plan

INVENTORY = load_inventory(Path(__file__).parent / "golden" / "two_gateways" / "hosts.toml")


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    """The two gateways' hosts, up, and every tunnel in use."""
    fleet = FakeFleet(INVENTORY)
    monkeypatch.setattr("isthmus.survey.time", fleet.clock)
    monkeypatch.setattr("isthmus.apply.time", fleet.clock)
    assert mesh_up(INVENTORY, fleet).failures == {}  # type: ignore[arg-type]
    for host in fleet.hosts.values():
        host.foreign_routes.append("default via 172.16.0.254 dev eth0")
        assert host.state.running is not None
        for peer in host.state.running.peers.values():
            peer.latest_handshake = int(fleet.clock.now) - 100
    return fleet


def drained(fleet: FakeFleet, gateway: str = "n1") -> Report:
    return drain(INVENTORY, fleet, gateway)  # type: ignore[arg-type]


def undrained(fleet: FakeFleet, gateway: str = "n1") -> Report:
    return undrain(INVENTORY, fleet, gateway)  # type: ignore[arg-type]


def in_charge(fleet: FakeFleet) -> set[str]:
    """Return through whom the paths of the running mesh cross sites."""
    report = paths(fleet, INVENTORY)  # type: ignore[arg-type]
    assert report.broken == ()
    assert all(pair.kept for pair in report.pairs)
    return {pair.walk.path.hosts[1] for pair in report.pairs if pair.walk.source == "n3" and len(pair.walk.hops) > 2}


def test_a_drained_gateway_carries_nobody_and_everything_agrees_until_it_is_undrained(fleet: FakeFleet) -> None:
    before = str(fleet)
    assert in_charge(fleet) == {"n1"}
    report = drained(fleet)
    assert (report.failures, report.changed) == ({}, ("n1", "n2", "n3", "s1"))
    assert len({fleet[name].moment for name in report.changed} - {0}) == 1, "not together"
    assert in_charge(fleet) == {"n2"}
    for found in (mesh_plan(INVENTORY, fleet), mesh_up(INVENTORY, fleet)):  # type: ignore[arg-type]
        assert not found.waiting
        assert found.notes == ("n1 is drained: n2 is in charge of nanjing",)
    report = undrained(fleet)
    assert (report.failures, report.notes) == ({}, ())
    assert in_charge(fleet) == {"n1"}
    assert str(fleet) == before


def test_a_drained_gateway_may_be_switched_off(fleet: FakeFleet) -> None:
    drained(fleet)
    fleet["n1"].unreachable = "no answer within 20 s"
    fleet.reconnect(["n1"])
    found = mesh_plan(INVENTORY, fleet)  # type: ignore[arg-type]
    assert set(found.failures) == {"n1"}
    assert not found.waiting
    with pytest.raises(IsthmusError, match=r"^not begun: n1: no answer within 20 s$"):
        undrained(fleet)


def test_draining_twice_changes_nothing(fleet: FakeFleet) -> None:
    drained(fleet)
    assert drained(fleet).changed == ()
    with pytest.raises(IsthmusError, match=r"^n1 is drained: `inv mesh.undrain n1` first$"):
        drained(fleet, "n2")


def test_a_gateway_that_stands_by_can_be_drained_lest_it_be_put_in_charge(fleet: FakeFleet) -> None:
    assert drained(fleet, "n2").changed == ("n1", "n2", "n3", "s1")  # who watched and followed no longer does
    assert in_charge(fleet) == {"n1"}


def test_what_is_not_drained_cannot_be_undrained(fleet: FakeFleet) -> None:
    with pytest.raises(IsthmusError, match=r"^n1 is not drained$"):
        undrained(fleet)


@pytest.mark.parametrize("name", ["n3", "s1", "nobody", ""])
def test_only_one_of_two_gateways_can_be_drained(fleet: FakeFleet, name: str) -> None:
    for verb in (drained, undrained):
        with pytest.raises(UsageError, match=r"expected one of two gateways of a site: n1, n2$"):
            verb(fleet, name)


@pytest.mark.parametrize("ill", ["dead", "unheard", "by hand"])
def test_nothing_is_touched_when_the_other_gateway_is_not_well(fleet: FakeFleet, ill: str) -> None:
    running = fleet["n2"].state.running
    assert running is not None
    if ill == "dead":
        fleet["n2"].unreachable = "no answer within 20 s"
        fleet.reconnect(["n2"])
    elif ill == "unheard":
        running.peers[str(fleet["s1"].public_key)].latest_handshake -= 100
    else:
        fleet["n2"].state.sysctls["net.ipv4.ip_forward"] = "0"
    before = str(fleet)
    expected = {
        "dead": "not begun: n2: no answer within 20 s",
        "unheard": "not begun: n2 has not heard s1 for 180 s",
        "by hand": "not begun: changes are waiting on n2: `inv mesh.up` first",
    }
    with pytest.raises(IsthmusError) as caught:
        drained(fleet)
    assert str(caught.value) == expected[ill]
    assert str(fleet) == before


# --- charge that has moved by itself ------------------------------------------------------------------------------


def taken_by_n2(fleet: FakeFleet) -> None:
    """Let n1 have failed: the watchers have moved charge, with no file changed."""
    for name, why in (("n2", "n1 does not reach shanghai, n2 does"), ("n3", "n2 says so"), ("s1", "n2 says so")):
        fleet[name].charges = [("nanjing", "n2", why)]
        fleet[name].sync()


def test_what_has_moved_by_itself_is_neither_drift_nor_broken_and_undrain_moves_it_back(fleet: FakeFleet) -> None:
    before = str(fleet)
    taken_by_n2(fleet)
    assert str(fleet) != before
    assert in_charge(fleet) == {"n2"}
    for found in (mesh_plan(INVENTORY, fleet), mesh_up(INVENTORY, fleet)):  # type: ignore[arg-type]
        assert not found.waiting
        assert found.notes == ("n2 is in charge of nanjing: n1 does not reach shanghai, n2 does",)
    assert undrained(fleet).changed == ()
    assert fleet.ran("giveback") == ["n2"]
    with pytest.raises(IsthmusError, match=r"^n1 is not drained$"):
        undrained(fleet)


def test_a_first_that_is_not_well_is_not_given_back_charge(fleet: FakeFleet) -> None:
    taken_by_n2(fleet)
    fleet["n2"].keeps_charge = "n1 does not reach all that this gateway reaches"
    with pytest.raises(IsthmusError, match=r"^n2 keeps charge of nanjing: .*n1 does not reach all that this gateway"):
        undrained(fleet)
    with pytest.raises(IsthmusError, match=r"^n2 is not drained$"):
        undrained(fleet, "n2")


def test_who_drains_a_gateway_that_had_taken_charge_puts_the_first_in_charge(fleet: FakeFleet) -> None:
    taken_by_n2(fleet)
    report = drained(fleet, "n2")
    assert report.failures == {}
    assert in_charge(fleet) == {"n1"}
    assert len({fleet[name].moment for name in report.changed} - {0}) == 1, "not together"


@pytest.mark.parametrize(("noted_s", "drift"), [(2, False), (10, True)])
def test_a_move_that_is_noted_and_about_to_be_made_is_no_drift(fleet: FakeFleet, noted_s: int, drift: bool) -> None:
    fleet["s1"].noted_s = noted_s
    fleet["s1"].charges = [("nanjing", "n2", "n2 says so")]
    assert mesh_plan(INVENTORY, fleet).waiting == (("s1",) if drift else ())  # type: ignore[arg-type]
    fleet["s1"].sync()
    assert mesh_plan(INVENTORY, fleet).waiting == ()  # type: ignore[arg-type]
    fleet["s1"].charges = [("nanjing", "n1", "n2 says so")]
    assert mesh_plan(INVENTORY, fleet).waiting == (("s1",) if drift else ())  # type: ignore[arg-type]
    (peer, *_) = fleet["s1"].state.running.peers.values()  # type: ignore[union-attr]
    peer.allowed_ips = ["172.16.9.9/32"]
    assert mesh_plan(INVENTORY, fleet).waiting == ("s1",)  # type: ignore[arg-type]


def test_what_a_host_has_besides_its_watcher_s_move_is_drift(fleet: FakeFleet) -> None:
    fleet["s1"].charges = [("nanjing", "n2", "n2 says so")]
    (name,) = mesh_plan(INVENTORY, fleet).waiting  # type: ignore[arg-type]
    assert name == "s1"
    fleet["s1"].charges = []
    fleet["n2"].state.watching = False
    plan = mesh_plan(INVENTORY, fleet)  # type: ignore[arg-type]
    assert [str(change) for change in plan.plans["n2"].changes] == [
        "unit isthmus-watch-wg0\n    -stopped\n    +running"
    ]
