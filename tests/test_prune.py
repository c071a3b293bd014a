"""Hosts that have left, in memory: who is cleaned, who is left alone and why, and in which order."""

from __future__ import annotations

import pytest
from fake_host import FakeFleet
from test_apply import BEIJING, N4, article, messages, up

from isthmus.errors import HostKeyError
from isthmus.inventory import parse_inventory
from isthmus.model import Inventory
from isthmus.prune import PruneReport, leavers, prune
from isthmus.report import prune_json, prune_text

B2 = '[hosts.b2]\nsite = "beijing"\naddress = "172.20.0.2"\n'
OLD = article(more=N4 + BEIJING + B2)
"""The article's cluster, with a leaf and a site that will leave."""
ELSEWHERE = """
[mesh]
supernet = "10.0.0.0/8"
[sites.paris]
subnet = "10.1.0.0/24"
gateways = ["p1"]
[sites.oslo]
subnet = "10.2.0.0/24"
gateways = ["o1"]
[hosts.p1]
site = "paris"
address = "10.1.0.1"
public = "203.0.113.10"
[hosts.o1]
site = "oslo"
address = "10.2.0.1"
public = "203.0.113.11"
"""


@pytest.fixture
def fleet() -> FakeFleet:
    """The hosts of OLD, their mesh up."""
    fleet = FakeFleet(OLD)
    assert up(fleet).failures == {}
    return fleet


@pytest.fixture(autouse=True)
def nobody_waits_for_real(fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.survey.time", fleet.clock)


def pruned(fleet: FakeFleet, new: Inventory, old: Inventory = OLD) -> PruneReport:
    """Bring the new inventory up, then clean whom `old` had besides; `fleet` leads to all of them."""
    mesh = up(FakeFleet(new, fleet))
    fleet.calls.clear()
    fleet.reconnect(fleet.hosts)
    return prune(old, fleet, mesh)  # type: ignore[arg-type]


def test_who_has_left_has_no_address_in_the_new_inventory() -> None:
    assert leavers(OLD, article()) == ("n4", "b1", "b2")
    assert leavers(OLD, OLD) == ()
    assert leavers(article(), article(("hosts.n3", "hosts.worker"))) == (), "another name is no leaving"
    assert leavers(article(), article(("172.16.0.3", "172.16.0.5"))) == ("n3",)


def test_leavers_are_as_before_us_but_for_their_keys_and_nobody_else_is_touched(fleet: FakeFleet) -> None:
    report = pruned(fleet, article())
    assert report == PruneReport(cleaned=("n4", "b1", "b2"))
    for name in ("n4", "b1", "b2"):
        assert fleet[name].state.files == {}
        assert fleet[name].state.running is None
        assert fleet[name].private_key
    assert fleet.ran("leave") == ["n4", "b1", "b2"]
    assert {host for host, _ in fleet.calls} == {"n4", "b1", "b2"}
    assert prune_text(report).splitlines()[0] == "n4: has left; everything of ours was taken off"


def test_it_is_never_too_late_and_twice_is_harmless(fleet: FakeFleet) -> None:
    up(FakeFleet(article(), fleet))
    assert pruned(fleet, article()).cleaned == ("n4", "b1", "b2")
    again = pruned(fleet, article())
    assert again == PruneReport(bare=("n4", "b1", "b2"))
    assert prune_text(again).splitlines()[1] == "b1: has left; nothing of ours was there"


def test_who_cannot_be_reached_is_told_and_the_others_are_cleaned(fleet: FakeFleet) -> None:
    fleet["b1"].unreachable = "no answer within 20 s"
    report = pruned(fleet, article())
    assert report.cleaned == ("n4",)
    assert set(report.unreachable) == {"b1", "b2"}
    assert report.failures == {}
    line = "b1: has left and cannot be reached (no answer within 20 s); nobody trusts it any more, its files stay"
    assert line in prune_text(report)
    assert prune_json(report)["unreachable"]["b1"]["message"] == "no answer within 20 s"


def test_another_machine_at_its_address_is_a_failure_and_gets_nothing(fleet: FakeFleet) -> None:
    error = HostKeyError("n4", "the host key of 172.16.0.4 HAS CHANGED", "SHA256:a", "SHA256:b")

    def refuse() -> None:
        raise error

    fleet["n4"].before["probe"] = refuse
    report = pruned(fleet, article(more=BEIJING + B2))
    assert report.failures == {"n4": error}
    assert fleet.ran("leave") == []


def test_a_leaver_is_kept_while_one_that_counts_on_it_could_not_be_changed(fleet: FakeFleet) -> None:
    new = article(
        ('gateways = ["n1"]', 'gateways = ["n2"]'), ("[hosts.n1]", "[hosts.n9]"), ('172.16.0.1"', '172.16.0.9"')
    )
    fleet["n3"].unreachable = "no answer"
    report = pruned(fleet, new, old=article())
    assert {name: error.message for name, error in report.failures.items()} == {
        "n1": "has left, not cleaned yet: n3 may count on it"
    }
    assert fleet["n1"].state.running


def test_the_hosts_of_another_mesh_are_left_alone(fleet: FakeFleet) -> None:
    other = FakeFleet(parse_inventory(ELSEWHERE, "other.toml"))
    assert up(other).failures == {}
    before = str(other)
    mesh = up(FakeFleet(article(), fleet))
    report = prune(other.inventory, other, mesh)  # type: ignore[arg-type]
    assert report.cleaned == ()
    assert set(report.failures) == {"p1", "o1"}
    assert "names nobody of the mesh as its peer" in report.failures["p1"].message
    assert str(other) == before


def test_a_host_that_has_moved_is_none_that_has_left(fleet: FakeFleet) -> None:
    fleet["n3"].addresses.append(("eth0", "172.16.0.5/24"))
    new = article(("172.16.0.3", "172.16.0.5"), more=N4 + BEIJING + B2)
    report = pruned(fleet, new)
    assert report == PruneReport()
    assert fleet["n3"].state.running


def test_what_is_not_ours_is_left_alone(fleet: FakeFleet) -> None:
    fleet["n4"].state.files[fleet["n4"].conf] = ("[Interface]\nAddress = 10.8.0.1/24\n", 0o600)
    before = str(fleet["n4"])
    report = pruned(fleet, article(more=BEIJING + B2))
    assert "was not written by Isthmus" in report.failures["n4"].message
    assert str(fleet["n4"]) == before


def test_a_failure_of_the_mesh_that_stays_is_no_concern_of_a_leaver_that_has_nothing_to_do_with_it(
    fleet: FakeFleet,
) -> None:
    fleet["s1"].unreachable = "no answer"
    mesh = FakeFleet(article(more=BEIJING + B2), fleet)
    assert messages(up(mesh)) == {"s1": "no answer"}
    assert pruned(fleet, article(more=BEIJING + B2)).cleaned == ("n4",)
