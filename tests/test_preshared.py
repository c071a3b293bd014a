"""Preshared keys between gateways of different sites, on hosts in memory: both ends have the same one, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_host import FakeFleet

from isthmus.apply import mesh_up
from isthmus.compile import compile_mesh
from isthmus.inventory import load_inventory
from isthmus.model import Inventory
from isthmus.report import plan_text
from isthmus.rotate import rotate_keys
from isthmus.survey import Report, mesh_plan

WITHOUT = load_inventory(Path(__file__).parent / "golden" / "two_gateways" / "hosts.toml")
WITH = replace(WITHOUT, mesh=replace(WITHOUT.mesh, preshared_keys=True))
PAIRS = [("n1", "s1"), ("n2", "s1")]


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    """The two gateways' hosts, up, without preshared keys."""
    fleet = FakeFleet(WITHOUT)
    for module in ("survey", "apply", "rotate"):
        monkeypatch.setattr(f"isthmus.{module}.time", fleet.clock)
    assert up(fleet, WITHOUT).failures == {}
    return fleet


def up(fleet: FakeFleet, inventory: Inventory, only: list[str] | None = None) -> Report:
    report = mesh_up(inventory, fleet, only)  # type: ignore[arg-type]
    assert_no_secret(fleet, str(report))
    return report


def plan(fleet: FakeFleet, inventory: Inventory = WITH) -> Report:
    return mesh_plan(inventory, fleet)  # type: ignore[arg-type]


def secrets(fleet: FakeFleet) -> dict[tuple[str, str], str]:
    return {(name, o): secret for name, host in fleet.hosts.items() for o, secret in host.state.preshared.items()}


def assert_no_secret(fleet: FakeFleet, text: str) -> None:
    assert "SECRET" not in text
    assert not [script for script in fleet.scripts if "SECRET" in script]


def assert_shared(fleet: FakeFleet, pairs: list[tuple[str, str]]) -> None:
    """Exactly these pairs have a key, both ends the same, each pair its own, and it is in use."""
    held = secrets(fleet)
    assert sorted(held) == sorted(pair for one, other in pairs for pair in ((one, other), (other, one)))
    assert all(held[one, other] == held[other, one] for one, other in pairs)
    assert len(set(held.values())) == len(pairs)
    for name, host in fleet.hosts.items():
        assert host.state.running is not None
        keys = {str(fleet[other].public_key): other for other in fleet.hosts}
        in_use = {keys[key] for key, peer in host.state.running.peers.items() if peer.preshared_key != "no"}
        assert in_use == {other for one, other in held if one == name}


def test_only_gateways_of_different_sites_share_keys() -> None:
    configs = compile_mesh(WITH)
    shared = {(name, peer.host) for name, config in configs.items() for peer in config.peers if peer.preshared}
    assert shared == {pair for one, other in PAIRS for pair in ((one, other), (other, one))}


def test_keys_come_go_and_come_anew_with_the_option(fleet: FakeFleet) -> None:
    before = str(fleet)
    found = plan(fleet)
    assert found.waiting == ("n1", "n2", "s1")
    assert "key preshared with s1\n      +made on one of the two, 0600 on both" in plan_text(found.plans)
    report = up(fleet, WITH)
    assert (report.failures, report.changed) == ({}, ("n1", "n2", "s1"))
    assert len({fleet[name].moment for name in report.changed} - {0}) == 1, "not both ends at one moment"
    assert_shared(fleet, PAIRS)
    assert not plan(fleet).waiting
    first = secrets(fleet)
    assert up(fleet, WITHOUT).failures == {}
    assert_shared(fleet, [])
    assert str(fleet) == before
    fleet.clock.sleep(1)
    up(fleet, WITH)
    assert not {*first.values()} & {*secrets(fleet).values()}


def test_a_fresh_mesh_has_them_from_the_start() -> None:
    fleet = FakeFleet(WITH)
    assert up(fleet, WITH).failures == {}
    assert_shared(fleet, PAIRS)


def test_ends_that_differ_are_seen_and_mended(fleet: FakeFleet) -> None:
    up(fleet, WITH)
    good = secrets(fleet)
    fleet["s1"].state.preshared["n1"] = "SECRET by hand"
    fleet["s1"].sync()
    found = plan(fleet)
    assert found.waiting == ("s1",)
    assert "key preshared with n1\n      -not n1's\n      +n1's" in plan_text(found.plans)
    assert up(fleet, WITH).failures == {}
    assert secrets(fleet) == good
    assert_shared(fleet, PAIRS)


def test_a_key_set_or_taken_by_hand_is_seen_and_mended(fleet: FakeFleet) -> None:
    up(fleet, WITH)
    for word in ("no", "0" * 64):
        running = fleet["n1"].state.running
        assert running is not None
        running.peers[str(fleet["s1"].public_key)].preshared_key = word
        assert plan(fleet).waiting == ("n1",)
        assert up(fleet, WITH).changed == ("n1",)
        assert_shared(fleet, PAIRS)


@pytest.mark.parametrize("on", [True, False])
def test_a_pair_waits_until_both_ends_can_be_changed(fleet: FakeFleet, on: bool) -> None:
    up(fleet, WITHOUT if on else WITH)
    wanted = WITH if on else WITHOUT
    before = str(fleet)
    fleet["s1"].unreachable = "no answer within 20 s"
    fleet.reconnect(["s1", "s2"])
    assert not plan(fleet, wanted).waiting
    assert not up(fleet, wanted).changed
    assert str(fleet) == before
    fleet["s1"].unreachable = None
    fleet.reconnect(["s1", "s2"])
    assert up(fleet, wanted, ["n1"]).changed == ()
    assert str(fleet) == before
    assert up(fleet, wanted).failures == {}
    assert_shared(fleet, PAIRS if on else [])


def test_when_one_end_fails_the_other_keeps_what_it_had(fleet: FakeFleet) -> None:
    fleet["s1"].sync_says = "no"
    report = up(fleet, WITH)
    assert set(report.failures) == {"n1", "n2", "s1"}
    assert report.failures["n1"].message == "undone, since s1 did not get the preshared key of the two"
    for name in ("n1", "n2", "s1"):
        running = fleet[name].state.running
        assert running is not None
        assert {peer.preshared_key for peer in running.peers.values()} == {"no"}
    fleet["s1"].sync_says = None
    assert up(fleet, WITH).failures == {}
    assert_shared(fleet, PAIRS)


def test_they_are_made_anew_with_the_other_keys(fleet: FakeFleet) -> None:
    up(fleet, WITH)
    before = secrets(fleet)
    fleet.clock.sleep(1)
    report = rotate_keys(WITH, fleet, ["n1"])  # type: ignore[arg-type]
    assert_no_secret(fleet, str(report))
    assert (report.failures, report.changed) == ({}, ("n1",))
    assert_shared(fleet, PAIRS)
    assert {pair for pair, secret in secrets(fleet).items() if secret != before[pair]} == {("n1", "s1"), ("s1", "n1")}
    assert not plan(fleet).waiting


def test_a_rotation_that_fails_leaves_the_old_ones(fleet: FakeFleet) -> None:
    up(fleet, WITH)
    before = str(fleet)
    fleet["s1"].sync_says = "no"
    assert rotate_keys(WITH, fleet).changed == ()  # type: ignore[arg-type]
    assert str(fleet) == before
