"""Firewall policy: the article's cluster by hand, then promises for any inventory."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import inventories

from isthmus.firewall import compile_firewall
from isthmus.inventory import load_inventory
from isthmus.model import Chain, FirewallRule, Inventory, Target

ARTICLE = Path(__file__).parent.parent / "hosts.toml"

SUPERNET = IPv4Network("172.16.0.0/12")
NANJING = IPv4Network("172.16.0.0/24")
SHANGHAI = IPv4Network("172.16.128.0/24")
MYSQL = IPv4Network("172.16.128.50/32")

TUNNEL = FirewallRule(Chain.INPUT, Target.ACCEPT, protocol="udp", destination_port=51820)
CLAMP = (
    FirewallRule(Chain.MANGLE, Target.CLAMP_MSS, in_interface="wg0", protocol="tcp"),
    FirewallRule(Chain.MANGLE, Target.CLAMP_MSS, out_interface="wg0", protocol="tcp"),
)


def through(source: IPv4Network, destination: IPv4Network) -> FirewallRule:
    return FirewallRule(Chain.FORWARD, Target.ACCEPT, source, destination, "wg0", "wg0")


@pytest.fixture(scope="module")
def article() -> dict[str, tuple[FirewallRule, ...]]:
    return compile_firewall(load_inventory(ARTICLE))


@pytest.mark.parametrize("leaf", ["n2", "n3"])
def test_a_leaf_admits_the_tunnel_and_nothing_else(article: dict[str, tuple[FirewallRule, ...]], leaf: str) -> None:
    assert article[leaf] == (TUNNEL,)


def test_a_gateway_without_resources_forwards_between_its_site_and_the_others_and_replaces_no_source(
    article: dict[str, tuple[FirewallRule, ...]],
) -> None:
    assert article["n1"] == (TUNNEL, through(NANJING, SUPERNET), through(SUPERNET, NANJING), *CLAMP)


def test_a_gateway_lets_the_mesh_open_flows_to_its_resource_with_its_own_address(
    article: dict[str, tuple[FirewallRule, ...]],
) -> None:
    assert article["s1"] == (
        TUNNEL,
        through(SHANGHAI, SUPERNET),
        through(SUPERNET, SHANGHAI),
        FirewallRule(Chain.FORWARD, Target.ACCEPT, None, MYSQL, "wg0", "!wg0"),
        FirewallRule(Chain.FORWARD, Target.ACCEPT, MYSQL, None, None, "wg0", established=True),
        *CLAMP,
        FirewallRule(
            Chain.NAT,
            Target.SNAT,
            SUPERNET,
            MYSQL,
            None,
            "!wg0",
            to_source=IPv4Address("172.16.128.1"),
        ),
    )


@given(inventories(), st.randoms(use_true_random=False))
def test_the_order_of_the_file_changes_no_rule(inventory: Inventory, random: Random) -> None:
    sites, resources = list(inventory.sites.items()), list(inventory.resources.items())
    random.shuffle(sites)
    random.shuffle(resources)
    shuffled = replace(inventory, sites=dict(sites), resources=dict(resources))
    assert compile_firewall(inventory) == compile_firewall(shuffled)


@given(inventories())
def test_every_host_admits_the_tunnel_first(inventory: Inventory) -> None:
    rules = compile_firewall(inventory)
    assert list(rules) == list(inventory.hosts)
    for host in inventory.hosts:
        first = rules[host][0]
        assert (first.chain, first.target) == (Chain.INPUT, Target.ACCEPT)
        assert (first.protocol, first.destination_port) == ("udp", inventory.mesh.listen_port)


@given(inventories())
def test_only_traffic_to_a_resource_gets_another_source_and_only_at_its_own_gateways(inventory: Inventory) -> None:
    """
    Members see each other's true addresses: no SNAT rule matches a member as destination.
    """
    resources = {IPv4Network(resource.address): resource for resource in inventory.resources.values()}
    replaced = [(host, rule) for host, rules in compile_firewall(inventory).items() for rule in rules if rule.to_source]
    assert sorted((host, rule.destination) for host, rule in replaced) == sorted(
        (gateway, network)
        for network, resource in resources.items()
        for gateway in inventory.sites[resource.site].gateways
    )
    for host, rule in replaced:
        assert rule.to_source == inventory.hosts[host].address
        assert rule.out_interface == f"!{inventory.mesh.interface}"


@given(inventories())
def test_nothing_is_forwarded_that_neither_comes_from_the_mesh_nor_answers_it(inventory: Inventory) -> None:
    for rules in compile_firewall(inventory).values():
        for rule in rules:
            if rule.chain is Chain.FORWARD:
                assert rule.in_interface == inventory.mesh.interface or rule.established
