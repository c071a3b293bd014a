"""Whole probes, as recorded on hosts in several states (samples/record.py) and as hosts can garble them."""

from __future__ import annotations

from dataclasses import fields
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from namespace_host import NamespaceHost

from isthmus.compile import compile_mesh
from isthmus.errors import CommandError
from isthmus.inventory import load_inventory
from isthmus.model import Endpoint, Route, Rule
from isthmus.observe import Facts, FoundPeer, parse_probe
from isthmus.paths import machine_from
from isthmus.plan import objections, plan_host
from isthmus.render import render_host

SAMPLES = Path(__file__).parent / "samples"
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(SAMPLES.glob("*.txt"))}


def facts(name: str, *replaced: tuple[str, str]) -> Facts:
    """Parse a sample, after replacing texts that must be in it."""
    text = TEXTS[name]
    for old, new in replaced:
        assert old in text, f"{name}.txt has no {old!r}"
        text = text.replace(old, new)
    return parse_probe("n1", "wg0", text)


# --- what was recorded --------------------------------------------------------------------------------------------


def test_a_bare_host_has_nothing_and_that_is_no_error() -> None:
    bare = facts("bare")
    assert bare.system == "debian 11"
    assert bare.clock == 1795416825
    assert bare.tools == frozenset()
    assert bare.files == {}
    assert bare.interface is bare.public_key is bare.program_sha256 is bare.transaction is None
    assert (bare.enabled, bare.link_exists) == (False, False)
    assert bare.our_routes == bare.our_rules == frozenset()
    assert bare.firewall == bare.rules == ()
    assert bare.policies == {}
    assert bare.sysctls["net.ipv4.conf.all.send_redirects"] == "1"
    assert bare.network_interfaces("wg0") == (("eth0", IPv4Interface("172.16.0.1/24")),)


def test_a_gateway_with_its_mesh_is_read_whole() -> None:
    found = facts("gateway")
    assert found.tools == {"wg", "wg-quick", "iptables", "iptables-restore", "ping"}
    assert {path: oct(file.mode) for path, file in found.files.items()} == {
        "/etc/wireguard/wg0.conf": "0o600",
        "/etc/isthmus/wg0.routes": "0o644",
        "/etc/isthmus/wg0.iptables": "0o644",
        "/etc/sysctl.d/90-isthmus.conf": "0o644",
    }
    assert found.program_mode == 0o755
    assert found.key_mode == 0o600
    assert (found.enabled, found.link_exists) == (True, True)
    assert found.our_routes == {
        Route(IPv4Network("172.16.128.0/24"), "wg0", source=IPv4Address("172.16.0.1")),
        Route(IPv4Network("172.16.0.2/32"), "wg0", 5182),
        Route(IPv4Network("172.16.0.3/32"), "wg0", 5182),
    }
    assert found.our_rules == {Rule("wg0", 5182, 5182)}
    assert found.sysctls["net.ipv4.ip_forward"] == "1"
    interface = found.interface
    assert interface is not None
    assert interface.public_key == found.public_key == "FIMnmJ0MMWc6PekFs+tAbq5DJcyGM6pS/w75w8OjCiQ="
    assert (interface.listen_port, interface.mtu, interface.up) == (51820, 1420, True)
    assert (
        FoundPeer(
            public_key="2i1iwNKo9Wyc4SenkYtDdVQjNZWCiZUsEGwJsA/e4zk=",
            endpoint=Endpoint(IPv4Address("203.0.113.129"), 51820),
            allowed_ips=(IPv4Network("172.16.128.0/24"),),
            latest_handshake=0,
            received=0,
            sent=0,
            persistent_keepalive=25,
        )
        in interface.peers
    )
    assert [str(peer.allowed_ips[0]) for peer in interface.peers] == [
        "172.16.0.2/32",
        "172.16.128.0/24",
        "172.16.0.3/32",
    ], "sorted by key, since WireGuard gives them in any order"


def test_the_files_are_read_to_the_byte() -> None:
    keys = {
        "n2": "+Vl/Jqu3aqWMQKE9vPyC/BrCx1PKTDtn3+glYqXgrSg=",
        "n3": "Gpcbp8zqea+kzFSatG4ShD+tyCS/6LcyV4THLF04qFA=",
        "s1": "2i1iwNKo9Wyc4SenkYtDdVQjNZWCiZUsEGwJsA/e4zk=",
    }
    config = compile_mesh(load_inventory(SAMPLES.parent.parent / "hosts.toml"))["n1"]
    rendered = render_host(config, keys)
    found = facts("gateway").files
    assert {path: file.text for path, file in found.items()} == {
        path: file.text for path, file in rendered.items() if path != "/usr/local/sbin/isthmus"
    }


def test_a_leafs_twelve_allowed_ips_are_sorted_by_number() -> None:
    interface = facts("leaf").interface
    assert interface is not None
    assert " ".join(map(str, interface.peers[0].allowed_ips)) == (
        "172.16.1.0/24 172.16.2.0/23 172.16.4.0/22 172.16.8.0/21 172.16.16.0/20 172.16.32.0/19 172.16.64.0/18 "
        "172.16.128.0/17 172.17.0.0/16 172.18.0.0/15 172.20.0.0/14 172.24.0.0/13"
    )
    assert interface.peers[0].persistent_keepalive is None


def test_dockers_bridge_and_policy_are_seen() -> None:
    found = facts("gateway-with-docker")
    assert ("docker0", IPv4Interface("172.17.0.1/16")) in found.network_interfaces("wg0")
    assert Route(IPv4Network("172.17.0.0/16"), "docker0", source=IPv4Address("172.17.0.1")) in found.routes
    assert found.policies["filter FORWARD"] == "DROP"
    assert len(found.firewall_rules()) == 8
    assert machine_from(found, "wg0", {}).forward_drops


def test_of_many_routes_those_to_a_device_are_read() -> None:
    found = facts("many-routes")
    assert sorted(str(route.destination) for route in found.routes) == [
        "0.0.0.0/0",
        "10.4.0.0/24",
        "10.9.0.2/32",
        "172.16.0.0/24",
        "192.168.5.0/24",
    ]
    assert sorted(map(str, found.pathless)) == ["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24", "10.5.0.0/24"]
    assert found.rules == (Rule("eth0", 77, 1001),)
    assert found.our_routes == found.our_rules == frozenset()
    assert "net.ipv4.conf.eth0.100.rp_filter" in found.sysctls


def test_ours_are_routes_and_rules_of_our_protocol_on_our_interface() -> None:
    found = facts(
        "gateway",
        ("@@ rules\n", "@@ rules\n99:\tfrom all iif docker0 lookup 5182 proto 182\n98:\tfrom all iif wg0 lookup 77\n"),
        ("@@ routes\n", "@@ routes\nunicast 10.1.0.0/16 dev docker0 table main proto 182 scope link \n"),
        ("@@ routes\n", "@@ routes\nunicast 10.2.0.0/16 dev wg0 table main proto static scope link \n"),
    )
    assert found.our_rules == {Rule("wg0", 5182, 5182)}
    assert found.our_routes == facts("gateway").our_routes
    assert len(found.rules) == 3
    assert len(found.routes) == len(facts("gateway").routes) + 2


def test_an_unconfirmed_change_names_its_owner() -> None:
    assert facts("held").transaction == "ada@desk (0a1b2c3d)"
    assert facts("held", ("ada@desk (0a1b2c3d)\n", "")).transaction == "unknown"


def test_a_foreign_wg_quick_file_is_read_without_its_keys() -> None:
    text = facts("foreign-conf").files["/etc/wireguard/wg0.conf"].text
    assert text == (
        "[Interface]\n"
        "  privatekey= (hidden)\n"
        "# PrivateKey = (hidden)\n"
        "Address = 10.8.0.2/24\n"
        "PostUp = wg set %i peer (hidden) preshared-key <(echo (hidden))\n"
        "[Peer]\n"
        "PublicKey = Sj8u1QgaCoZpqCgVl97YKIbWHhLwRoZSJbVyhlgL6VQ=\n"
        "PresharedKey = (hidden)\n"
        "AllowedIPs = 10.8.0.0/24"
    )


# --- the probe itself, on a real host -----------------------------------------------------------------------------


def test_the_probe_masks_every_secret_before_it_leaves_the_host() -> None:
    with NamespaceHost() as host:
        private, old, preshared, ours = (
            host.run(f"wg {verb}").strip() for verb in ("genkey", "genkey", "genpsk", "genkey")
        )
        peer = host.run("wg genkey | wg pubkey").strip()
        conf = f"""[Interface]
\tPRIVATEKEY={private}
PrivateKey = {private} # the new one
#PrivateKey = {old}
PostUp = wg set %i private-key <(echo {old})
ListenPort = 4444
[Peer]
PublicKey = {peer}
presharedkey ={preshared}
@@ end
"""
        host.run("cat >/etc/wireguard/wg0.conf; chmod 640 /etc/wireguard/wg0.conf", conf)
        host.put_key(ours)
        host.run("grep -v @@ /etc/wireguard/wg0.conf >/etc/wireguard/wg9.conf; wg-quick up wg9; ip link set wg9 down")
        host.run("ip link set wg9 name wg0; mv /run/wireguard/wg9.sock /run/wireguard/wg0.sock; ip link set wg0 up")
        told = host.probe()
    for secret in (private, old, preshared, ours):
        assert secret not in told
    found = parse_probe("n1", "wg0", told)
    file = found.files["/etc/wireguard/wg0.conf"]
    assert file.mode == 0o640
    assert "@@ end\n" in file.text, "a line of a file is no section"
    assert f"PublicKey = {peer}\n" in file.text
    assert found.interface is not None
    assert found.interface.listen_port == 4444
    assert [(one.public_key, one.preshared_key) for one in found.interface.peers] == [(peer, True)]


def test_the_probe_tells_a_file_to_the_byte() -> None:
    with NamespaceHost() as host:
        host.run("mkdir /etc/isthmus")
        for text in ("", "a", "a\n", "a\n\n", "\n", "a\r\nb\r\n", "@@ end\n", " a\n  b", "a\x0cb\x1cc\u2028d\n"):
            host.run("cat >/etc/isthmus/wg0.routes", text)
            assert parse_probe("n1", "wg0", host.probe()).files["/etc/isthmus/wg0.routes"].text == text


# --- what hosts can also say --------------------------------------------------------------------------------------


def test_a_peer_that_roamed_has_the_endpoint_its_packets_come_from() -> None:
    line = "no 203.0.113.129:51820 172.16.128.0/24 0 0 0 25"
    interface = facts("gateway", (line, "no 198.51.100.7:1024 172.16.128.0/24 1795416800 5000 6000 25")).interface
    assert interface is not None
    peer = interface.peers[1]
    assert peer.endpoint == Endpoint(IPv4Address("198.51.100.7"), 1024)
    assert (peer.latest_handshake, peer.received, peer.sent) == (1795416800, 5000, 6000)


@pytest.mark.parametrize("endpoint", ["(none)", "[2001:db8::1]:51820", "[fe80::1%eth0]:51820"])
def test_an_endpoint_that_is_not_ipv4_is_none(endpoint: str) -> None:
    interface = facts("gateway", ("203.0.113.129:51820 172.16.128.0/24", f"{endpoint} 172.16.128.0/24")).interface
    assert interface is not None
    assert [str(peer.endpoint) for peer in interface.peers] == ["172.16.0.2:51820", "None", "172.16.0.3:51820"]


def test_a_peer_without_allowed_ips_or_with_ipv6_ones() -> None:
    interface = facts(
        "gateway",
        ("51820 172.16.0.2/32 0", "51820 (none) 0"),
        ("51820 172.16.0.3/32 0", "51820 fd00::/8,172.16.0.3/32 0"),
    ).interface
    assert interface is not None
    assert [list(map(str, peer.allowed_ips)) for peer in interface.peers] == [
        [],
        ["172.16.128.0/24"],
        ["172.16.0.3/32"],
    ]


def test_an_interface_that_was_taken_down_or_lost_its_key() -> None:
    interface = facts(
        "gateway",
        ("NOARP,UP,LOWER_UP>", "NOARP>"),
        ("device FIMnmJ0MMWc6PekFs+tAbq5DJcyGM6pS/w75w8OjCiQ=", "device (none)"),
    ).interface
    assert interface is not None
    assert not interface.up
    assert interface.public_key is None


def test_a_key_file_that_holds_no_key_is_no_key() -> None:
    found = facts("gateway", ("@@ key 600\nFIMnmJ0MMWc6PekFs+tAbq5DJcyGM6pS/w75w8OjCiQ=\n", "@@ key 644\n"))
    assert found.public_key is None
    assert found.key_mode == 0o644


def test_our_chains_count_only_when_their_parent_jumps_to_them() -> None:
    found = facts("gateway", ("-A FORWARD -j ISTHMUS-FORWARD\n-A ISTHMUS-FORWARD -s", "-A ISTHMUS-FORWARD -s"))
    assert {rule.chain.name for rule in found.firewall_rules()} == {"INPUT", "MANGLE"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"all": 0, "eth0": 0}, 0),
        ({"all": 1, "eth0": 0}, 1),
        ({"all": 0, "eth0": 1}, 1),
        ({"all": 1, "eth0": 2}, 1),  # wg0 is strict then
        ({"all": 2, "eth0": 1}, 2),
        ({"all": 0, "eth0": 2}, 2),
        ({"all": 0, "eth0": 0, "wg0": 1}, 1),
        ({"all": 0, "eth0": 0, "far-end": 1}, 0),
        ({"all": 0, "eth0": 2, "wg0": 1}, 1),
    ],
)
def test_rp_filter_is_the_strictest_of_the_interfaces_with_an_address(settings: dict[str, int], expected: int) -> None:
    names = [f"net/ipv4/conf/{name}/rp_filter:" for name in settings]
    replaced = [(f"{name}0", f"{name}{value}") for name, value in zip(names, settings.values(), strict=True)]
    assert facts("gateway", *replaced).rp_filter() == expected


# --- garbled ------------------------------------------------------------------------------------------------------


def complaint(text: str) -> str:
    with pytest.raises(CommandError) as caught:
        parse_probe("n1", "wg0", text)
    assert caught.value.host == "n1"
    return caught.value.message


@pytest.mark.parametrize("name", TEXTS)
def test_an_answer_cut_off_anywhere_is_an_error(name: str) -> None:
    text = TEXTS[name]
    for length in range(0, text.index("@@ end") + len("@@ en"), 7):
        assert complaint(text[:length]).startswith("the probe's answer is cut off: no "), text[:length][-40:]


@pytest.mark.parametrize("name", ["system", "addresses", "routes", "rules", "firewall", "sysctls", "unit", "end"])
def test_an_answer_without_a_section_that_every_host_has_is_cut_off(name: str) -> None:
    assert complaint(TEXTS["gateway"].replace(f"@@ {name}\n", "")) == f"the probe's answer is cut off: no {name}"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("1795416825", "Sun Nov 23", "invalid literal for int() with base 10: 'Sun Nov 23'"),
        ("@@ file 600 ", "@@ file rw- ", "invalid literal for int() with base 8: 'rw-'"),
        (
            "@@ key 600\nFIM",
            "@@ key 600\nNo FIM",
            "'No FIMnmJ0MMWc6PekFs+tAbq5DJcyGM6pS/w75w8OjCiQ=' is not a public key",
        ),
        ("0 0 0 25", "0 0 0", "not enough values to unpack (expected 9, got 8)"),
        ("inet 172.16.0.1/24", "inet 172.16.0.256/24", "'172.16.0.256' does not appear to be an IPv4 or IPv6 address"),
        ("ip_forward:1", "ip_forward:yes", "invalid literal for int() with base 10: 'yes'"),
        ("5182:\tfrom all iif", "none:\tfrom all iif", "invalid literal for int() with base 10: 'none'"),
        ("@@ clock\n1795416825\n", "@@ clock\n", "list index out of range"),
    ],
)
def test_nonsense_is_an_error_that_shows_it(old: str, new: str, expected: str) -> None:
    assert old in TEXTS["gateway"]
    message = complaint(TEXTS["gateway"].replace(old, new))
    assert message.startswith("the probe's answer makes no sense: ")
    assert expected in message or "Expected" in message or "Octet" in message


INVENTORY = load_inventory(SAMPLES.parent.parent / "hosts.toml")
CONFIGS = compile_mesh(INVENTORY)
PIECES = [
    "",
    "\n",
    " ",
    "@@ ",
    ":",
    "-",
    "-A",
    "0",
    "²",
    "/",
    "wg0",
    "dev",
    "ISTHMUS-",
    "\x00",
    "\x1b[2J",
    "é",
    "proto 182",
    "*",
]


@st.composite
def garbled(draw: st.DrawFn) -> str:
    """Return a sample with a few pieces cut out, doubled, moved or overwritten."""
    text = draw(st.sampled_from(list(TEXTS.values())))
    lines = text.split("\n")
    for _ in range(draw(st.integers(1, 4))):
        number = draw(st.integers(0, len(lines) - 1))
        line = lines[number]
        start = draw(st.integers(0, len(line)))
        end = draw(st.integers(start, len(line)))
        kind = draw(st.sampled_from(["overwrite", "drop", "double", "swap", "word"]))
        other = draw(st.integers(0, len(lines) - 1))
        if kind == "overwrite":
            lines[number] = line[:start] + draw(st.sampled_from(PIECES) | st.text(max_size=5)) + line[end:]
        elif kind == "drop":
            del lines[number]
        elif kind == "double":
            lines.insert(other, line)
        elif kind == "swap":
            lines[number], lines[other] = lines[other], lines[number]
        else:
            words = line.split(" ")
            del words[draw(st.integers(0, len(words) - 1))]
            lines[number] = " ".join(words)
        lines = lines or [""]
    return "\n".join(lines)


@given(garbled())
def test_whatever_a_host_prints_becomes_facts_that_can_be_planned_or_a_line_for_that_host(text: str) -> None:
    try:
        found = parse_probe("n1", "wg0", text)
    except CommandError:
        return
    files = render_host(CONFIGS["n1"], {}, placeholders=True)
    assert all(isinstance(objection, str) for objection in objections(CONFIGS["n1"], found))
    plan = plan_host(CONFIGS["n1"], files, {}, found)
    assert all(str(change) for change in plan.changes)
    machine_from(found, "wg0", {})
    assert {field.name for field in fields(found)} >= {"routes", "rules"}
