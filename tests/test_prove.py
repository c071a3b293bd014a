"""The proof before anything is touched, with every gateway in charge that may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from strategies import inventory_text

from isthmus import prove as prove_module
from isthmus.compile import compile_mesh
from isthmus.errors import BrokenPromiseError
from isthmus.inventory import load_inventory, parse_inventory
from isthmus.model import HostConfig, Inventory
from isthmus.prove import prove
from isthmus.verify import machines_of, promised_path, verify

GOLDEN = Path(__file__).parent / "golden"
PROBES = "252.16.0.2/32"
"""Where n2's probes through n1 come from."""


def two_gateways() -> Inventory:
    return load_inventory(GOLDEN / "two_gateways" / "hosts.toml")


def prefixes(config: HostConfig) -> dict[str, list[str]]:
    return {peer.host: [str(network) for network in peer.allowed_ips] for peer in config.peers}


def test_every_broken_promise_is_raised_with_its_walk() -> None:
    inventory = load_inventory(GOLDEN / "article" / "hosts.toml")
    configs = compile_mesh(inventory)
    prove(inventory, configs)
    without = {**configs, "n1": replace(configs["n1"], sysctls=())}
    with pytest.raises(BrokenPromiseError) as caught:
        prove(inventory, without)
    assert len(caught.value.broken) == 6
    assert "n1  in by wg0 from n2; STOP: net.ipv4.ip_forward is 0" in caught.value.broken[0]


def test_what_each_gateway_in_charge_is_given() -> None:
    """The table of the design: only leaves of the site and gateways of the others have anything to switch."""
    inventory = two_gateways()
    before = compile_mesh(inventory)
    after = compile_mesh(inventory.with_charge({"nanjing": "n2"}))
    assert {name for name in before if before[name] != after[name]} == {"n3", "s1"}
    outside = [str(n) for n in sorted(IPv4Network("172.16.0.0/12").address_exclude(IPv4Network("172.16.0.0/24")))]
    assert prefixes(before["n3"]) == {"n1": outside, "n2": []}
    assert prefixes(after["n3"]) == {"n1": [], "n2": outside}
    assert prefixes(before["s1"]) == {
        "n1": ["172.16.0.0/24", PROBES],
        "n2": ["172.16.0.2/32"],
        "s2": ["172.16.128.2/32"],
    }
    assert prefixes(after["s1"]) == {
        "n1": ["172.16.0.1/32", PROBES],
        "n2": ["172.16.0.0/24"],
        "s2": ["172.16.128.2/32"],
    }
    assert prefixes(before["n2"]) == {
        "n1": ["172.16.0.1/32", "244.16.128.1/32"],
        "n3": ["172.16.0.3/32"],
        "s1": ["172.16.128.0/24"],
    }
    assert [replace(peer, allowed_ips=()) for peer in before["s1"].peers] == [
        replace(peer, allowed_ips=()) for peer in after["s1"].peers
    ]


def test_promised_paths_with_a_gateway_standing_by() -> None:
    inventory = two_gateways()
    assert str(promised_path(inventory, "n3", "s2")) == "n3 ==> n1 =internet=> s1 ==> s2"
    assert str(promised_path(inventory, "n2", "s2")) == "n2 =internet=> s1 ==> s2"
    assert str(promised_path(inventory, "s2", "n2")) == "s2 ==> s1 =internet=> n2"
    after = inventory.with_charge({"nanjing": "n2"})
    assert str(promised_path(after, "n3", "s2")) == "n3 ==> n2 =internet=> s1 ==> s2"
    assert str(promised_path(after, "n1", "mysql")) == "n1 =internet=> s1 --> mysql"


def test_a_fault_that_shows_only_when_the_other_gateway_is_in_charge_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    inventory = two_gateways()
    configs = compile_mesh(inventory)

    def forgetful(changed: Inventory) -> Mapping[str, HostConfig]:
        """Leave the way back to n3 out on n2, which nobody needs as long as n1 is in charge."""
        compiled = compile_mesh(changed)
        n2 = compiled["n2"]
        kept = tuple(route for route in n2.routes if str(route.destination) != "172.16.0.3/32")
        return {**compiled, "n2": replace(n2, routes=kept)}

    machines = machines_of(forgetful(inventory), inventory)
    assert verify(machines, inventory) == ()
    monkeypatch.setattr(prove_module, "compile_mesh", forgetful)
    with pytest.raises(BrokenPromiseError) as caught:
        prove(inventory, configs)
    assert all(text.startswith("with n2 in charge: promise broken: ") for text in caught.value.broken)
    assert any("s1 to n3" in text for text in caught.value.broken)


@given(inventory_text())
def test_each_gateway_that_stands_by_is_tried_beside_every_other_site_as_it_is(text: str) -> None:
    inventory = parse_inventory(text, "generated")
    tried = list(prove_module._other_charges(inventory))
    standing_by = {name: site.gateways[1] for name, site in inventory.sites.items() if len(site.gateways) > 1}
    assert all(charge.items() <= standing_by.items() for charge in tried)
    for site in standing_by:
        assert any(site in charge for charge in tried)
        for other in inventory.sites.keys() - {site}:
            assert any(site in charge and other not in charge for charge in tried)


@given(inventory_text())
def test_every_inventory_keeps_its_promises_whatever_gateway_fails(text: str) -> None:
    inventory = parse_inventory(text, "generated")
    prove(inventory, compile_mesh(inventory))


@given(inventory_text())
def test_after_a_gateway_s_failure_nobody_else_misses_it(text: str) -> None:
    """Take the host away altogether: all that is left keeps its promises with the other gateway in charge."""
    inventory = parse_inventory(text, "generated")
    for site in inventory.sites.values():
        for failed, takes_over in zip(site.gateways[:2], site.gateways[1::-1], strict=False):
            if failed == takes_over:
                continue
            after = inventory.with_charge({site.name: takes_over})
            machines = {name: m for name, m in machines_of(compile_mesh(after), after).items() if name != failed}
            assert [fault for fault in verify(machines, after) if failed not in fault.subject.split(" to ")] == []


def test_charge_goes_only_to_a_gateway_of_the_site() -> None:
    with pytest.raises(ValueError, match="n3"):
        two_gateways().with_charge({"nanjing": "n3"})
