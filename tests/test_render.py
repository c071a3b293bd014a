"""The words of iptables, iproute2 and wg-quick; whole files are in test_golden.py."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from strategies import inventories

from isthmus import render
from isthmus.compile import compile_mesh
from isthmus.errors import IsthmusError
from isthmus.inventory import load_inventory
from isthmus.kubernetes import configs
from isthmus.model import Chain, FirewallRule, HostConfig, Inventory, Route, Rule, Target
from isthmus.render import iptables_lines, render_host, render_mesh, route_line, rule_line

ARTICLE = Path(__file__).parent.parent / "hosts.toml"
KEY = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@pytest.fixture(scope="module")
def article() -> dict[str, HostConfig]:
    return compile_mesh(load_inventory(ARTICLE))


# --- files --------------------------------------------------------------------------------------------------------


def test_a_leaf_has_four_files_with_their_modes(article: dict[str, HostConfig]) -> None:
    assert {path: file.mode for path, file in render_host(article["n2"], {"n1": KEY}).items()} == {
        "/etc/wireguard/wg0.conf": 0o600,
        "/etc/isthmus/wg0.routes": 0o644,
        "/etc/isthmus/wg0.iptables": 0o644,
        "/usr/local/sbin/isthmus": 0o755,
    }


def test_a_gateway_has_its_sysctls_too(article: dict[str, HostConfig]) -> None:
    leaf, gateway = (render_host(article[host], {}, placeholders=True) for host in ("n2", "n1"))
    assert set(gateway) - set(leaf) == {"/etc/sysctl.d/90-isthmus.conf"}
    assert gateway["/etc/sysctl.d/90-isthmus.conf"].mode == 0o644


def test_every_rendered_file_says_in_its_first_line_whose_it_is(article: dict[str, HostConfig]) -> None:
    for path, file in render_host(article["n1"], {}, placeholders=True).items():
        if path != "/usr/local/sbin/isthmus":
            assert file.text.startswith("# isthmus: written by Isthmus from hosts.toml; changes made here"), path
            assert file.text.endswith("\n"), path


def test_the_wireguard_file_of_the_articles_n2_is_this(article: dict[str, HostConfig]) -> None:
    assert render_host(article["n2"], {"n1": KEY})["/etc/wireguard/wg0.conf"].text == (
        "# isthmus: written by Isthmus from hosts.toml; changes made here are undone by the next mesh.up\n"
        "[Interface]\n"
        "Address = 172.16.0.2/32\n"
        "ListenPort = 51820\n"
        "MTU = 1420\n"
        "Table = off\n"
        "PostUp = wg set %i private-key /etc/wireguard/%i.key\n"
        "PostUp = /usr/local/sbin/isthmus up %i\n"
        "PreDown = /usr/local/sbin/isthmus down %i\n"
        "\n"
        "# n1\n"
        "[Peer]\n"
        "PublicKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
        "AllowedIPs = 172.16.1.0/24, 172.16.2.0/23, 172.16.4.0/22, 172.16.8.0/21, 172.16.16.0/20, 172.16.32.0/19, "
        "172.16.64.0/18, 172.16.128.0/17, 172.17.0.0/16, 172.18.0.0/15, 172.20.0.0/14, 172.24.0.0/13\n"
        "Endpoint = 172.16.0.1:51820\n"
    )


def test_a_missing_template_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(render, "FILES", tmp_path)
    with pytest.raises(IsthmusError, match=r"/etc/wireguard/INTERFACE\.conf\.j2 is missing: run Isthmus from"):
        render._environment.__wrapped__()


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(render, "FILES", tmp_path)
    with pytest.raises(IsthmusError, match="/usr/local/sbin/isthmus is missing: run Isthmus from"):
        render.static_text.__wrapped__(render.PROGRAM.lstrip("/"))


def test_every_template_in_the_folder_is_rendered() -> None:
    """
    A file added below files/ and forgotten in the module would never reach a host.
    """
    names = {str(path.relative_to(render.FILES)) for path in render.FILES.rglob("*") if path.is_file()}
    others = {name for name in names if name.removesuffix(".j2") in {path.lstrip("/") for path in configs.PATHS}}
    others |= {name for name in names if name.startswith(f"{configs.TEMPLATES}/")}  # golden_kubernetes/ has them
    programs = {program.lstrip("/") for program in (render.PROGRAM, render.WATCHER)}
    assert names == {f"{name}.j2" for name in render._TEMPLATES} | programs | others


# --- keys ---------------------------------------------------------------------------------------------------------


def test_missing_public_keys_are_all_named(article: dict[str, HostConfig]) -> None:
    with pytest.raises(ValueError, match="no public key known of: n3, s1"):
        render_host(article["n1"], {"n2": KEY})


def test_a_placeholder_takes_the_place_of_missing_keys_only(article: dict[str, HostConfig]) -> None:
    text = render_host(article["n1"], {"n3": KEY}, placeholders=True)["/etc/wireguard/wg0.conf"].text
    assert [line for line in text.splitlines() if line.startswith("PublicKey")] == [
        "PublicKey = KEY-n2",
        f"PublicKey = {KEY}",
        "PublicKey = KEY-s1",
    ]


@pytest.mark.parametrize("key", [f"{KEY}\nPostUp = reboot", f"{KEY} ", f"{KEY}\r", "", "\0address\0"])
def test_a_key_that_could_become_another_line_is_refused(article: dict[str, HostConfig], key: str) -> None:
    with pytest.raises(ValueError, match="the public key of n1 is not one word"):
        render_host(article["n2"], {"n1": key})


# --- what hosts share ---------------------------------------------------------------------------------------------


@given(inventories())
def test_a_host_rendered_with_all_others_is_the_host_rendered_alone(inventory: Inventory) -> None:
    configs = compile_mesh(inventory)
    together = render_mesh(configs, {}, placeholders=True)
    assert list(together) == list(inventory.hosts)
    for name, config in configs.items():
        assert together[name] == render_host(config, {}, placeholders=True)


def test_no_host_gets_the_address_of_another(article: dict[str, HostConfig]) -> None:
    files = render_mesh(article, {}, placeholders=True)
    assert "Address = 172.16.0.2/32\n" in files["n2"]["/etc/wireguard/wg0.conf"].text
    assert "Address = 172.16.0.3/32\n" in files["n3"]["/etc/wireguard/wg0.conf"].text
    assert files["n3"]["/etc/isthmus/wg0.routes"].text.splitlines()[1:] == [
        "route add 172.16.128.0/24 dev wg0 proto 182 src 172.16.0.3"
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"interface": "wg1"},
        {"listen_port": 1},
        {"mtu": 1280},
        {"peers": ()},
        {"routes": ()},
        {"rules": (Rule("wg0", 1, 2),)},
        {"firewall": ()},
        {"sysctls": (("net.ipv4.ip_forward", "1"),)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_two_hosts_that_differ_in_one_thing_share_no_text_about_it(
    article: dict[str, HostConfig], change: dict[str, Any]
) -> None:
    other = replace(article["n2"], **change)
    together = render_mesh({"n2": article["n2"], "other": other}, {}, placeholders=True)
    assert together["other"] == render_host(other, {}, placeholders=True)
    assert together["other"] != together["n2"]


# --- lines --------------------------------------------------------------------------------------------------------


def test_routes_and_rules_have_three_forms() -> None:
    main = Route(IPv4Network("10.2.0.0/16"), "wg0")
    assert route_line(main, "10.1.0.1") == "route add 10.2.0.0/16 dev wg0 proto 182 src 10.1.0.1"
    assert (
        route_line(replace(main, source=IPv4Address("10.1.0.9")), "10.1.0.1")
        == "route add 10.2.0.0/16 dev wg0 proto 182 src 10.1.0.9"
    )
    leaf = Route(IPv4Network("10.1.0.2/32"), "wg0", 5182)
    assert route_line(leaf, "10.1.0.1") == "route add 10.1.0.2/32 dev wg0 table 5182 proto 182"
    assert rule_line(Rule("wg0", 5182, 5182)) == "rule add iif wg0 lookup 5182 priority 5182 protocol 182"


def test_every_match_of_a_rule_is_in_iptables_saves_order() -> None:
    network = IPv4Network("10.0.0.0/8")
    only = IPv4Network("10.1.2.3/32")
    answers = "-m conntrack --ctstate RELATED,ESTABLISHED"
    rules = [
        FirewallRule(Chain.NAT, Target.SNAT, network, only, None, "!wg0", to_source=IPv4Address("10.1.0.1")),
        FirewallRule(Chain.MANGLE, Target.CLAMP_MSS, in_interface="wg0", protocol="tcp"),
        FirewallRule(Chain.INPUT, Target.ACCEPT, protocol="udp", destination_port=7),
        FirewallRule(Chain.FORWARD, Target.ACCEPT, only, network, "!wg0", "wg0", established=True),
        FirewallRule(Chain.FORWARD, Target.ACCEPT),
    ]
    assert iptables_lines(rules) == {
        Chain.INPUT: ("-A ISTHMUS-INPUT -p udp -m udp --dport 7 -j ACCEPT",),
        Chain.FORWARD: (
            f"-A ISTHMUS-FORWARD -s 10.1.2.3/32 -d 10.0.0.0/8 ! -i wg0 -o wg0 {answers} -j ACCEPT",
            "-A ISTHMUS-FORWARD -j ACCEPT",
        ),
        Chain.MANGLE: (
            "-A ISTHMUS-FORWARD -i wg0 -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
        ),
        Chain.NAT: ("-A ISTHMUS-POSTROUTING -s 10.0.0.0/8 -d 10.1.2.3/32 ! -o wg0 -j SNAT --to-source 10.1.0.1",),
    }
    assert list(iptables_lines(rules)) == [Chain.INPUT, Chain.FORWARD, Chain.MANGLE, Chain.NAT]


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (FirewallRule(Chain.INPUT, Target.ACCEPT, destination_port=53), "a port needs protocol tcp or udp"),
        (FirewallRule(Chain.MANGLE, Target.CLAMP_MSS), "only TCP has a segment size"),
        (FirewallRule(Chain.NAT, Target.SNAT), "SNAT needs the new source address"),
    ],
)
def test_what_iptables_cannot_say_is_refused(rule: FirewallRule, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        iptables_lines([rule])
