"""Lines that iproute2 prints, read into values. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from isthmus.model import MAIN_TABLE, ROUTE_PROTOCOL, Route, Rule

_TABLES = {"main": MAIN_TABLE, "local": 255, "default": 253}
_TYPES = ("unicast", "blackhole", "unreachable", "prohibit", "throw")


def parse_address(line: str) -> tuple[str, IPv4Interface]:
    """Read `2: eth0    inet 172.16.0.2/24 brd … scope global eth0`; a peer address has none of `/`."""
    words = line.split()
    text = words[words.index("inet") + 1]
    return words[1].split("@")[0], IPv4Interface(text)


def _after(words: list[str], key: str) -> str | None:
    return words[words.index(key) + 1] if key in words[:-1] else None


def _table(name: str | None) -> int:
    if name is None:
        return MAIN_TABLE
    return _TABLES.get(name) or (int(name) if name.isdigit() else 0)


def parse_route(line: str) -> tuple[Route, bool] | None:
    """Read a line of `ip -4 -d route show table all`; multipath and unreachable routes are not routes to a device."""
    words = line.split()
    if words[:1] == ["unicast"]:
        words = words[1:]
    device = _after(words, "dev")
    if device is None:
        return None
    destination = "0.0.0.0/0" if words[0] == "default" else words[0]
    source, gateway = _after(words, "src"), _after(words, "via")
    try:
        route = Route(
            destination=IPv4Network(destination),
            device=device,
            table=_table(_after(words, "table")),
            source=IPv4Address(source) if source else None,
            gateway=IPv4Address(gateway) if gateway else None,
            metric=int(_after(words, "metric") or 0),
        )
    except ValueError:
        return None
    return route, _after(words, "proto") == str(ROUTE_PROTOCOL)


def parse_destination(line: str) -> IPv4Network | None:
    """Read only where a route leads: also of those that `parse_route` leaves out, which lead nowhere, or many ways."""
    words = line.split()
    destination = next((word for word in words if word not in _TYPES), "")
    try:
        return IPv4Network("0.0.0.0/0" if destination == "default" else destination)
    except ValueError:  # the second line of a route to several next hops
        return None


def parse_rule(line: str) -> tuple[Rule, bool] | None:
    """Read a line of `ip rule show` that depends on the incoming interface: `5182: from all iif wg0 lookup 5182 …`."""
    priority, _, rest = line.partition(":")
    words = rest.split()
    iif, table = _after(words, "iif"), _after(words, "lookup")
    if iif is None or table is None:
        return None
    return Rule(iif=iif, table=_table(table), priority=int(priority)), _after(words, "proto") == str(ROUTE_PROTOCOL)
