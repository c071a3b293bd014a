"""What is probed and who follows whom, and that verify lets probes through and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from strategies import inventory_text

from isthmus.compile import compile_mesh
from isthmus.inventory import load_inventory, parse_inventory
from isthmus.model import Chain, FirewallRule, HostConfig, Inventory, Route, Target
from isthmus.verify import Promise, machines_of, verify

TWO = load_inventory(Path(__file__).parent / "golden" / "two_gateways" / "hosts.toml")
CONFIGS = compile_mesh(TWO)
NET = IPv4Network


def both_sites_with_two() -> Inventory:
    text = Path(TWO.source).read_text(encoding="utf-8")
    text = text.replace('gateways = ["s1"]', 'gateways = ["s1", "s2"]')
    text = text.replace('address = "172.16.128.2"\n', 'address = "172.16.128.2"\npublic = "203.0.113.130"\n')
    return parse_inventory(text, "hosts.toml")


def owner(config: HostConfig, address: str) -> str | None:
    """Return the one peer whose AllowedIPs have this address and nothing else."""
    found = [peer.host for peer in config.peers if NET(address) in peer.allowed_ips]
    assert len(found) <= 1
    return found[0] if found else None


def probe_path(configs: dict[str, HostConfig], start: str, source: IPv4Address, target: IPv4Address) -> list[str]:
    """Return the hosts a packet passes, by nothing but owners of the very addresses; each must believe the last."""
    path = [start]
    while target not in configs[path[-1]].probe_addresses:
        following = owner(configs[path[-1]], str(target))
        assert following is not None, path
        assert owner(configs[following], str(source)) == path[-1], f"{following} believes {path[-1]} not"
        path.append(following)
        assert len(path) < 5, path
    return path


def test_a_probe_goes_through_the_first_and_its_answer_comes_back_through_it() -> None:
    n2, s1 = TWO.hosts["n2"], TWO.hosts["s1"]
    assert probe_path(CONFIGS, "n2", n2.probing, s1.probed) == ["n2", "n1", "s1"]
    assert probe_path(CONFIGS, "s1", s1.probed, n2.probing) == ["s1", "n1", "n2"]
    assert {name for name, config in CONFIGS.items() if config.probe_addresses} == {"n2", "s1"}
    for config in CONFIGS.values():
        probes = {NET(address) for address in (n2.probing, s1.probed)} - set(map(NET, config.probe_addresses))
        routed = {route.destination for route in config.routes} & probes
        assert routed == {network for peer in config.peers for network in peer.allowed_ips} & probes


def test_where_both_sites_have_two_gateways_probes_do_not_meet() -> None:
    inventory = both_sites_with_two()
    configs = compile_mesh(inventory)
    hosts = inventory.hosts
    for second, first, far in (("n2", "n1", ("s1", "s2")), ("s2", "s1", ("n1", "n2"))):
        for gateway in far:
            probing, probed = hosts[second].probing, hosts[gateway].probed
            assert probe_path(configs, second, probing, probed) == [second, first, gateway]
            assert probe_path(configs, gateway, probed, probing) == [gateway, first, second]
    assert verify(machines_of(configs, inventory), inventory) == ()


def test_who_decides_stays_whoever_is_in_charge_and_nobody_does_while_one_is_drained() -> None:
    before = CONFIGS["n2"].decides
    assert before is not None
    assert (before.first, before.second, [str(leaf) for leaf in before.inside]) == ("n1", "n2", ["172.16.0.3"])
    after = compile_mesh(TWO.with_charge({"nanjing": "n2"}))
    assert after["n2"].decides == before
    assert [follow.moved for follow in after["s1"].follows] == [follow.moved for follow in CONFIGS["s1"].follows]
    (follow,) = CONFIGS["s1"].follows
    assert dict(follow.moved) == {peer.host: peer.allowed_ips for peer in after["s1"].peers if peer.host != "s2"}
    drained = compile_mesh(TWO.drain({"nanjing": "n1"}))
    assert not any(config.watches for config in drained.values())
    assert {name: config.probe_addresses for name, config in drained.items()} == {
        name: config.probe_addresses for name, config in CONFIGS.items()
    }


def test_a_mesh_without_a_second_gateway_or_another_site_watches_nothing() -> None:
    golden = Path(__file__).parent / "golden"
    for name in ("article", "three_sites", "one_site"):
        configs = compile_mesh(load_inventory(golden / name / "hosts.toml")).values()
        assert not any(config.watches or config.probe_addresses for config in configs)


@given(inventory_text())
def test_every_second_gateway_has_its_way_through_the_first_to_all_others(text: str) -> None:
    inventory = parse_inventory(text, "hosts.toml")
    configs = compile_mesh(inventory)
    for site in inventory.sites.values():
        far = [name for other in inventory.sites.values() if other != site for name in other.gateways]
        for gateway in far if site.second else ():
            second, target = inventory.hosts[site.second or ""], inventory.hosts[gateway]
            assert probe_path(configs, second.name, second.probing, target.probed)[1:] == [site.first, gateway]
            assert probe_path(configs, gateway, target.probed, second.probing)[1:] == [site.first, second.name]


# --- what verify says of more than that ---------------------------------------------------------------------------


def also(host: str, peer: str, network: str) -> Callable[[HostConfig], HostConfig]:
    def change(config: HostConfig) -> HostConfig:
        peers = tuple(
            replace(one, allowed_ips=(*one.allowed_ips, NET(network))) if one.host == peer else one
            for one in config.peers
        )
        return replace(config, peers=peers)

    return change


def accepting(source: str, destination: str) -> Callable[[HostConfig], HostConfig]:
    rule = FirewallRule(
        Chain.FORWARD,
        Target.ACCEPT,
        source=NET(source),
        destination=NET(destination),
        in_interface="wg0",
        out_interface="wg0",
    )
    return lambda config: replace(config, firewall=(*config.firewall, rule))


FAULTS: dict[str, tuple[str, Callable[[HostConfig], HostConfig], str]] = {
    "a probe address too many": (
        "n3",
        lambda config: replace(config, probe_addresses=(IPv4Address("252.16.0.3"),)),
        "n3: wg0 has 172.16.0.3/32, 252.16.0.3/32, not 172.16.0.3/32",
    ),
    "a probe address too few": (
        "n2",
        lambda config: replace(config, probe_addresses=()),
        "n2: wg0 has 172.16.0.2/32, not 172.16.0.2/32, 252.16.0.2/32",
    ),
    "another owner": ("s1", also("s1", "n2", "252.16.0.2/32"), "s1: the key of n2 may send as 252.16.0.2/32"),
    "a leaf that probes": ("n1", also("n1", "n3", "252.16.0.3/32"), "n1: the key of n3 may send as 252.16.0.3/32"),
    "more than one address": ("n1", also("n1", "s1", "240.0.0.0/5"), "n1: the key of s1 may send as 240.0.0.0/5"),
    "a route to nobody's": (
        "n1",
        lambda config: replace(config, routes=(*config.routes, Route(NET("244.16.0.3/32"), "wg0"))),
        "n1: 244.16.0.3/32 dev wg0 leads what no other site owns into the mesh",
    ),
    "probes of somebody else": (
        "n1",
        accepting("252.16.0.3/32", "240.0.0.0/5"),
        "n1: FORWARD accepts 252.16.0.3/32 to 240.0.0.0/5 in wg0 out wg0",
    ),
    "probes to anywhere": (
        "n1",
        accepting("252.16.0.2/32", "0.0.0.0/0"),
        "n1: FORWARD accepts 252.16.0.2/32 to 0.0.0.0/0 in wg0 out wg0",
    ),
    "probes through the second": (
        "n2",
        accepting("252.16.0.2/32", "240.0.0.0/5"),
        "n2: FORWARD accepts 252.16.0.2/32 to 240.0.0.0/5 in wg0 out wg0",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_verify_lets_nothing_be_more_than_the_probes_need(name: str) -> None:
    assert verify(machines_of(CONFIGS, TWO), TWO) == ()
    host, change, expected = FAULTS[name]
    broken = [str(fault) for fault in verify(machines_of({**CONFIGS, host: change(CONFIGS[host])}, TWO), TWO)]
    assert any(expected in fault for fault in broken), broken


def without(destination: str) -> Callable[[HostConfig], HostConfig]:
    return lambda config: replace(
        config,
        peers=tuple(
            replace(peer, allowed_ips=tuple(network for network in peer.allowed_ips if str(network) != destination))
            for peer in config.peers
        ),
    )


def refusing(config: HostConfig) -> HostConfig:
    kept = tuple(rule for rule in config.firewall if rule.source is None or str(rule.source) != "252.16.0.2/32")
    return replace(config, firewall=kept)


BLIND: dict[str, tuple[str, Callable[[HostConfig], HostConfig], str]] = {
    "n2 has no way to it": ("n2", without("244.16.128.1/32"), "STOP: no peer's AllowedIPs hold 244.16.128.1"),
    "n1 has no way on": ("n1", without("244.16.128.1/32"), "STOP: no peer's AllowedIPs hold 244.16.128.1"),
    "n1 has no way back": ("n1", without("252.16.0.2/32"), "do not hold the source 252.16.0.2"),
    "s1 has no way back": ("s1", without("252.16.0.2/32"), "do not hold the source 252.16.0.2"),
    "n1 lets it not pass": ("n1", refusing, "not 252.16.0.2 to 244.16.128.1 in wg0 out wg0"),
    "n1 does not forward": ("n1", lambda config: replace(config, sysctls=()), "STOP: net.ipv4.ip_forward is 0"),
}


@pytest.mark.parametrize("name", BLIND)
def test_verify_finds_a_second_gateway_that_cannot_see_what_the_first_reaches(name: str) -> None:
    host, change, stop = BLIND[name]
    faults = verify(machines_of({**CONFIGS, host: change(CONFIGS[host])}, TWO), TWO)
    probes = [str(fault) for fault in faults if fault.promise is Promise.PROBED]
    assert probes, faults
    assert "n2 to n1 to s1\npromised is n2 ==> n1 =internet=> s1\n" in probes[0]
    assert stop in probes[0]
