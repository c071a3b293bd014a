"""Lines of iproute2 as recorded and as they can be; whole probes are in test_observe.py."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from isthmus.iproute import parse_address, parse_destination, parse_route, parse_rule
from isthmus.model import Route, Rule


def route(destination: str, device: str, **more: object) -> Route:
    return Route(IPv4Network(destination), device, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "unicast 172.16.128.0/24 dev wg0 table main proto 182 scope link src 172.16.0.1 ",
            (route("172.16.128.0/24", "wg0", source=IPv4Address("172.16.0.1")), True),
        ),
        (
            "unicast 172.16.0.2 dev wg0 table 5182 proto 182 scope link ",
            (route("172.16.0.2/32", "wg0", table=5182), True),
        ),
        (
            "unicast default via 172.16.0.254 dev eth0 table main proto dhcp scope global src 172.16.0.1 metric 100 ",
            (
                route(
                    "0.0.0.0/0",
                    "eth0",
                    source=IPv4Address("172.16.0.1"),
                    gateway=IPv4Address("172.16.0.254"),
                    metric=100,
                ),
                False,
            ),
        ),
        # Without -d the type and the main table are left out.
        ("172.17.0.0/16 dev docker0 proto kernel scope link linkdown", (route("172.17.0.0/16", "docker0"), False)),
        # A table with a name of its own in rt_tables is some other table, never main.
        (
            "unicast 10.0.0.0/8 dev eth1 table uplink2 proto static scope link",
            (route("10.0.0.0/8", "eth1", table=0), False),
        ),
        ("unicast 10.0.0.0/8 dev eth1 table default scope link", (route("10.0.0.0/8", "eth1", table=253), False)),
        # The name of a protocol that contains our number is not ours.
        ("unicast 10.0.0.0/8 dev wg0 table main proto 1182 scope link", (route("10.0.0.0/8", "wg0"), False)),
    ],
)
def test_a_route_is_read(line: str, expected: tuple[Route, bool]) -> None:
    assert parse_route(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "unicast 10.1.0.0/24 table main proto boot scope global ",
        "\tnexthop via 172.16.0.253 dev eth0 weight 2 ",
        "unreachable 10.2.0.0/24 table main proto boot scope global ",
        "unreachable default dev lo table main metric 4278198272",
        "blackhole 10.3.0.0/24 table main proto boot scope global ",
        "throw 10.5.0.0/24 table 77 proto boot scope global ",
        "unicast 10.6.0.0/24 via inet6 fe80::1 dev eth0 table main proto bird scope global",
        "unicast 10.0.0.1/8 dev eth0 table main",
        "unicast 10.0.0.0/24 dev",
        "unicast",
        "",
    ],
)
def test_what_is_no_route_to_one_device_is_left_out(line: str) -> None:
    assert parse_route(line) is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("unicast 10.1.0.0/24 table main proto boot scope global ", "10.1.0.0/24"),
        ("unreachable 10.2.0.0/24 table main proto boot scope global ", "10.2.0.0/24"),
        ("blackhole 10.3.0.1 table main proto boot scope global ", "10.3.0.1/32"),
        ("prohibit 10.4.0.0/24 table 77 proto boot scope global ", "10.4.0.0/24"),
        ("throw 10.5.0.0/24 table 77 proto boot scope global ", "10.5.0.0/24"),
        ("unicast 10.6.0.0/24 via inet6 fe80::1 dev eth0 table main proto bird scope global", "10.6.0.0/24"),
        ("unreachable default dev lo table main metric 4278198272", "0.0.0.0/0"),
        ("\tnexthop via 172.16.0.253 dev eth0 weight 2 ", None),
        ("unicast 10.0.0.1/8 dev eth0 table main", None),
        ("", None),
    ],
)
def test_the_destination_of_any_route_is_read(line: str, expected: str | None) -> None:
    assert parse_destination(line) == (IPv4Network(expected) if expected else None)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("5182:\tfrom all iif wg0 lookup 5182 proto 182", (Rule(iif="wg0", table=5182, priority=5182), True)),
        ("5182:\tfrom all iif wg0 [detached] lookup 5182 proto 182", (Rule("wg0", 5182, 5182), True)),
        ("1001:\tfrom all fwmark 0x1 iif eth0 lookup main", (Rule("eth0", 254, 1001), False)),
        ("1002:\tfrom all iif eth0 lookup uplink2", (Rule("eth0", 0, 1002), False)),
    ],
)
def test_a_rule_on_an_incoming_interface_is_read(line: str, expected: tuple[Rule, bool]) -> None:
    assert parse_rule(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "0:\tfrom all lookup local",
        "1000:\tfrom all to 10.4.0.0/24 lookup 77",
        "1003:\tfrom all iif eth0 blackhole",
        "",
    ],
)
def test_other_rules_are_left_out(line: str) -> None:
    assert parse_rule(line) is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            r"3: eth0    inet 172.16.0.1/24 brd 172.16.0.255 scope global dynamic eth0\       valid_lft 80000sec",
            ("eth0", "172.16.0.1/24"),
        ),
        (
            r"3: eth0    inet 10.9.0.1 peer 10.9.0.2/32 scope global eth0\       valid_lft forever",
            ("eth0", "10.9.0.1/32"),
        ),
        (
            r"5: eth0.100    inet 192.168.5.1/24 brd 192.168.5.255 scope global eth0.100:one\  valid_lft forever",
            ("eth0.100", "192.168.5.1/24"),
        ),
        (r"7: veth3@if2    inet 10.3.0.1/30 scope global veth3\       valid_lft forever", ("veth3", "10.3.0.1/30")),
    ],
)
def test_an_address_is_read_with_its_interface(line: str, expected: tuple[str, str]) -> None:
    assert parse_address(line) == (expected[0], IPv4Interface(expected[1]))
