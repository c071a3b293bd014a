"""Which ports must be open: every rule of the article, and what other shapes change."""

from __future__ import annotations

import json
import re
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from isthmus.inventory import load_inventory
from isthmus.model import Inventory
from isthmus.network import compile_network
from isthmus.ports import WORKSTATION, Service, port_rules
from isthmus.report import security_groups
from isthmus.watching import add_watching

CLUSTER = (Path(__file__).parent.parent / "hosts.toml").read_text(encoding="utf-8")
ARTICLE = CLUSTER.partition("[kubernetes]")[0]
"""The mesh alone."""


def inventory(folder: Path, text: str = ARTICLE) -> Inventory:
    (folder / "hosts.toml").write_text(text, encoding="utf-8")
    return load_inventory(folder / "hosts.toml")


def test_the_rules_of_the_article(tmp_path: Path) -> None:
    rules = port_rules(inventory(tmp_path))
    assert [(r.host, r.admits, str(r.address), r.source, str(r.source_address)) for r in rules] == [
        ("n1", "22/tcp", "203.0.113.1", WORKSTATION, "None"),
        ("n1", "51820/udp", "203.0.113.1", "s1", "203.0.113.129"),
        ("n1", "51820/udp", "172.16.0.1", "n2", "172.16.0.2"),
        ("n1", "51820/udp", "172.16.0.1", "n3", "172.16.0.3"),
        ("n2", "22/tcp", "203.0.113.2", WORKSTATION, "None"),
        ("n2", "51820/udp", "172.16.0.2", "n1", "172.16.0.1"),
        ("n3", "22/tcp", "172.16.0.3", "n1", "172.16.0.1"),
        ("n3", "51820/udp", "172.16.0.3", "n1", "172.16.0.1"),
        ("s1", "22/tcp", "203.0.113.129", WORKSTATION, "None"),
        ("s1", "51820/udp", "203.0.113.129", "n1", "203.0.113.1"),
    ]
    assert {rule.direction for rule in rules} == {"ingress"}
    assert rules[1].why == "WireGuard from shanghai; carries all that its hosts say to those of nanjing"


def test_a_gateway_that_stands_by_needs_what_the_one_in_charge_needs(tmp_path: Path) -> None:
    rules = port_rules(inventory(tmp_path, ARTICLE.replace('gateways = ["n1"]', 'gateways = ["n1", "n2"]')))
    by_host = {host: [(r.admits, str(r.address), r.source) for r in rules if r.host == host] for host in ("n2", "n3")}
    assert by_host == {
        "n2": [
            ("22/tcp", "203.0.113.2", WORKSTATION),
            ("51820/udp", "203.0.113.2", "s1"),
            ("51820/udp", "172.16.0.2", "n1"),
            ("51820/udp", "172.16.0.2", "n3"),
            ("icmp", "172.16.0.2", "n3"),
        ],
        "n3": [
            ("22/tcp", "172.16.0.3", "n1"),
            ("22/tcp", "172.16.0.3", "n2"),
            ("51820/udp", "172.16.0.3", "n1"),
            ("51820/udp", "172.16.0.3", "n2"),
            ("icmp", "172.16.0.3", "n2"),
        ],
    }


def test_the_inventorys_own_ports(tmp_path: Path) -> None:
    text = ARTICLE.replace("[mesh]\n", "[mesh]\nlisten_port = 4500\n").replace("listen_port = 51820\n", "")
    text = re.sub(r"(?m)^\[ssh\].*\n", "[ssh]\nport = 2222\n", text)
    assert {(rule.protocol, rule.port) for rule in port_rules(inventory(tmp_path, text))} == {
        ("udp", 4500),
        ("tcp", 2222),
    }


def test_nodes_of_one_site_speak_by_their_private_network(tmp_path: Path) -> None:
    """And to those of other sites inside WireGuard."""
    rules = [rule for rule in port_rules(inventory(tmp_path, CLUSTER)) if rule.service is Service.KUBERNETES]
    assert [(r.host, r.admits, str(r.address), r.source, str(r.source_address)) for r in rules if r.host != "n3"] == [
        ("n1", "6443/tcp", "172.16.0.1", "n2", "172.16.0.2"),
        ("n1", "10250/tcp", "172.16.0.1", "n2", "172.16.0.2"),
        ("n1", "8472/udp", "172.16.0.1", "n2", "172.16.0.2"),
        ("n1", "6443/tcp", "172.16.0.1", "n3", "172.16.0.3"),
        ("n1", "10250/tcp", "172.16.0.1", "n3", "172.16.0.3"),
        ("n1", "8472/udp", "172.16.0.1", "n3", "172.16.0.3"),
        ("n2", "10250/tcp", "172.16.0.2", "n1", "172.16.0.1"),
        ("n2", "8472/udp", "172.16.0.2", "n1", "172.16.0.1"),
        ("n2", "10250/tcp", "172.16.0.2", "n3", "172.16.0.3"),
        ("n2", "8472/udp", "172.16.0.2", "n3", "172.16.0.3"),
    ]
    assert port_rules(inventory(tmp_path, CLUSTER))[:10][1].service is Service.WIREGUARD, "beside the mesh's own"


def test_control_planes_share_etcd(tmp_path: Path) -> None:
    text = re.sub(r"(address = .172.16.0.[23].\n)", r'\1roles = ["control-plane"]\n', CLUSTER)
    rules = [rule for rule in port_rules(inventory(tmp_path, text)) if rule.port in (2379, 2380, 6443)]
    planes = [(a, b) for a in ("n1", "n2", "n3") for b in ("n1", "n2", "n3") if a != b]
    assert [(r.host, r.source, r.port) for r in rules] == [
        (host, source, port) for host, source in planes for port in (6443, 2379, 2380)
    ]


def test_a_dns_name_is_sent_to_as_it_is_and_admitted_from_anywhere(tmp_path: Path) -> None:
    asked = inventory(tmp_path, ARTICLE.replace('"203.0.113.129"', '"s1.example.com"'))
    rules = port_rules(asked)
    assert [(r.address, r.port) for r in rules if r.host == "s1"] == [("s1.example.com", 22), ("s1.example.com", 51820)]
    (from_s1,) = (rule for rule in rules if rule.source == "s1")
    assert from_s1.source_address == "s1.example.com"
    groups = json.loads(security_groups(asked, [from_s1], "tencent", IPv4Network("198.51.100.7/32")))
    (policy,) = groups[0]["SecurityGroupPolicySet"]["Ingress"]
    assert policy["CidrBlock"] == "0.0.0.0/0", "its address may be another tomorrow"


def test_a_single_site_needs_no_wireguard(tmp_path: Path) -> None:
    text = re.sub(r"(?ms)^\[(sites.shanghai|hosts.s1|resources.mysql)\].*?\n(?=\[|\Z)", "", ARTICLE)
    assert {rule.protocol for rule in port_rules(inventory(tmp_path, text))} == {"tcp"}
    inside = port_rules(inventory(tmp_path, re.sub(r"(?m)^public .*\n", "", text)))
    assert {(rule.source, rule.address.is_private) for rule in inside} == {(WORKSTATION, True)}, "we are inside"


@pytest.mark.parametrize(
    "golden", sorted(path.parent.name for path in Path(__file__).parent.glob("golden/*/hosts.toml"))
)
def test_every_endpoint_of_every_peer_is_a_rule_and_nothing_else_is(golden: str) -> None:
    """WireGuard's rules and the compiled network are two readings of one inventory."""
    asked = load_inventory(Path(__file__).parent / "golden" / golden / "hosts.toml")
    if len(asked.sites) == 1:
        return
    endpoints = {
        (name, peer.host, peer.endpoint.name or peer.endpoint.address, peer.endpoint.port)
        for name, config in compile_network(asked).items()
        for peer in config.peers
        if peer.endpoint
    }
    rules = {
        (rule.source, rule.host, rule.address, rule.port)
        for rule in port_rules(asked)
        if rule.service is Service.WIREGUARD
    }
    assert rules == endpoints


@pytest.mark.parametrize(("golden", "count"), [("article", 0), ("two_gateways", 2), ("preshared_keys", 2)])
def test_every_ping_of_a_watcher_within_its_site_is_a_rule_and_no_other_is(golden: str, count: int) -> None:
    asked = load_inventory(Path(__file__).parent / "golden" / golden / "hosts.toml")
    watching = add_watching(asked, compile_network(asked))
    pings = {
        (name, address)
        for name, config in watching.items()
        for address in (
            *(follow.asked for follow in config.follows if follow.site == config.site),
            *(config.decides.inside if config.decides else ()),
        )
    }
    assert len(pings) == count
    rules = [rule for rule in port_rules(asked) if rule.service is Service.PING]
    assert {(rule.source, rule.address) for rule in rules} == pings
    assert {(rule.protocol, rule.port) for rule in rules} <= {("icmp", None)}
