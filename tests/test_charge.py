"""Who is in charge, as the gateways' own files say."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_host import FakeFleet

from isthmus.charge import Charge, as_found, as_running, charges, drained, taken
from isthmus.compile import compile_mesh
from isthmus.inventory import load_inventory
from isthmus.model import Inventory
from isthmus.observe import Facts
from isthmus.render import HEADER, render_host
from isthmus.survey import observe

INVENTORY = load_inventory(Path(__file__).parent / "golden" / "two_gateways" / "hosts.toml")


def facts_of(said: dict[str, str | None]) -> dict[str, Facts]:
    """Return what bare hosts look like that have this in their file, None for no file."""
    fleet = FakeFleet(INVENTORY)
    for name, text in said.items():
        if text is not None:
            fleet[name].state.files["/etc/isthmus/wg0.drained"] = (text, 0o644)
    found = observe(fleet, INVENTORY, list(said))  # type: ignore[arg-type]
    return {name: facts for name, facts in found.items() if isinstance(facts, Facts)}


def file_of(gateway: str, inventory: Inventory = INVENTORY) -> str:
    config = compile_mesh(inventory.drain({"nanjing": gateway}))["n1"]
    return render_host(config, {}, placeholders=True)["/etc/isthmus/wg0.drained"].text


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"n1": None, "n2": None}, {}),
        ({"n1": file_of("n1"), "n2": file_of("n1")}, {"nanjing": "n1"}),
        ({"n1": file_of("n2"), "n2": file_of("n2")}, {"nanjing": "n2"}),
        # one of them is off
        ({"n2": file_of("n1")}, {"nanjing": "n1"}),
        ({"n2": None}, {}),
        ({}, {}),
        # they do not agree
        ({"n1": file_of("n1"), "n2": None}, {}),
        ({"n1": file_of("n1"), "n2": file_of("n2")}, {}),
        # nobody else has a say, and no other file
        ({"n1": None, "n2": None, "n3": file_of("n1")}, {}),
        ({"s1": f"{HEADER}\ns1\n"}, {}),
        ({"n2": "n1\n"}, {}),
        ({"n2": f"{HEADER}\nn9\n"}, {}),
        ({"n2": f"{HEADER}\nn1\nn2\n"}, {}),
        ({"n2": f"{HEADER}\n"}, {}),
    ],
)
def test_a_gateway_is_drained_when_the_gateways_of_its_site_that_are_up_agree(
    said: dict[str, str | None], expected: dict[str, str]
) -> None:
    facts = facts_of(said)
    assert drained(INVENTORY, facts) == expected
    assert as_found(INVENTORY, facts) == INVENTORY.drain(expected)


def test_a_drained_gateway_stands_by_whatever_the_order_in_the_file() -> None:
    for gateways in (("n1", "n2"), ("n2", "n1")):
        asked = INVENTORY.with_charge({"nanjing": gateways[0]})
        assert asked.drain({"nanjing": "n1"}).sites["nanjing"].gateways == ("n2", "n1")


def test_only_the_gateways_of_the_site_have_the_file() -> None:
    drained_mesh = compile_mesh(INVENTORY.drain({"nanjing": "n1"}))
    have = [name for name, config in drained_mesh.items() if config.drained]
    assert have == ["n1", "n2"]
    files = [render_host(config, {}, placeholders=True) for config in drained_mesh.values()]
    assert ["/etc/isthmus/wg0.drained" in file for file in files] == [True, True, False, False, False]


def facts_with_charges(noted: dict[str, str], unseen: str | None = None) -> dict[str, Facts]:
    """Return what hosts with their watchers look like that go by these gateways."""
    fleet = FakeFleet(INVENTORY)
    for name in ("n2", "n3", "s1"):
        fleet[name].state.watching = True
        fleet[name].charges = [("nanjing", noted[name], "why")] if name in noted else []
    found = observe(fleet, INVENTORY, [name for name in INVENTORY.hosts if name != unseen])  # type: ignore[arg-type]
    return {name: facts for name, facts in found.items() if isinstance(facts, Facts)}


@pytest.mark.parametrize(
    ("noted", "unseen", "expected", "running"),
    [
        ({}, None, Charge("nanjing", "n1", None, ""), "n1"),
        ({"n2": "n2", "n3": "n2", "s1": "n2"}, None, Charge("nanjing", "n2", 60, "why"), "n2"),
        ({"n2": "n2"}, None, Charge("nanjing", "n2", 60, "why", ("n3", "s1")), "n2"),
        ({"n2": "n1", "n3": "n1", "s1": "n2"}, None, Charge("nanjing", "n1", 60, "why", ("s1",)), "n1"),
        # who follows has no say; who cannot be asked is not heard by followers either
        ({"n3": "n2"}, None, Charge("nanjing", "n1", None, ""), "n1"),
        ({"n3": "n2"}, "n2", Charge("nanjing", "n1", None, "n2, which would know, was not reached"), "n1"),
        ({"n2": "s1"}, None, Charge("nanjing", "n1", None, ""), "n1"),
    ],
)
def test_the_second_gateway_says_who_is_in_charge(
    noted: dict[str, str], unseen: str | None, expected: Charge, running: str
) -> None:
    facts = facts_with_charges(noted, unseen)
    assert charges(INVENTORY, facts) == (expected,)
    assert as_found(INVENTORY, facts) == INVENTORY
    assert as_running(INVENTORY, facts).sites["nanjing"].gateway == running


def test_what_a_watcher_has_noted_means_nothing_while_a_gateway_is_drained() -> None:
    facts = facts_with_charges({"n2": "n2"})
    inventory = INVENTORY.drain({"nanjing": "n2"})
    assert taken(inventory, facts) == {}
    assert charges(inventory, facts) == (Charge("nanjing", "n1", None, "n2 is drained"),)
