"""What is measured of every path, what is called broken, and which MTU is proposed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fake_host import FakeFleet
from test_report import shown

from isthmus.inventory import load_inventory
from isthmus.mtu import MtuReport, Passage, mtu, propose
from isthmus.report import mtu_json, mtu_table, mtu_text

INVENTORY = load_inventory(Path(__file__).parent.parent / "hosts.toml")


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet(INVENTORY)


def measured(fleet: FakeFleet, only: list[str] | None = None) -> MtuReport:
    return mtu(fleet, fleet.inventory, only)  # type: ignore[arg-type]


def test_where_all_is_well_there_is_nothing_to_propose(fleet: FakeFleet) -> None:
    report = measured(fleet)
    assert (report.broken, report.proposal, report.failures) == ((), None, {})
    assert len(report.pairs) == 12
    assert [(tunnel.source, tunnel.destination, tunnel.found) for tunnel in report.tunnels] == [
        ("n1", "n2", 1500),
        ("n1", "n3", 1500),
        ("n1", "s1", 1500),
        ("n2", "n1", 1500),
        ("n3", "n1", 1500),
        ("s1", "n1", 1500),
    ]
    assert mtu_text(report) == "every path carries [mesh] mtu = 1420, and every tunnel's path the 80 bytes more"


def test_across_sites_one_byte_more_is_tried_and_under_the_tunnel_what_the_mtu_needs(fleet: FakeFleet) -> None:
    measured(fleet, ["n1"])
    questions = re.findall("^to (.*)", next(s for s in fleet.scripts if s.startswith("# largest")), re.MULTILINE)
    assert questions == [
        "pair:n2 172.16.0.2 - 576 1420",
        "pair:n3 172.16.0.3 - 576 1420",
        "pair:s1 172.16.128.1 - 576 1420",
        "beyond:s1 172.16.128.1 - 1421 1421",
        "tunnel:n2 172.16.0.2 51820 576 1500",
        "tunnel:n3 172.16.0.3 51820 576 1500",
        "tunnel:s1 203.0.113.129 51820 576 1500",
    ]
    assert sorted(fleet.ran("answer")) == ["n2", "n3", "s1"]
    assert len({re.search("token=(.*)", script)[1] for script in fleet.scripts if "token=" in script}) == 1  # type: ignore[index]


def test_a_path_of_1492_is_named_and_1412_proposed(fleet: FakeFleet) -> None:
    fleet["n1"].carries = {"tunnel:s1": 1492}
    fleet["s1"].carries = {"tunnel:n1": 1492}
    report = measured(fleet)
    assert report.broken == (Passage("n1", "s1", 1500, 1492), Passage("s1", "n1", 1500, 1492))
    assert report.proposal == 1412
    assert mtu_text(report).splitlines() == [
        "n1 to s1, under the tunnel: 1492 bytes pass, 1500 are needed for [mesh] mtu = 1420",
        "s1 to n1, under the tunnel: 1492 bytes pass, 1500 are needed for [mesh] mtu = 1420",
        "set mtu = 1412 in [mesh] and run inv mesh.up: every path carries that",
    ]


def test_pairs_that_carry_less_lose_or_carry_more_are_named(fleet: FakeFleet) -> None:
    fleet["n2"].carries = {"pair:s1": 1390, "pair:n3": None}
    fleet["s1"].carries = {"beyond:n3": 1421}
    report = measured(fleet)
    assert mtu_text(report).splitlines() == [
        "n2 to n3: no packet arrives; see inv check.ping and inv check.path",
        "n2 to s1: 1390 bytes pass, 1420 are wanted",
        "s1 to n3: more than [mesh] mtu = 1420 passes: the mesh interface has another MTU, see inv mesh.plan",
        "set mtu = 1390 in [mesh] and run inv mesh.up: every path carries that",
    ]
    assert shown(mtu_table(report), width=60).split("\n") == [
        "bytes    n1    n2     n3    s1",
        "n1        ·  1420   1420  1420",
        "n2     1420     ·   lost  1390",
        "n3     1420  1420      ·  1420",
        "s1     1420  1420  >1420     ·",
    ]


def test_a_port_that_lets_nothing_in_is_no_narrow_path(fleet: FakeFleet) -> None:
    fleet["n1"].carries = {"tunnel:s1": None}
    report = measured(fleet)
    assert report.proposal is None
    assert mtu_text(report) == "n1 to s1, under the tunnel: no packet arrives at WireGuard's port; see inv check.ports"


def test_a_path_too_narrow_for_any_mesh_has_no_proposal(fleet: FakeFleet) -> None:
    fleet["n1"].carries = {"tunnel:s1": 1359}
    report = measured(fleet)
    assert report.proposal is None
    assert mtu_text(report).splitlines()[-1] == "no [mesh] mtu fits: it must be at least 1280"


def test_inside_a_site_the_nics_mtu_rules_and_nothing_is_proposed() -> None:
    assert propose(INVENTORY, [Passage("n2", "n3", 1420, 1300)], []) is None
    assert propose(INVENTORY, [Passage("n2", "s1", 1420, 1300)], []) == 1300
    assert propose(INVENTORY, [], [Passage("n2", "n1", 1500, 1460)]) == 1380
    assert propose(INVENTORY, [], []) is None


def test_a_host_that_cannot_be_asked_is_one_failure_and_no_broken_tunnel(fleet: FakeFleet) -> None:
    fleet["s1"].unreachable = "connection refused"
    report = measured(fleet)
    assert set(report.failures) == {"s1"}
    assert not [tunnel for tunnel in report.tunnels if "s1" in (tunnel.source, tunnel.destination)]


def test_json(fleet: FakeFleet) -> None:
    fleet["n1"].carries = {"tunnel:s1": 1492}
    found = json.loads(json.dumps(mtu_json(measured(fleet))))
    assert (found["mtu"], found["proposal"], found["failures"]) == (1420, 1412, {})
    assert found["pairs"][0] == {"source": "n1", "destination": "n2", "wanted": 1420, "found": 1420, "kept": True}
    assert found["tunnels"][2] == {"source": "n1", "destination": "s1", "wanted": 1500, "found": 1492, "kept": False}
