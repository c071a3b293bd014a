"""Round trips asked of hosts in memory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_host import FakeFleet

from isthmus.check import Pair, PingReport, ping
from isthmus.inventory import load_inventory


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet(load_inventory(Path(__file__).parent.parent / "hosts.toml"))


def measured(fleet: FakeFleet, only: list[str] | None = None, count: int = 3) -> PingReport:
    return ping(fleet, fleet.inventory, only, count)  # type: ignore[arg-type]


def test_every_ordered_pair_of_members_is_measured_and_every_resource_from_every_member(fleet: FakeFleet) -> None:
    report = measured(fleet)
    assert [(pair.source, pair.destination) for pair in report.pairs if pair.source == "n2"] == [
        ("n2", "n1"),
        ("n2", "n3"),
        ("n2", "s1"),
        ("n2", "mysql"),
    ]
    assert len(report.pairs) == 16
    assert report.broken == ()
    assert {pair.rtt_ms for pair in report.pairs} == {0.42}


def test_a_host_is_pinged_and_a_resource_with_a_port_is_connected_to(fleet: FakeFleet) -> None:
    measured(fleet, ["n2"])
    assert fleet.scripts[-1].endswith(
        "to n1 172.16.0.1 -\nto n3 172.16.0.3 -\nto s1 172.16.128.1 -\nto mysql 172.16.128.50 3306\nwait\n"
    )


def test_leaves_speak_to_another_sites_gateway_first_so_that_no_handshake_is_begun_from_both_ends(
    fleet: FakeFleet,
) -> None:
    measured(fleet)
    targets = [re.findall("^to ([^ ]+)", script, re.MULTILINE) for script in fleet.scripts]
    assert targets[:2] == [["s1"], ["s1"]], "n2 and n3"
    assert sorted(map(len, targets)) == [1, 1, 4, 4, 4, 4]


def test_a_single_site_has_no_tunnels_to_wake(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "hosts.toml").read_text(encoding="utf-8")
    text = re.sub(r"(?ms)^\[(sites.shanghai|hosts.s1|resources.mysql)\].*?\n(?=\[)", "", text)
    (tmp_path / "hosts.toml").write_text(text, encoding="utf-8")
    fleet = FakeFleet(load_inventory(tmp_path / "hosts.toml"))
    assert len(measured(fleet).pairs) == 6
    assert len(fleet.scripts) == 3


def test_a_pair_without_an_answer_is_broken(fleet: FakeFleet) -> None:
    fleet["n2"].lost = {"s1", "mysql"}
    assert measured(fleet).broken == (Pair("n2", "s1", None), Pair("n2", "mysql", None))


def test_a_host_that_cannot_be_asked_is_a_failure_and_no_pair(fleet: FakeFleet) -> None:
    fleet["n2"].unreachable = "connection refused"
    report = measured(fleet)
    assert set(report.failures) == {"n2"}
    assert {pair.source for pair in report.pairs} == {"n1", "n3", "s1"}
    assert ("n1", "n2") in [(pair.source, pair.destination) for pair in report.pairs], "others still try to reach it"


def test_nonsense_is_a_failure_of_its_host(fleet: FakeFleet) -> None:
    fleet["n2"]._reach = lambda inputs, tail: "n1 0.42\nPING n3\n"  # type: ignore[method-assign]
    report = measured(fleet)
    assert report.failures["n2"].message == "reach: the answer makes no sense: could not convert string to float: 'n3'"
    assert len(report.pairs) == 12


@pytest.mark.parametrize("count", [1, 3, 100])
def test_a_host_has_the_time_to_wait_for_answers_that_never_come(fleet: FakeFleet, count: int) -> None:
    measured(fleet, ["n2"], count)
    # ping -w of reach.sh
    assert fleet.timeouts[-1] == pytest.approx(6 + count, abs=30)
    assert fleet.timeouts[-1] > 6 + count + 10
