"""Peers, routes, rules and sysctls: the article's cluster spelled out by hand, then promises for any inventory."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from itertools import pairwise, permutations
from pathlib import Path
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import inventories

from isthmus.inventory import load_inventory
from isthmus.model import Endpoint, Host, HostConfig, Inventory, Mesh, Peer, Route, Rule, Site, Ssh
from isthmus.network import compile_network

ARTICLE = Path(__file__).parent.parent / "hosts.toml"

TWELVE = [
    "172.16.1.0/24",
    "172.16.2.0/23",
    "172.16.4.0/22",
    "172.16.8.0/21",
    "172.16.16.0/20",
    "172.16.32.0/19",
    "172.16.64.0/18",
    "172.16.128.0/17",
    "172.17.0.0/16",
    "172.18.0.0/15",
    "172.20.0.0/14",
    "172.24.0.0/13",
]
"""The article's list, in the article's order."""


def networks(*texts: str) -> tuple[IPv4Network, ...]:
    return tuple(map(IPv4Network, texts))


def endpoint(address: str) -> Endpoint:
    return Endpoint(IPv4Address(address), 51820)


def main_route(destination: str) -> Route:
    return Route(IPv4Network(destination), "wg0", 254)


def leaf_route(destination: str) -> Route:
    return Route(IPv4Network(destination), "wg0", 5182)


@pytest.fixture(scope="module")
def article() -> dict[str, HostConfig]:
    return compile_network(load_inventory(ARTICLE))


# --- the article ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", ["n2", "n3"])
def test_a_leaf_of_the_article_has_its_gateway_with_the_twelve_networks(
    article: dict[str, HostConfig], leaf: str
) -> None:
    assert article[leaf].peers == (Peer("n1", networks(*TWELVE), endpoint("172.16.0.1")),)


def test_n1_has_the_peers_of_the_article(article: dict[str, HostConfig]) -> None:
    assert article["n1"].peers == (
        Peer("n2", networks("172.16.0.2/32"), endpoint("172.16.0.2")),
        Peer("n3", networks("172.16.0.3/32"), endpoint("172.16.0.3")),
        Peer("s1", networks("172.16.128.0/24"), endpoint("203.0.113.129"), 25),
    )


def test_s1_has_the_peer_of_the_article_with_its_slip_corrected(article: dict[str, HostConfig]) -> None:
    assert article["s1"].peers == (Peer("n1", networks("172.16.0.0/24"), endpoint("203.0.113.1"), 25),)


@pytest.mark.parametrize("leaf", ["n2", "n3"])
def test_a_leaf_routes_only_the_other_sites_into_the_mesh(article: dict[str, HostConfig], leaf: str) -> None:
    assert article[leaf].routes == (main_route("172.16.128.0/24"),)
    assert article[leaf].rules == ()
    assert article[leaf].sysctls == ()


def test_a_gateway_routes_the_other_sites_and_leads_packets_from_the_mesh_back_to_its_leaves(
    article: dict[str, HostConfig],
) -> None:
    assert article["n1"].routes == (
        main_route("172.16.128.0/24"),
        leaf_route("172.16.0.2/32"),
        leaf_route("172.16.0.3/32"),
    )
    assert article["n1"].rules == (Rule("wg0", 5182, 5182),)


def test_a_gateway_without_leaves_has_the_rule_and_an_empty_table(article: dict[str, HostConfig]) -> None:
    assert article["s1"].routes == (main_route("172.16.0.0/24"),)
    assert article["s1"].rules == (Rule("wg0", 5182, 5182),)


def test_gateways_forward_and_send_no_redirects(article: dict[str, HostConfig]) -> None:
    for gateway in ("n1", "s1"):
        assert article[gateway].sysctls == (
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.default.send_redirects", "0"),
            ("net.ipv4.ip_forward", "1"),
        )


def test_hosts_keep_their_own_settings_and_the_order_of_the_file(article: dict[str, HostConfig]) -> None:
    assert [
        (config.host, config.site, str(config.address), config.interface, config.listen_port, config.mtu)
        for config in article.values()
    ] == [
        ("n1", "nanjing", "172.16.0.1", "wg0", 51820, 1420),
        ("n2", "nanjing", "172.16.0.2", "wg0", 51820, 1420),
        ("n3", "nanjing", "172.16.0.3", "wg0", 51820, 1420),
        ("s1", "shanghai", "172.16.128.1", "wg0", 51820, 1420),
    ]
    assert list(article) == ["n1", "n2", "n3", "s1"]


# --- order --------------------------------------------------------------------------------------------------------


def test_peers_and_routes_are_sorted_by_number_not_by_text_or_place_in_the_file() -> None:
    hosts = [
        Host("gate", "here", IPv4Address("10.0.0.1"), IPv4Address("203.0.113.1")),
        Host("a", "here", IPv4Address("10.0.0.100")),
        Host("b", "here", IPv4Address("10.0.0.9")),
        Host("far", "there", IPv4Address("10.0.10.1"), IPv4Address("203.0.113.3")),
        Host("near", "between", IPv4Address("10.0.9.1"), IPv4Address("203.0.113.2")),
    ]
    sites = [
        Site("here", IPv4Network("10.0.0.0/24"), ("gate",)),
        Site("there", IPv4Network("10.0.10.0/24"), ("far",)),
        Site("between", IPv4Network("10.0.9.0/24"), ("near",)),
    ]
    inventory = Inventory(
        source="test",
        mesh=Mesh(IPv4Network("10.0.0.0/16")),
        ssh=Ssh(),
        sites={site.name: site for site in sites},
        hosts={host.name: host for host in hosts},
    )
    gate = compile_network(inventory)["gate"]
    assert [peer.host for peer in gate.peers] == ["b", "a", "near", "far"]
    assert [(route.table, str(route.destination)) for route in gate.routes] == [
        (254, "10.0.9.0/24"),
        (254, "10.0.10.0/24"),
        (5182, "10.0.0.9/32"),
        (5182, "10.0.0.100/32"),
    ]


# --- promises for any inventory -----------------------------------------------------------------------------------


@given(inventories(), st.randoms(use_true_random=False))
def test_the_order_of_the_file_changes_nothing_on_any_host(inventory: Inventory, random: Random) -> None:
    hosts, sites = list(inventory.hosts.items()), list(inventory.sites.items())
    random.shuffle(hosts)
    random.shuffle(sites)
    assert compile_network(inventory) == compile_network(replace(inventory, hosts=dict(hosts), sites=dict(sites)))


@given(inventories())
def test_allowed_ips_of_a_host_overlap_only_where_a_gateway_that_stands_by_has_its_own_address(
    inventory: Inventory,
) -> None:
    standing_by = {host.name: host.address for host in inventory.hosts.values() if not inventory.in_charge(host.name)}
    for config in compile_network(inventory).values():
        taken = {network: peer.host for peer in config.peers for network in peer.allowed_ips}
        assert len(taken) == sum(len(peer.allowed_ips) for peer in config.peers)
        # Inside its site's subnet, which belongs to the one in charge: the longest prefix wins.
        apart = [
            network
            for network, peer in taken.items()
            if inventory.hosts[peer].site == config.site
            or not inventory.is_gateway(peer)
            or network != IPv4Network(standing_by.get(peer, 0))
        ]
        for network, following in pairwise(sorted(apart)):
            assert network[-1] < following[0], config.host


@given(inventories())
def test_a_leaf_accepts_the_supernet_without_its_own_subnet_in_the_fewest_networks(inventory: Inventory) -> None:
    configs = compile_network(inventory)
    for site in inventory.sites.values():
        for leaf in inventory.leaves(site.name):
            peers = {peer.host: peer for peer in configs[leaf.name].peers}
            assert set(peers) == set(site.gateways)
            for name, peer in peers.items():
                assert peer.endpoint == Endpoint(inventory.hosts[name].address, inventory.mesh.listen_port)
                assert name == site.gateway or peer.allowed_ips == ()
            peer = peers[site.gateway]
            assert peer.allowed_ips == tuple(collapse_addresses(peer.allowed_ips))
            assert not any(network.overlaps(site.subnet) for network in peer.allowed_ips)
            whole = tuple(collapse_addresses((*peer.allowed_ips, site.subnet)))
            assert whole == (inventory.mesh.supernet,)


@given(inventories())
def test_every_host_routes_exactly_the_other_sites_into_the_mesh(inventory: Inventory) -> None:
    for config in compile_network(inventory).values():
        into_mesh = [route for route in config.routes if route.table == 254]
        assert {route.device for route in config.routes} <= {inventory.mesh.interface}
        assert [route.destination for route in into_mesh] == sorted(
            site.subnet for site in inventory.sites.values() if site.name != config.site
        )


@given(inventories())
def test_two_hosts_are_peers_of_each_other_or_of_neither(inventory: Inventory) -> None:
    configs = compile_network(inventory)
    pairs = {(config.host, peer.host) for config in configs.values() for peer in config.peers}
    assert pairs == {(second, first) for first, second in pairs}
    gateways = {name for site in inventory.sites.values() for name in site.gateways}
    for first, second in permutations(configs, 2):
        same_site = configs[first].site == configs[second].site
        found = len({first, second} & gateways)
        assert ((first, second) in pairs) == (found >= 1 if same_site else found == 2)


@given(inventories(), st.data())
def test_adding_a_host_changes_only_itself_and_its_gateways_and_moves_nobody(
    inventory: Inventory, data: st.DataObject
) -> None:
    site = inventory.sites[data.draw(st.sampled_from(sorted(inventory.sites)))]
    address = data.draw(st.integers(1, site.subnet.num_addresses - 2).map(lambda number: site.subnet[number]))
    assume(address not in {thing.address for thing in (*inventory.hosts.values(), *inventory.resources.values())})
    place = data.draw(st.integers(0, len(inventory.hosts)))
    hosts = list(inventory.hosts.items())
    hosts.insert(place, ("added", Host("added", site.name, address)))
    before = compile_network(inventory)
    after = compile_network(replace(inventory, hosts=dict(hosts)))
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"added", *site.gateways}
    for gateway in site.gateways:
        old, new = before[gateway], after[gateway]
        assert new.address == old.address
        assert [peer for peer in new.peers if peer.host != "added"] == list(old.peers)
        assert set(new.routes) - set(old.routes) == {Route(IPv4Network(address), new.interface, 5182)}
        assert set(old.routes) <= set(new.routes)


@given(inventories(), st.data())
def test_a_site_that_joins_or_leaves_changes_one_route_of_a_leaf_and_no_peer(
    inventory: Inventory, data: st.DataObject
) -> None:
    assume(len(inventory.sites) > 1)
    gone = inventory.sites[data.draw(st.sampled_from(sorted(inventory.sites)))]
    without = replace(
        inventory,
        sites={name: site for name, site in inventory.sites.items() if name != gone.name},
        hosts={name: host for name, host in inventory.hosts.items() if host.site != gone.name},
    )
    big, small = compile_network(inventory), compile_network(without)
    for name, config in small.items():
        assert set(big[name].routes) - set(config.routes) == {Route(gone.subnet, config.interface)}
        assert set(config.routes) <= set(big[name].routes)
        joined = [peer.host for peer in big[name].peers if peer not in config.peers]
        assert sorted(joined) == (sorted(gone.gateways) if without.is_gateway(name) else [])


@given(inventories(), st.data())
def test_another_gateway_in_charge_moves_allowed_ips_of_leaves_and_of_other_sites_gateways_and_nothing_else(
    inventory: Inventory, data: st.DataObject
) -> None:
    two = [site for site in inventory.sites.values() if len(site.gateways) > 1]
    assume(two)
    site = data.draw(st.sampled_from(two))
    before = compile_network(inventory)
    after = compile_network(inventory.with_charge({site.name: site.gateways[1]}))
    leaves = {leaf.name for leaf in inventory.leaves(site.name)}
    others = {name for other in inventory.sites.values() if other != site for name in other.gateways}
    for name, config in after.items():
        if name not in leaves | others:
            assert config == before[name]
            continue
        peers = {peer.host: peer for peer in config.peers}
        for peer in before[name].peers:
            assert replace(peers[peer.host], allowed_ips=peer.allowed_ips) == peer
            assert (peers[peer.host] != peer) == (peer.host in site.gateways)
        assert replace(config, peers=before[name].peers) == before[name]
