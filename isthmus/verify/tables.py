"""Look-ups as Linux does them: the longest prefix, the first firewall rule that matches.

Addresses are integers: a walk through a large mesh is made of a million of these look-ups.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network
from typing import Generic, NamedTuple, TypeVar

from isthmus.model import FirewallRule

T = TypeVar("T")


def span(network: IPv4Network) -> tuple[int, int]:
    """Return a network as integers: its first address and its prefix length."""
    return int(network.network_address), network.prefixlen


class LongestPrefix(Generic[T]):
    """Finds the entry of the longest prefix that holds an address.

    Entries are (first address, prefix length, entry); of equal prefixes the first given is kept.
    """

    __slots__ = ("_levels",)

    def __init__(self, entries: Iterable[tuple[int, int, T]]) -> None:
        by_length: dict[int, dict[int, T]] = {}
        for start, length, entry in entries:
            by_length.setdefault(length, {}).setdefault(start, entry)
        self._levels = [
            (0xFFFFFFFF << (32 - length) & 0xFFFFFFFF, by_length[length]) for length in sorted(by_length, reverse=True)
        ]

    def get(self, address: int) -> T | None:
        """Return the entry for an address, or None."""
        for mask, entries in self._levels:
            found = entries.get(address & mask)
            if found is not None:
                return found
        return None


class Flow(NamedTuple):
    """What a firewall sees of a packet besides its addresses and devices.

    None is any protocol, any port: a rule for one of them only does not cover it.
    """

    protocol: str | None = None
    port: int | None = None
    established: bool = False
    """It answers a flow that was let through before."""


class Match:
    """The conditions of one iptables rule."""

    __slots__ = ("_destination", "_in", "_out", "_source", "rule")

    def __init__(self, rule: FirewallRule) -> None:
        self.rule = rule
        self._source = _bits(rule.source)
        self._destination = _bits(rule.destination)
        self._in = _device(rule.in_interface)
        self._out = _device(rule.out_interface)

    def holds(self, source: int, destination: int, arrived: str | None, leaves: str | None, flow: Flow) -> bool:
        """Return whether the rule matches a packet; a device is None where the chain does not know it."""
        mask, network = self._destination
        if destination & mask != network:
            return False
        mask, network = self._source
        if source & mask != network:
            return False
        wanted, name = self._in
        if name is not None and (arrived == name) is not wanted:
            return False
        wanted, name = self._out
        if name is not None and (leaves == name) is not wanted:
            return False
        rule = self.rule
        return (
            (rule.protocol is None or rule.protocol == flow.protocol)
            and (rule.destination_port is None or rule.destination_port == flow.port)
            and (flow.established or not rule.established)
        )

    def addresses(self) -> tuple[tuple[int, int], ...]:
        """Return the conditions on source and destination that not every address meets, as (mask, first address)."""
        return tuple(bits for bits in (self._source, self._destination) if bits[0])


def _bits(network: IPv4Network | None) -> tuple[int, int]:
    return (0, 0) if network is None else (int(network.netmask), int(network.network_address))


def _device(name: str | None) -> tuple[bool, str | None]:
    """Return (whether it must be that device, its name); `!wg0` is any other."""
    if name is not None and name.startswith("!"):
        return False, name[1:]
    return True, name
