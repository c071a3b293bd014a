"""The paths that packets take through hosts in memory, read back from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_host import FakeFleet

from isthmus.apply import mesh_up
from isthmus.inventory import load_inventory
from isthmus.paths import PathReport, paths
from isthmus.report import paths_json, paths_text, plan_text
from isthmus.survey import mesh_plan


@pytest.fixture
def fleet() -> FakeFleet:
    """The article's hosts with their mesh up, and a way to the internet as clouds give them."""
    fleet = FakeFleet(load_inventory(Path(__file__).parent.parent / "hosts.toml"))
    for name, host in fleet.hosts.items():
        router = "172.16.128.254" if name == "s1" else "172.16.0.254"
        host.foreign_routes.append(
            f"unicast default via {router} dev eth0 table main proto dhcp scope global metric 100 "
        )
    mesh_up(fleet.inventory, fleet)  # type: ignore[arg-type]
    return fleet


def walked(fleet: FakeFleet, only: list[str] | None = None) -> PathReport:
    return paths(fleet, fleet.inventory, only)  # type: ignore[arg-type]


def lines(report: PathReport) -> dict[str, str]:
    pairs = paths_text(report).splitlines()[: len(report.pairs)]
    return {line.partition("  ")[0]: line.partition("  ")[2].strip() for line in pairs}


def test_what_was_promised_is_what_is_found(fleet: FakeFleet) -> None:
    report = walked(fleet)
    assert report.failures == {}
    assert report.broken == ()
    assert len(report.pairs) == 16
    assert all(pair.kept for pair in report.pairs)
    found = lines(report)
    assert found["n2 to n3"] == "n2 --> n3" or "==>" not in found["n2 to n3"]
    assert "n1" in found["n2 to s1"]
    assert found["n2 to n3"] != found["n2 to s1"]


def test_where_a_dns_name_leads_is_its_hosts_address(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = FakeFleet(load_inventory(Path(__file__).parent / "golden" / "dns_names" / "hosts.toml"))
    for name, host in fleet.hosts.items():
        router = f"{fleet.inventory.hosts[name].address}".rpartition(".")[0] + ".254"
        host.foreign_routes.append(f"unicast default via {router} dev eth0 table main proto dhcp scope global ")
    assert mesh_up(fleet.inventory, fleet).failures == {}  # type: ignore[arg-type]
    report = walked(fleet)
    assert report.broken == ()
    assert all(pair.kept for pair in report.pairs)
    assert not mesh_plan(fleet.inventory, fleet).waiting, "an address that a name led to is no drift"  # type: ignore[arg-type]
    running = fleet["s1"].state.running
    assert running is not None
    running.peers[str(fleet["n1"].public_key)].endpoint = "(none)"  # as while DNS is down
    assert {pair.walk.destination for pair in walked(fleet, ["s1"]).pairs if not pair.kept} == {"n1", "n2"}


def test_the_unit_that_looks_up_names_is_only_where_names_are_and_missed_when_it_stopped() -> None:
    fleet = FakeFleet(load_inventory(Path(__file__).parent / "golden" / "dns_names" / "hosts.toml"))
    mesh_up(fleet.inventory, fleet)  # type: ignore[arg-type]
    assert [name for name, host in fleet.hosts.items() if host.state.looks_up_names] == ["n1", "s1", "b1"]
    fleet["s1"].state.looks_up_names = False
    report = mesh_plan(fleet.inventory, fleet)  # type: ignore[arg-type]
    assert report.waiting == ("s1",)
    assert plan_text(report.plans).startswith(
        "s1: 1 change\n  unit isthmus-names.service\n      -stopped\n      +running"
    )
    assert mesh_up(fleet.inventory, fleet).changed == ("s1",)  # type: ignore[arg-type]
    assert fleet["s1"].state.looks_up_names


def test_a_route_that_hands_deleted_breaks_the_pairs_that_need_it(fleet: FakeFleet) -> None:
    fleet["n2"].state.routes = {line for line in fleet["n2"].state.routes if "172.16.128.0/24" not in line}
    report = walked(fleet)
    broken = {(pair.walk.source, pair.walk.destination) for pair in report.pairs if not pair.kept}
    assert ("n2", "s1") in broken
    assert ("n2", "n3") not in broken
    assert report.broken
    assert "BROKEN" in lines(report)["n2 to s1"]
    assert not [pair for pair in paths_json(report)["pairs"] if pair["source"] == "n3" and not pair["kept"]]


def test_a_pair_that_arrives_by_another_path_shows_the_one_it_takes(fleet: FakeFleet) -> None:
    # n2 sends to its neighbour through the mesh: n1 takes it from there to n3.
    fleet["n2"].state.routes.add("route add 172.16.0.3/32 dev wg0 proto 182 src 172.16.0.2")
    for name, other in (("n2", "172.16.0.3/32"), ("n3", "172.16.0.2/32")):
        running = fleet[name].state.running
        assert running
        (gateway,) = running.peers.values()
        gateway.allowed_ips.append(other)
    report = walked(fleet, ["n2"])
    (pair,) = [pair for pair in report.pairs if pair.walk.destination == "n3"]
    assert pair.walk.delivered
    assert not pair.kept
    assert lines(report)["n2 to n3"] == f"BROKEN: takes {pair.walk.path}; promised is {pair.promised}"


def test_only_chooses_the_sources(fleet: FakeFleet) -> None:
    assert {pair.walk.source for pair in walked(fleet, ["n2", "s1"]).pairs} == {"n2", "s1"}


def test_of_a_host_that_cannot_be_asked_nothing_is_said_but_that(fleet: FakeFleet) -> None:
    fleet["n3"].unreachable = "connection refused"
    fleet.reconnect(fleet.hosts)
    report = walked(fleet)
    assert set(report.failures) == {"n3"}
    assert "n3" not in {name for pair in report.pairs for name in (pair.walk.source, pair.walk.destination)}
    assert report.broken == ()
