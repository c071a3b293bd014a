"""Which hosts nobody can tell apart, so that one pair of them can stand for many.

10,000 hosts are 100 million pairs, but the leaves of a site differ in nothing but their names and addresses. Two hosts
x and y are *alike* when exchanging their names, private and public addresses everywhere leaves the whole network as it
is. Such an exchange maps the walk from s to d onto the walk from s' to d', hop by hop, and every promise speaks of
hosts only by what the exchange leaves alone (site, gateway or not, in charge or not, own address). So a pair keeps its
promises exactly when any pair does that exchanges of alike hosts turn it into, and it is enough to trace, of each two
classes of alike hosts, one pair in both directions, and one pair inside each class.

Two hosts are found alike by equal signatures, made of
- their site, whether they are its gateway, in charge or not, whether they have a public address;
- for each of their addresses, the longest prefix in the network (shorter than /32) that holds it: prefixes are nested
  or apart, so hosts that agree on the longest agree on every one, and no route or AllowedIPs treats them differently;
- all that is configured on the host, with "my name, my address, my public address" for its own;
- all that is configured elsewhere and mentions the host, in order, with the host itself masked in the same way.

Why equal signatures suffice. Exchange x and y in a third host's configuration: what mentions neither stays; what
mentions x alone becomes what mentions y alone, which is there, since y's signature has it too; nothing mentions both,
for in x's signature it would name y, and in y's it cannot, y being masked there. Exchange them in x's configuration:
it becomes y's by the same argument. Where the kernel goes by the order of entries (equal routes, claims on one prefix,
firewall rules) the entry's position, or the claim's winner, is part of what is compared. Telling alike hosts apart by
mistake costs time only; the tests compare with all pairs on networks with random faults.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple, TypeVar

from isthmus.model import FirewallRule, Host, Inventory, Peer, Route
from isthmus.verify.machine import Machine
from isthmus.verify.tables import LongestPrefix, span

T = TypeVar("T")


class Mention(NamedTuple):
    """A host's name or one of its addresses, wherever a configuration has it."""

    host: str
    what: str


Words = tuple[Hashable, ...]
"""One entry of a configuration as plain values; what belongs to a host is a Mention."""

_SELF = "(self)"


def classes_of_alike(
    machines: Mapping[str, Machine], inventory: Inventory, foreign: Mapping[str, Iterable[IPv4Network]]
) -> list[list[str]]:
    """Return the machines' names in classes of alike ones, classes and names in the order given.

    `foreign` is each host's own as much as its routes are. No two hosts may share an address: the inventory sees to it.
    """
    return _Signatures(machines, inventory, foreign).classes()


class _Signatures:
    def __init__(
        self, machines: Mapping[str, Machine], inventory: Inventory, foreign: Mapping[str, Iterable[IPv4Network]]
    ) -> None:
        self._machines = machines
        self._inventory = inventory
        self._foreign = foreign
        self._holders: dict[int, Mention] = {}
        for host in inventory.hosts.values():
            self._holders[int(host.address)] = Mention(host.name, "address")
            if host.public is not None:
                self._holders[int(host.public)] = Mention(host.name, "public address")
        self._prefixes = {span(site.subnet) for site in inventory.sites.values()}
        self._mentions: dict[str, list[tuple[str, int]]] = {name: [] for name in inventory.hosts}
        self._parts: dict[int, _Part] = {}
        self._numbers: dict[Hashable, int] = {}

    def classes(self) -> list[list[str]]:
        own = {name: self._own(machine) for name, machine in self._machines.items()}
        # Only now every prefix of the network is known.
        prefixes = LongestPrefix((start, length, (start, length)) for start, length in self._prefixes)
        found: dict[Words, list[str]] = {}
        for name, words in own.items():
            place = self._place(self._inventory.hosts[name], prefixes)
            found.setdefault((*place, words, tuple(self._mentions[name])), []).append(name)
        return list(found.values())

    def _place(self, host: Host, prefixes: LongestPrefix[tuple[int, int]]) -> Words:
        public = None if host.public is None else prefixes.get(int(host.public))
        role = (self._inventory.is_gateway(host.name), self._inventory.in_charge(host.name))
        return (host.site, *role, host.public is None, public, prefixes.get(int(host.address)))

    def _own(self, machine: Machine) -> Words:
        """Return all that is configured on a host, itself masked; note what is said there of other hosts."""
        name = machine.name
        parts = (
            self._part(machine.routes, self._routes),
            self._part(machine.peers, self._peers),
            self._part(machine.firewall, self._firewall),
        )
        for part in parts:
            for host, number in part.mentions:
                if host != name:
                    self._mentions[host].append((name, number))
        plain = (
            self._addresses(machine),
            machine.interface,
            machine.rules,
            machine.listen_port,
            machine.mtu,
            machine.ip_forward,
            machine.rp_filter,
            machine.input_drops,
            machine.forward_drops,
            tuple(self._foreign.get(name, ())),
        )
        return (self._number(plain), *(self._seen_by(name, part) for part in parts))

    def _part(self, shared: tuple[T, ...], read: Callable[[tuple[T, ...]], Iterator[tuple[Words, Words]]]) -> _Part:
        """Read a part of a configuration; one that many machines share, once. The machines keep it alive."""
        part = self._parts.get(id(shared))
        if part is None:
            entries, mentions = [], []
            for own, others in read(shared):
                entries.append(own)
                mentions += [(host, self._number(_masked(others, host))) for host in _hosts_in(others)]
            part = _Part(tuple(entries), self._number(tuple(entries)), mentions, {host for host, _ in mentions})
            self._parts[id(shared)] = part
        return part

    def _seen_by(self, host: str, part: _Part) -> int:
        """Return the number of a part of a host's configuration, the host itself masked."""
        if host not in part.hosts:
            return part.number
        return self._number(tuple(_masked(words, host) for words in part.entries))

    def _number(self, words: Words) -> int:
        """Return a number that stands for these words: comparing numbers is cheap."""
        return self._numbers.setdefault(words, len(self._numbers))

    def _addresses(self, machine: Machine) -> Words:
        """Return a host's addresses, as `_part` and `_seen_by` would: no two hosts share them, so this is shorter."""
        words: list[Hashable] = []
        for position, (device, address) in enumerate(machine.addresses):
            holder = self._holders.get(int(address))
            if holder is None:
                words.append((device, int(address), address.network.prefixlen))
            elif holder.host == machine.name:
                words.append((device, holder.what, address.network.prefixlen))
            else:
                words.append((device, holder, address.network.prefixlen))
                said = (position, device, holder.what, address.network.prefixlen)
                self._mentions[holder.host].append((machine.name, self._number(said)))
        return tuple(words)

    # Each reader yields every entry twice: as it matters to its own host, and as it matters to those it mentions.

    def _routes(self, routes: tuple[Route, ...]) -> Iterator[tuple[Words, Words]]:
        keys = [(route.table, span(route.destination)) for route in routes]
        times = Counter(keys)
        for position, (route, key) in enumerate(zip(routes, keys, strict=True)):
            words = (
                self._network(route.destination),
                route.device,
                route.table,
                route.metric,
                self._address(route.source),
                self._address(route.gateway),
            )
            # The only route to one host needs no place; others may compete.
            alone = key[1][1] == 32 and times[key] == 1
            yield words, words if alone else (position, *words)

    def _peers(self, peers: tuple[Peer, ...]) -> Iterator[tuple[Words, Words]]:
        last = {peer.host: position for position, peer in enumerate(peers)}
        networks = [[self._network(network) for network in peer.allowed_ips] for peer in peers]
        owners = {
            network: position
            for position, peer in enumerate(peers)
            if last[peer.host] == position
            for network in networks[position]
        }
        for position, peer in enumerate(peers):
            end = peer.endpoint
            to: Words = (None, None) if end is None else (self._address(end.address), end.port)
            words = (self._host(peer.host), peer.persistent_keepalive, *to)
            owned = [network for network in networks[position] if owners.get(network) == position]
            yield (*words, *networks[position]), (*words, last[peer.host] == position, *owned)

    def _firewall(self, rules: tuple[FirewallRule, ...]) -> Iterator[tuple[Words, Words]]:
        for position, rule in enumerate(rules):
            words = (
                position,
                rule.chain,
                rule.target,
                self._network(rule.source),
                self._network(rule.destination),
                rule.in_interface,
                rule.out_interface,
                rule.protocol,
                rule.destination_port,
                rule.established,
                self._address(rule.to_source),
            )
            yield words, words

    def _host(self, name: str) -> Hashable:
        return Mention(name, "name") if name in self._inventory.hosts else name

    def _address(self, address: IPv4Address | None) -> Hashable:
        if address is None:
            return None
        number = int(address)
        return self._holders.get(number, number)

    def _network(self, network: IPv4Network | None) -> Hashable:
        if network is None:
            return None
        start, length = span(network)
        if length < 32:
            self._prefixes.add((start, length))
            return (start, length)
        return self._holders.get(start, start)


class _Part(NamedTuple):
    """A part of one or more configurations: its entries, their number, and the hosts mentioned with what is said."""

    entries: tuple[Words, ...]
    number: int
    mentions: list[tuple[str, int]]
    hosts: set[str]


def _hosts_in(words: Words) -> set[str]:
    return {word.host for word in words if type(word) is Mention}


def _masked(words: Words, host: str) -> Words:
    return tuple([Mention(_SELF, word.what) if type(word) is Mention and word.host == host else word for word in words])
