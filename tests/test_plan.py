"""Each kind of change, found on a recorded gateway that is changed in one place; expected texts are by hand."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from isthmus.compile import compile_mesh
from isthmus.inventory import load_inventory
from isthmus.model import Endpoint, HostConfig, Route, Rule
from isthmus.observe import Facts, FoundFile, FoundInterface, FoundPeer, parse_probe
from isthmus.plan import Change, HostPlan, Kind, objections, plan_host
from isthmus.render import render_host

TESTS = Path(__file__).parent
CONFIGS = compile_mesh(load_inventory(TESTS.parent / "hosts.toml"))
CONFIG = CONFIGS["n1"]
KEYS = {
    "n1": "FIMnmJ0MMWc6PekFs+tAbq5DJcyGM6pS/w75w8OjCiQ=",
    "n2": "+Vl/Jqu3aqWMQKE9vPyC/BrCx1PKTDtn3+glYqXgrSg=",
    "n3": "Gpcbp8zqea+kzFSatG4ShD+tyCS/6LcyV4THLF04qFA=",
    "s1": "2i1iwNKo9Wyc4SenkYtDdVQjNZWCiZUsEGwJsA/e4zk=",
}
"""As in samples/gateway.txt."""
FILES = render_host(CONFIG, KEYS)
PROGRAM_SUM = hashlib.sha256((TESTS.parent / "files/usr/local/sbin/isthmus").read_bytes()).hexdigest()


def recorded(sample: str, host: str = "n1") -> Facts:
    facts = parse_probe(host, "wg0", (TESTS / f"samples/{sample}.txt").read_text(encoding="utf-8"))
    return facts if facts.program_sha256 is None else replace(facts, program_sha256=PROGRAM_SUM)


GOOD = recorded("gateway")
BARE = recorded("bare")


def plan(facts: Facts, config: HostConfig = CONFIG, keys: dict[str, str] = KEYS) -> HostPlan:
    return plan_host(config, render_host(config, keys, placeholders=True), keys, facts)


def text(facts: Facts) -> str:
    return "\n".join(map(str, plan(facts).changes))


def running(**changed: object) -> Facts:
    """Return the gateway with other values of its running interface."""
    assert GOOD.interface is not None
    return replace(GOOD, interface=replace(GOOD.interface, **changed))  # type: ignore[arg-type]


def peers() -> dict[str, FoundPeer]:
    assert GOOD.interface is not None
    names = {key: name for name, key in KEYS.items()}
    return {names[peer.public_key]: peer for peer in GOOD.interface.peers}


def with_peer(name: str, **changed: object) -> Facts:
    found = {**peers(), name: replace(peers()[name], **changed)}  # type: ignore[arg-type]
    return running(peers=tuple(found.values()))


# --- nothing to do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sample", "host"), [("gateway", "n1"), ("leaf", "n2"), ("gateway-with-docker", "s1")])
def test_a_host_as_it_should_be_has_an_empty_plan(sample: str, host: str) -> None:
    found = plan_host(CONFIGS[host], render_host(CONFIGS[host], KEYS), KEYS, recorded(sample, host))
    assert found.changes == ()
    assert not found
    assert not found.needs_preparation
    assert found.files == render_host(CONFIGS[host], KEYS), "a transaction installs them all, changed or not"


# --- from nothing -------------------------------------------------------------------------------------------------


def test_a_bare_host_needs_packages_a_key_every_file_the_interface_and_the_unit() -> None:
    found = plan(BARE)
    assert [(change.kind.value, change.name) for change in found.changes] == [
        ("package", "iptables"),
        ("package", "iputils-ping"),
        ("package", "wireguard-tools"),
        ("key", "/etc/wireguard/wg0.key"),
        ("file", "/etc/isthmus/wg0.iptables"),
        ("file", "/etc/isthmus/wg0.routes"),
        ("file", "/etc/sysctl.d/90-isthmus.conf"),
        ("file", "/etc/wireguard/wg0.conf"),
        ("file", "/usr/local/sbin/isthmus"),
        ("interface", "wg0"),
        ("unit", "wg-quick@wg0"),
    ]
    assert found.packages == ("iptables", "iputils-ping", "wireguard-tools")
    assert found.make_key
    assert found.needs_preparation
    assert found.discard == ()


def test_what_is_shown_of_a_bare_host() -> None:
    lines = text(BARE).splitlines()
    assert lines[:8] == [
        "package iptables",
        "    +installed",
        "package iputils-ping",
        "    +installed",
        "package wireguard-tools",
        "    +installed",
        "key /etc/wireguard/wg0.key",
        "    +made on the host, 0600",
    ]
    start = lines.index("file /etc/isthmus/wg0.routes")
    assert lines[start + 1 : start + 6] == [
        "    +# isthmus: written by Isthmus from hosts.toml; changes made here are undone by the next mesh.up",
        "    +route add 172.16.128.0/24 dev wg0 proto 182 src 172.16.0.1",
        "    +route add 172.16.0.2/32 dev wg0 table 5182 proto 182",
        "    +route add 172.16.0.3/32 dev wg0 table 5182 proto 182",
        "    +rule add iif wg0 lookup 5182 priority 5182 protocol 182",
    ]
    assert lines[-7:] == [
        "file /usr/local/sbin/isthmus",
        "    +this version",
        "interface wg0",
        "    +up",
        "unit wg-quick@wg0",
        "    -disabled",
        "    +enabled",
    ]


def test_one_missing_tool_is_one_package() -> None:
    found = plan(replace(GOOD, tools=GOOD.tools - {"ping"}))
    assert found.changes == (Change(Kind.PACKAGE, "iputils-ping", after=("installed",)),)
    assert found.packages == ("iputils-ping",)
    assert found.needs_preparation
    assert not found.make_key


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_key_that_others_may_read_is_a_change(mode: int, is_open: bool) -> None:
    found = plan(replace(GOOD, key_mode=mode))
    assert found.needs_preparation == is_open
    expected = f"key /etc/wireguard/wg0.key\n    -mode {mode:04o}\n    +mode 0600" if is_open else ""
    assert "\n".join(map(str, found.changes)) == expected


# --- files --------------------------------------------------------------------------------------------------------


def with_file(path: str, old: str, new: str, mode: int | None = None) -> Facts:
    file = GOOD.files[path]
    assert old in file.text
    changed = FoundFile(file.text.replace(old, new), file.mode if mode is None else mode)
    return replace(GOOD, files={**GOOD.files, path: changed})


def test_an_edited_file_is_shown_as_a_diff_with_a_line_around_it() -> None:
    assert text(
        with_file("/etc/wireguard/wg0.conf", "MTU = 1420\nTable = off\n", "MTU = 9000\nTable = off\nFwMark = 1\n")
    ) == (
        "file /etc/wireguard/wg0.conf\n"
        "    @@ -4,5 +4,4 @@\n"
        "     ListenPort = 51820\n"
        "    -MTU = 9000\n"
        "    +MTU = 1420\n"
        "     Table = off\n"
        "    -FwMark = 1\n"
        "     PostUp = wg set %i private-key /etc/wireguard/%i.key"
    )


def test_another_mode_is_a_change_of_its_own() -> None:
    assert text(with_file("/etc/wireguard/wg0.conf", "", "", mode=0o644)) == (
        "file /etc/wireguard/wg0.conf\n    -mode 0644\n    +mode 0600"
    )


def test_differences_a_terminal_does_not_show_are_spelled_out() -> None:
    first = "net.ipv4.conf.all.send_redirects = 0"
    assert f"    -{first}\\r\n    +{first}" in text(
        with_file("/etc/sysctl.d/90-isthmus.conf", f"{first}\n", f"{first}\r\n")
    )
    shown = text(with_file("/etc/sysctl.d/90-isthmus.conf", "ip_forward = 1\n", "ip_forward = 1"))
    assert shown.endswith("     net.ipv4.ip_forward = 1\n    -\\ no newline at the end")
    escape = text(with_file("/etc/isthmus/wg0.routes", "rule add", "\x1b[2Jrule add"))
    assert "    -\\x1b[2Jrule add iif wg0" in escape
    assert "\x1b" not in escape


def test_a_missing_file_is_shown_whole_and_one_too_many_is_discarded() -> None:
    path = "/etc/sysctl.d/90-isthmus.conf"
    without = replace(GOOD, files={name: file for name, file in GOOD.files.items() if name != path})
    lines = [
        "# isthmus: written by Isthmus from hosts.toml; changes made here are undone by the next mesh.up",
        "net.ipv4.conf.all.send_redirects = 0",
        "net.ipv4.conf.default.send_redirects = 0",
        "net.ipv4.ip_forward = 1",
    ]
    assert text(without) == "\n".join([f"file {path}", *(f"    +{line}" for line in lines)])
    leaf = recorded("leaf", "n2")
    found = plan(replace(leaf, files={**leaf.files, path: GOOD.files[path]}), CONFIGS["n2"])
    assert "\n".join(map(str, found.changes)) == "\n".join([f"file {path}", *(f"    -{line}" for line in lines)])
    assert found.discard == (path,)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"program_sha256": None, "program_mode": None}, "    +this version"),
        ({"program_sha256": "0" * 64}, "    -another version\n    +this version"),
        ({"program_mode": 0o644}, "    -mode 0644\n    +mode 0755"),
    ],
)
def test_the_program_is_compared_by_its_sum_and_mode(changed: dict[str, object], expected: str) -> None:
    assert text(replace(GOOD, **changed)) == f"file /usr/local/sbin/isthmus\n{expected}"  # type: ignore[arg-type]


# --- the interface ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (running(up=False), "interface wg0\n    -down\n    +up"),
        (running(mtu=1380), "interface wg0 mtu\n    -1380\n    +1420"),
        (running(listen_port=4444), "interface wg0 listen-port\n    -4444\n    +51820"),
        (running(public_key=KEYS["n2"]), "interface wg0 key\n    -another key\n    +the host's key"),
        (running(public_key=None), "interface wg0 key\n    -another key\n    +the host's key"),
        (
            replace(GOOD, addresses=(*GOOD.addresses, ("wg0", IPv4Interface("10.9.9.9/24")))),
            "interface wg0 address\n    -10.9.9.9/24\n    -172.16.0.1/32\n    +172.16.0.1/32",
        ),
        (
            replace(GOOD, addresses=(("eth0", IPv4Interface("172.16.0.1/24")),)),
            "interface wg0 address\n    +172.16.0.1/32",
        ),
        # Stopped: one change, since its peers, routes and chains come with it. Enabled is what it was.
        (replace(GOOD, interface=None, our_routes=frozenset(), firewall=()), "interface wg0\n    -down\n    +up"),
        (replace(GOOD, enabled=False), "unit wg-quick@wg0\n    -disabled\n    +enabled"),
    ],
)
def test_a_change_of_the_interface(facts: Facts, expected: str) -> None:
    assert text(facts) == expected


# --- peers --------------------------------------------------------------------------------------------------------

S1 = "    {}allowed-ips 172.16.128.0/24\n    {}endpoint 203.0.113.129:51820\n    {}persistent-keepalive 25"
CLOCK = GOOD.clock


def test_a_missing_peer_and_an_unknown_one_are_named_as_well_as_they_can_be() -> None:
    found = peers()
    stranger = replace(
        found.pop("s1"), public_key="A" * 43 + "=", endpoint=None, allowed_ips=(), persistent_keepalive=None
    )
    assert text(running(peers=(*found.values(), stranger))) == (
        "peer s1\n" + S1.format("+", "+", "+") + "\n"
        f"peer {'A' * 43}=\n"
        "    -allowed-ips (none)\n"
        "    -endpoint (none)\n"
        "    -persistent-keepalive off"
    )


def test_a_peer_that_left_the_inventory_is_removed_by_its_name() -> None:
    gone = replace(peers()["n3"], public_key="B" * 43 + "=")
    found = plan(running(peers=(*peers().values(), gone)), keys={**KEYS, "n4": "B" * 43 + "="})
    assert [change.name for change in found.changes] == ["n4"]
    assert found.changes[0].after == ()


@pytest.mark.parametrize(
    ("changed", "before"),
    [
        (
            {"allowed_ips": (IPv4Network("172.16.128.0/24"), IPv4Network("172.16.200.0/24"))},
            (
                "    -allowed-ips 172.16.128.0/24, 172.16.200.0/24\n"
                "    -endpoint 203.0.113.129:51820\n"
                "    -persistent-keepalive 25"
            ),
        ),
        (
            {"allowed_ips": ()},
            "    -allowed-ips (none)\n    -endpoint 203.0.113.129:51820\n    -persistent-keepalive 25",
        ),
        (
            {"persistent_keepalive": None},
            "    -allowed-ips 172.16.128.0/24\n    -endpoint 203.0.113.129:51820\n    -persistent-keepalive off",
        ),
        ({"preshared_key": True}, S1.format("-", "-", "-") + "\n    -preshared-key (hidden)"),
        (
            {"endpoint": Endpoint(IPv4Address("192.0.2.9"), 1)},
            "    -allowed-ips 172.16.128.0/24\n    -endpoint 192.0.2.9:1\n    -persistent-keepalive 25",
        ),
        (
            {"endpoint": None},
            "    -allowed-ips 172.16.128.0/24\n    -endpoint (none)\n    -persistent-keepalive 25",
        ),
    ],
)
def test_a_peer_that_differs_is_shown_as_it_is_and_as_it_shall_be(changed: dict[str, object], before: str) -> None:
    assert text(with_peer("s1", **changed)) == f"peer s1\n{before}\n{S1.format('+', '+', '+')}"


@pytest.mark.parametrize(
    ("seconds_ago", "is_change"), [(0, False), (179, False), (180, True), (3600, True), (None, True)]
)
def test_a_peer_heard_of_lately_may_have_another_endpoint(seconds_ago: int | None, is_change: bool) -> None:
    heard = 0 if seconds_ago is None else CLOCK - seconds_ago
    roamed = with_peer("s1", endpoint=Endpoint(IPv4Address("198.51.100.7"), 1024), latest_handshake=heard)
    assert bool(plan(roamed)) == is_change


def test_a_peer_heard_of_lately_may_not_have_other_allowed_ips() -> None:
    assert plan(with_peer("s1", allowed_ips=(), latest_handshake=CLOCK))


def test_a_peer_whose_key_nobody_knows_is_no_change() -> None:
    keys = {name: key for name, key in KEYS.items() if name != "s1"}
    config = replace(CONFIG, peers=tuple(peer for peer in CONFIG.peers if peer.host != "s1"))
    files = render_host(config, keys)
    found = {name: peer for name, peer in peers().items() if name != "s1"}
    facts = replace(
        running(peers=tuple(found.values())),
        files={**GOOD.files, "/etc/wireguard/wg0.conf": FoundFile(files["/etc/wireguard/wg0.conf"].text, 0o600)},
    )
    assert plan_host(CONFIG, files, keys, facts).changes == ()


# --- routes, rules, sysctls ---------------------------------------------------------------------------------------


def route(destination: str, table: int = 254, source: str | None = None) -> Route:
    return Route(IPv4Network(destination), "wg0", table, IPv4Address(source) if source else None)


@pytest.mark.parametrize(
    ("removed", "added", "expected"),
    [
        (
            [route("172.16.128.0/24", source="172.16.0.1")],
            [],
            "route 172.16.128.0/24 dev wg0 proto 182 src 172.16.0.1\n    +present",
        ),
        ([route("172.16.0.3/32", 5182)], [], "route 172.16.0.3/32 dev wg0 table 5182 proto 182\n    +present"),
        (
            [],
            [route("172.16.200.0/24", source="172.16.0.1")],
            "route 172.16.200.0/24 dev wg0 proto 182 src 172.16.0.1\n    -present",
        ),
        (
            [route("172.16.128.0/24", source="172.16.0.1")],
            [route("172.16.128.0/24", source="10.0.0.1")],
            (
                "route 172.16.128.0/24 dev wg0 proto 182 src 10.0.0.1\n    -present\n"
                "route 172.16.128.0/24 dev wg0 proto 182 src 172.16.0.1\n    +present"
            ),
        ),
    ],
)
def test_a_change_of_routes(removed: list[Route], added: list[Route], expected: str) -> None:
    assert GOOD.our_routes >= set(removed)
    assert text(replace(GOOD, our_routes=GOOD.our_routes - set(removed) | set(added))) == expected


def test_a_route_without_its_source_is_a_change() -> None:
    bad = GOOD.our_routes - {route("172.16.128.0/24", source="172.16.0.1")} | {route("172.16.128.0/24")}
    assert text(replace(GOOD, our_routes=bad)) == (
        "route 172.16.128.0/24 dev wg0 proto 182\n    -present\n"
        "route 172.16.128.0/24 dev wg0 proto 182 src 172.16.0.1\n    +present"
    )


def test_a_change_of_rules() -> None:
    assert text(replace(GOOD, our_rules=frozenset({Rule("wg0", 99, 99)}))) == (
        "rule iif wg0 lookup 5182 priority 5182 protocol 182\n    +present\n"
        "rule iif wg0 lookup 99 priority 99 protocol 182\n    -present"
    )


@pytest.mark.parametrize(
    ("sysctls", "before"),
    [
        ({**GOOD.sysctls, "net.ipv4.ip_forward": "0"}, "0"),
        ({"net.ipv4.conf.all.send_redirects": "0", "net.ipv4.conf.default.send_redirects": "0"}, "unset"),
    ],
)
def test_a_change_of_a_sysctl(sysctls: dict[str, str], before: str) -> None:
    assert text(replace(GOOD, sysctls=sysctls)) == f"sysctl net.ipv4.ip_forward\n    -{before}\n    +1"


def test_a_leaf_has_no_opinion_on_forwarding() -> None:
    leaf = recorded("leaf", "n2")
    assert not plan(replace(leaf, sysctls={**leaf.sysctls, "net.ipv4.ip_forward": "1"}), CONFIGS["n2"])


# --- the firewall -------------------------------------------------------------------------------------------------

IN, OUT = (
    "-A ISTHMUS-FORWARD -s 172.16.0.0/24 -d 172.16.0.0/12 -i wg0 -o wg0 -j ACCEPT",
    "-A ISTHMUS-FORWARD -s 172.16.0.0/12 -d 172.16.0.0/24 -i wg0 -o wg0 -j ACCEPT",
)
JUMP = "-A FORWARD -j ISTHMUS-FORWARD"


def forward(*lines: str) -> Facts:
    """Return the gateway with these lines as its forward chain and the jump to it."""
    others = tuple(
        line for line in GOOD.firewall if not line.startswith(("filter -A ISTHMUS-FORWARD", f"filter {JUMP}"))
    )
    assert len(others) == len(GOOD.firewall) - 3
    return replace(GOOD, firewall=(*others, *(f"filter {line}" for line in lines)))


@pytest.mark.parametrize("lines", [(IN, OUT, JUMP), (JUMP, IN, OUT), (IN, JUMP, OUT)])
def test_where_the_jump_is_printed_does_not_matter(lines: tuple[str, ...]) -> None:
    assert not plan(forward(*lines))


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (JUMP,),
        (IN, OUT),
        (IN, JUMP),
        (OUT, IN, JUMP),
        (IN, IN, OUT, JUMP),
        (IN, OUT, "-A ISTHMUS-FORWARD -j DROP", JUMP),
    ],
)
def test_a_chain_is_shown_whole_and_in_order(lines: tuple[str, ...]) -> None:
    assert text(forward(*lines)) == "\n".join(
        ["firewall filter ISTHMUS-FORWARD"]
        + [f"    -{line}" for line in sorted(lines, key=JUMP.__eq__)]
        + [f"    +{line}" for line in (IN, OUT, JUMP)]
    )


def test_a_chain_too_many_is_a_change() -> None:
    leaf = recorded("leaf", "n2")
    found = plan(
        replace(
            leaf, firewall=(*leaf.firewall, "nat :ISTHMUS-POSTROUTING", "nat -A POSTROUTING -j ISTHMUS-POSTROUTING")
        ),
        CONFIGS["n2"],
    )
    assert "\n".join(map(str, found.changes)) == (
        "firewall nat ISTHMUS-POSTROUTING\n    --A POSTROUTING -j ISTHMUS-POSTROUTING"
    )
    assert not plan(replace(leaf, firewall=(*leaf.firewall, "nat :ISTHMUS-POSTROUTING")), CONFIGS["n2"]), (
        "an empty chain that nobody jumps to does nothing"
    )


# --- objections ---------------------------------------------------------------------------------------------------


def test_a_bare_host_and_a_meshed_one_may_be_touched() -> None:
    assert objections(CONFIG, BARE) == ()
    assert objections(CONFIG, GOOD) == ()


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            replace(BARE, system="ubuntu 24.04"),
            "runs ubuntu 24.04; supported are debian 11, debian 12, debian 13",
        ),
        (
            replace(BARE, addresses=(("lo", IPv4Interface("127.0.0.1/8")), ("eth0", IPv4Interface("172.16.0.2/24")))),
            "has no network interface with 172.16.0.1, its address in the inventory; it has 172.16.0.2 (eth0)",
        ),
        (
            replace(BARE, addresses=(("wg0", IPv4Interface("172.16.0.1/32")),)),
            "has no network interface with 172.16.0.1, its address in the inventory; it has none",
        ),
        (
            replace(BARE, files={"/etc/wireguard/wg0.conf": FoundFile("[Interface]\n", 0o600)}),
            "/etc/wireguard/wg0.conf was not written by Isthmus; move it away, or choose another [mesh] interface",
        ),
        (
            recorded("foreign-conf"),
            "/etc/wireguard/wg0.conf was not written by Isthmus; move it away, or choose another [mesh] interface",
        ),
        (
            replace(BARE, link_exists=True, interface=FoundInterface(None, 51820, 1420, True, ())),
            "has a network interface wg0 that is not ours; choose another [mesh] interface",
        ),
    ],
)
def test_what_must_not_be_touched_says_why(facts: Facts, expected: str) -> None:
    assert objections(CONFIG, facts) == (expected,)


def test_all_objections_are_given_at_once() -> None:
    facts = replace(recorded("foreign-conf"), system="alpine 3", addresses=())
    assert [text.split()[0] for text in objections(CONFIG, facts)] == ["runs", "has", "/etc/wireguard/wg0.conf"]


def test_our_interface_without_its_file_is_ours_still() -> None:
    without = {path: file for path, file in GOOD.files.items() if not path.endswith(".conf")}
    assert objections(CONFIG, replace(GOOD, files=without)) == ()
