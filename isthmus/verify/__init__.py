"""A second, independent reading of the network: traces packets through compiled or observed hosts.

It knows how Linux, WireGuard and clouds treat a packet, and nothing of how Isthmus chose its values. In reading order:
machine.py   one host as plain values (`Machine`, `machine_of` a compiled one)
kernel.py    what Linux and WireGuard on it do with a packet (tables.py: look-ups)
walk.py      a packet's walk, which prints itself, and its closed list of outcomes
trace.py     from host to host; underlay.py  what lies between them
promises.py  what must hold between two hosts; claims.py  what must hold on each
symmetry.py  which hosts nobody can tell apart, sites.py which sites: so 10,000 hosts need a few walks, not 100 million

Not read: routes to several next hops and unreachable ones; policy rules on anything but the incoming interface;
WireGuard's fwmark and roaming (an endpoint is where it is configured or was last seen); other firewall rules than ours,
whose place the chains' policy takes; rp_filter by device (the strictest counts for all); packet sizes, but for one MTU
everywhere; ICMP, IPv6 and time: handshakes, keepalives, NAT timeouts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Network

from isthmus.model import Inventory
from isthmus.verify.claims import Claims
from isthmus.verify.machine import Machine, connected_route, machine_of, machines_of
from isthmus.verify.promises import BrokenPromise, Promise, broken_between, broken_to_resource
from isthmus.verify.sites import Sites
from isthmus.verify.symmetry import classes_of_alike
from isthmus.verify.trace import Tracer
from isthmus.verify.walk import Hop, Link, Outcome, Path, Walk, path_text, promised_path

__all__ = [
    "BrokenPromise",
    "Hop",
    "Link",
    "Machine",
    "Outcome",
    "Path",
    "Promise",
    "Tracer",
    "Walk",
    "connected_route",
    "machine_of",
    "machines_of",
    "path_text",
    "promised_path",
    "verify",
]


FEW_SITES = 2
"""So many sites are all traced: grouping saves nothing."""


def verify(
    machines: Mapping[str, Machine],
    inventory: Inventory,
    foreign: Mapping[str, Iterable[IPv4Network]] | None = None,
    *,
    exhaustive: bool = False,
) -> tuple[BrokenPromise, ...]:
    """Return every promise the machines break, each host's own first, then pairs, then resources. () is a correct mesh.

    `foreign` has, for a host, networks found on it that are not the mesh's (docker0's 172.17.0.0/16): they break a
    promise only where a route into the mesh would capture them. Pairs of alike hosts are traced once and counted in
    `BrokenPromise.alike`; `exhaustive` traces every pair, which is only for tests.
    """
    foreign = {host: tuple(networks) for host, networks in (foreign or {}).items()}
    classes = [[name] for name in machines] if exhaustive else classes_of_alike(machines, inventory, foreign)
    tracer = Tracer(machines, inventory)
    claims = Claims(tracer)
    broken: list[BrokenPromise] = []
    for alike in classes:
        broken += _with_alike(claims.broken_on(machines[alike[0]], foreign.get(alike[0], ())), len(alike))
    sites = Sites(classes, inventory)
    if len(sites.classes) > FEW_SITES and not exhaustive:
        sites.group(tracer.kernel)
    for one, other, cases in sites.pairs():
        broken += _with_alike(broken_between(tracer, one, other), cases)
    for host, resource, cases in sites.to_resources():
        broken += _with_alike(broken_to_resource(tracer, host, resource), cases)
    return tuple(broken)


def _with_alike(broken: list[BrokenPromise], cases: int) -> list[BrokenPromise]:
    if not broken or cases == 1:
        return broken
    return [replace(fault, alike=cases - 1) for fault in broken]
