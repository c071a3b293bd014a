"""Lines of iptables-save as recorded and as hands can make them; whole probes are in test_observe.py."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from strategies import inventories

from isthmus.compile import compile_mesh
from isthmus.iptables import own_lines, parse_rule
from isthmus.model import Chain, FirewallRule, Inventory, Target
from isthmus.render import iptables_lines

SAMPLES = Path(__file__).parent / "samples"


def recorded(name: str) -> list[str]:
    text = (SAMPLES / f"{name}.txt").read_text()
    return text.split("@@ firewall\n")[1].split("@@ ")[0].splitlines()


def test_ours_are_our_chains_what_is_in_them_and_the_jumps_each_with_its_table() -> None:
    ours, policies = own_lines(recorded("held"))
    assert ours == (
        "filter :ISTHMUS-INPUT",
        "filter -A INPUT -j ISTHMUS-INPUT",
        "filter -A ISTHMUS-INPUT -p udp -m udp --dport 51820 -j ACCEPT",
    )
    assert policies == {"filter INPUT": "ACCEPT", "filter FORWARD": "ACCEPT"}


def test_dockers_policy_is_read_and_its_rules_are_not_ours() -> None:
    ours, policies = own_lines(recorded("gateway-with-docker"))
    assert policies["filter FORWARD"] == "DROP"
    assert policies["mangle FORWARD"] == "ACCEPT"
    assert not [line for line in ours if "DOCKER" in line or "172.17" in line]
    assert len(ours) == 16


@pytest.mark.parametrize(
    "line",
    [
        '-A FORWARD -s 10.0.0.0/8 -m comment --comment "before ISTHMUS-FORWARD" -j DROP',
        "-A FORWARD -s 10.0.0.0/8 -j ISTHMUS-FORWARD",
        "-A DOCKER-USER -j ISTHMUS-FORWARD",
        "-A OUTPUT -j ISTHMUS-INPUT",
        ":ISTHMUS-MINE - [0:0]",
        "-A ISTHMUS-MINE -j ACCEPT",
        ":ISTHMUS-POSTROUTING - [0:0]",
        "-A",
        "",
    ],
)
def test_a_foreign_line_of_the_filter_table_that_names_us_is_not_ours(line: str) -> None:
    assert own_lines(["*filter", line])[0] == ()


def test_a_second_jump_changes_nothing_but_a_second_rule_in_our_chain_does() -> None:
    jump, rule = "-A INPUT -j ISTHMUS-INPUT", "-A ISTHMUS-INPUT -j ACCEPT"
    assert own_lines(["*filter", jump, jump, rule, rule])[0] == (f"filter {jump}", f"filter {rule}", f"filter {rule}")


def test_each_kind_of_rule_is_read() -> None:
    rules = [parse_rule(line) for line in own_lines(recorded("gateway-with-docker"))[0]]
    site, supernet, resource = map(IPv4Network, ("172.16.128.0/24", "172.16.0.0/12", "172.16.128.50/32"))
    assert [rule for rule in rules if rule] == [
        FirewallRule(Chain.MANGLE, Target.CLAMP_MSS, in_interface="wg0", protocol="tcp"),
        FirewallRule(Chain.MANGLE, Target.CLAMP_MSS, out_interface="wg0", protocol="tcp"),
        FirewallRule(Chain.FORWARD, Target.ACCEPT, site, supernet, "wg0", "wg0"),
        FirewallRule(Chain.FORWARD, Target.ACCEPT, supernet, site, "wg0", "wg0"),
        FirewallRule(Chain.FORWARD, Target.ACCEPT, None, resource, "wg0", "!wg0"),
        FirewallRule(Chain.FORWARD, Target.ACCEPT, source=resource, out_interface="wg0", established=True),
        FirewallRule(Chain.INPUT, Target.ACCEPT, protocol="udp", destination_port=51820),
        FirewallRule(
            Chain.NAT,
            Target.SNAT,
            supernet,
            resource,
            out_interface="!wg0",
            to_source=IPv4Address("172.16.128.1"),
        ),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "filter :ISTHMUS-INPUT",
        "filter -A INPUT -j ISTHMUS-INPUT",
        "filter -A ISTHMUS-FORWARD -j DROP",
        "filter -A ISTHMUS-FORWARD -s 10.0.0.0/8",
        "filter -A ISTHMUS-FORWARD ! -s 10.0.0.0/8 -j ACCEPT",
        "filter -A ISTHMUS-FORWARD -m limit --limit 1/sec -j ACCEPT",
        "filter -A ISTHMUS-FORWARD -m mark --mark 0x1 -j ACCEPT",
        "filter -A ISTHMUS-FORWARD -m socket -j ACCEPT",
        "filter -A ISTHMUS-FORWARD -p udp -m udp --dport 1:1024 -j ACCEPT",
        "filter -A ISTHMUS-FORWARD -p udp -m udp ! --dport 51820 -j ACCEPT",
        "filter -A ISTHMUS-FORWARD -m conntrack ! --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "filter -A ISTHMUS-FORWARD -m conntrack --ctstate NEW -j ACCEPT",
        "filter -A ISTHMUS-FORWARD -m conntrack --ctstate INVALID,RELATED,ESTABLISHED -j ACCEPT",
        'filter -A ISTHMUS-FORWARD -m comment --comment "a b" -j ACCEPT',
        "nat -A ISTHMUS-POSTROUTING -j SNAT --to-source 10.0.0.1-10.0.0.9",
        "filter -A",
        "",
    ],
)
def test_a_rule_with_other_words_counts_as_absent(line: str) -> None:
    assert parse_rule(line) is None


@given(inventories(max_sites=3, max_hosts=3))
def test_every_compiled_rule_is_read_back_as_it_was_compiled(inventory: Inventory) -> None:
    for config in compile_mesh(inventory).values():
        lines = [f"{chain.table} {line}" for chain, lines in iptables_lines(config.firewall).items() for line in lines]
        assert [parse_rule(line) for line in lines] == sorted(config.firewall, key=lambda r: list(Chain).index(r.chain))
