"""Which sites nobody can tell apart, so that the pairs of two of them can stand for those of all.

Alike hosts (symmetry.py) leave a few representatives a site, but 100 sites are still 10,000 pairs of sites. Two sites
are alike when exchanging them, each host and resource with its counterpart, leaves everything as it is that any host
could ever do with an address of either.

Only representatives count, two of each class of alike hosts. A walk between two of them never comes to a third host of
their class: some entry would lead there and name it beside the representative's address, and so tell it from the rest
of its class. Hence sites of different size can be exchanged.

What a host could ever do with an address is not read from its configuration but asked of its kernel
(`Kernel.treatment`), since prefixes differ between sites where their effect does not. The answers are put in words
that an exchange leaves alone: "my site's gateway", "that site's first leaf". Then sites b and c are alike if
- they have counterparts of the same kinds, which treat their own site alike and have the same settings;
- no host of a third site treats b and c differently, nor does a host of b treat third sites in another way than its
  counterpart in c.
For the latter it is enough that each host treats all sites of one shape (but its own) in one way, its usual one, and
that counterparts share it. A site with, or met with, any unusual treatment is alike to none; so is one that has to be
called by its name. Where words are missing, as for an address that belongs to nobody, no sites are alike: who knows
what others do with it. All this costs time only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple

from isthmus.model import Inventory, Peer, Route
from isthmus.verify.kernel import Kernel

Kind = tuple[Hashable, ...]
Shape = tuple[Hashable, ...]
Words = tuple[Hashable, ...]


class Counterpart(NamedTuple):
    """A representative, a resource or an address of one, by what it is to its site."""

    site: str
    kind: Kind
    number: int


class Sites:
    """The classes of alike hosts by site, and groups of alike sites. Classes of a kind have the same place in all."""

    def __init__(self, classes: Sequence[Sequence[str]], inventory: Inventory) -> None:
        self.inventory = inventory
        self.classes: dict[str, list[Sequence[str]]] = {}
        for alike in classes:
            self.classes.setdefault(inventory.hosts[alike[0]].site, []).append(alike)
        self.groups = [[site] for site in self.classes]

    def group(self, kernel_of: Callable[[str], Kernel]) -> None:
        """Find the alike sites. `kernel_of` is asked for representatives only."""
        grouping = _Grouping(self, kernel_of)
        self.groups = grouping.groups()
        for classes in self.classes.values():
            classes.sort(key=grouping.kind)

    def pairs(self) -> Iterator[tuple[str, str, int]]:
        """Return pairs of hosts that stand for all, each for how many (it included); a pair is for both directions."""
        for index, group in enumerate(self.groups):
            yield from self._pairs_inside(group)
            if len(group) > 1:
                yield from self._pairs_among(group)
            for other in self.groups[index + 1 :]:
                for one, ones in self._classes_of(group):
                    for two, twos in self._classes_of(other):
                        yield one[0], two[0], sum(ones) * sum(twos)

    def to_resources(self) -> Iterator[tuple[str, str, int]]:
        """Return hosts and resources that stand for all, each for how many (it included)."""
        for group in self.groups:
            for one, ones in self._classes_of(group):
                for other in self.groups:
                    near, far = (1, len(group) - 1) if other is group else (0, len(other))
                    if near:
                        for resource in self.inventory.resources_of(group[0]):
                            yield one[0], resource.name, sum(ones)
                    if far:
                        for resource in self.inventory.resources_of(other[-1]):
                            yield one[0], resource.name, sum(ones) * far

    def _classes_of(self, group: list[str]) -> list[tuple[Sequence[str], list[int]]]:
        """Return the classes of a group's first site, each with the sizes of its counterparts in all the group."""
        sizes = zip(*([len(alike) for alike in self.classes[site]] for site in group), strict=True)
        return list(zip(self.classes[group[0]], map(list, sizes), strict=True))

    def _pairs_inside(self, group: list[str]) -> Iterator[tuple[str, str, int]]:
        classes = self._classes_of(group)
        for index, (one, ones) in enumerate(classes):
            if len(one) > 1:
                yield one[0], one[1], sum(size * (size - 1) // 2 for size in ones)
            for two, twos in classes[index + 1 :]:
                yield one[0], two[0], sum(size * other for size, other in zip(ones, twos, strict=True))

    def _pairs_among(self, group: list[str]) -> Iterator[tuple[str, str, int]]:
        """Return pairs between two sites of a group, which stand for those between any two of it."""
        others = self.classes[group[1]]
        for index, (one, ones) in enumerate(self._classes_of(group)):
            for place, (_, twos) in enumerate(self._classes_of(group)):
                ways = sum(ones) * sum(twos) - sum(size * other for size, other in zip(ones, twos, strict=True))
                if place > index:
                    yield one[0], others[place][0], ways
                elif place == index:
                    yield one[0], others[place][0], ways // 2


class _Grouping:
    def __init__(self, sites: Sites, kernel_of: Callable[[str], Kernel]) -> None:
        self._sites = sites
        self._inventory = sites.inventory
        self._kernel_of = kernel_of
        self._special: set[str] = set()
        self._words_missing = False
        self._by_name: dict[str, Counterpart] = {}
        self._by_address: dict[int, Counterpart] = {}
        self._probes = any(site.second is not None for site in sites.inventory.sites.values())
        self._asked_at_home: dict[str, list[int]] = {}
        self._asked_abroad: dict[str, list[int]] = {}
        self._representatives: dict[str, list[str]] = {}
        self._shapes: dict[str, Shape] = {}
        for site, classes in sites.classes.items():
            self._enter(site, classes)

    def kind(self, alike: Sequence[str]) -> Kind:
        """Return what a class of alike hosts is to its site: gateway, in charge, public or not, one host or more."""
        host = self._inventory.hosts[alike[0]]
        role = (self._inventory.is_gateway(host.name), self._inventory.in_charge(host.name))
        return (*role, host.public is not None, len(alike) > 1)

    def groups(self) -> list[list[str]]:
        characters = {site: self._character(site) for site in self._sites.classes}
        found: dict[Hashable, list[str]] = {}
        for site, character in characters.items():
            alone = self._words_missing or site in self._special
            found.setdefault(site if alone else character, []).append(site)
        return list(found.values())

    def _enter(self, site: str, classes: list[Sequence[str]]) -> None:
        """Give every representative, resource and address of a site its words."""
        at_home = self._asked_at_home[site] = []
        # Abroad the first of a class is enough: elsewhere nothing tells the second from it.
        abroad = self._asked_abroad[site] = []
        for alike in sorted(classes, key=self.kind):
            for number, name in enumerate(alike[:2]):
                host, kind = self._inventory.hosts[name], self.kind(alike)
                self._by_name[name] = Counterpart(site, kind, number)
                probes = (("probed", host.probed), ("probing", host.probing)) if kind[0] and self._probes else ()
                for what, address in (("address", host.address), ("public", host.public), *probes):
                    if address is not None:
                        self._by_address[int(address)] = Counterpart(site, (what, *kind), number)
                        at_home.append(int(address))
                        abroad += at_home[-1:] if number == 0 else []
        resources = self._inventory.resources_of(site)
        for number, resource in enumerate(resources):
            self._by_address[int(resource.address)] = Counterpart(site, ("resource", resource.port), number)
            at_home.append(int(resource.address))
            abroad.append(int(resource.address))
        self._representatives[site] = [name for alike in sorted(classes, key=self.kind) for name in alike[:2]]
        kinds = sorted(map(self.kind, classes))
        self._shapes[site] = (tuple(kinds), tuple(resource.port for resource in resources))
        if len(set(kinds)) < len(kinds) or sum(map(len, classes)) < len(self._inventory.members(site)):
            # Two classes that these words do not tell apart, or hosts of which nothing is known.
            self._special.add(site)

    def _character(self, site: str) -> Hashable:
        """Return how a site's hosts treat their own site and, usually, sites of each shape; note unusual treatment."""
        character: list[Hashable] = [self._shapes[site]]
        for alike in sorted(self._sites.classes[site], key=self.kind):
            kernel = self._kernel_of(alike[0])
            treatments: dict[Shape, dict[str, Words]] = {}
            for other in self._sites.classes:
                if other != site:
                    treatments.setdefault(self._shapes[other], {})[other] = self._treatment(kernel, other)
            usual = {shape: Counter(by_site.values()).most_common(1)[0][0] for shape, by_site in treatments.items()}
            for shape, by_site in treatments.items():
                unusual = {other for other, words in by_site.items() if words != usual[shape]}
                self._special |= unusual | {site for _ in unusual}
            character += [self._settings(kernel), self._treatment(kernel, site), frozenset(usual.items())]
        return tuple(character)

    def _settings(self, kernel: Kernel) -> Words:
        """Return all that decides about packets on a host whatever their addresses."""
        machine = kernel.machine
        words = _Words(self, kernel.site, kernel.site)
        firewall = tuple(
            (
                rule.chain,
                rule.target,
                rule.source is None,
                rule.destination is None,
                rule.in_interface,
                rule.out_interface,
                rule.protocol,
                rule.destination_port,
                rule.established,
                words.address(rule.to_source),
            )
            for rule in machine.firewall
        )
        first = tuple(words.number(address) for address in kernel.first_addresses())
        plain = (machine.interface, machine.listen_port, machine.ip_forward, machine.rp_filter, kernel.nic)
        self._note(words)
        return (*plain, machine.input_drops, machine.forward_drops, machine.rules, firewall, first)

    def _treatment(self, kernel: Kernel, site: str) -> Words:
        """Return all that a host could ever do with the addresses, and send to the peers, of a site."""
        words = _Words(self, kernel.site, site)
        treatment: list[Hashable] = []
        before, said = None, None
        for address in (self._asked_at_home if kernel.site == site else self._asked_abroad)[site]:
            asked = kernel.treatment(address)
            if asked != before:  # a site's addresses mostly are treated as one
                own, owner, routes, met = before = asked
                said = (own, words.peer(owner), tuple(map(words.route, routes)), met)
            treatment.append(said)
        treatment += [words.peer(kernel.peers.get(name)) for name in self._representatives[site]]
        self._note(words)
        return tuple(treatment)

    def _note(self, words: _Words) -> None:
        self._special |= words.special
        self._words_missing |= words.missing


class _Words:
    """Says who a name or an address is, in words that an exchange of sites leaves alone."""

    def __init__(self, grouping: _Grouping, own: str, that: str) -> None:
        self._by_name = grouping._by_name
        self._by_address = grouping._by_address
        self._own = own
        self._that = that
        self.special: set[str] = set()
        """Sites that were called by their own name and so cannot be exchanged."""
        self.missing = False
        """There were no words for something."""

    def peer(self, peer: Peer | None) -> Hashable:
        if peer is None:
            return None
        endpoint = peer.endpoint and (self.address(peer.endpoint.address), peer.endpoint.port)
        return self._relative(self._by_name.get(peer.host)), endpoint

    def route(self, route: Route | None) -> Hashable:
        return route and (route.table, route.device, self.address(route.source), self.address(route.gateway))

    def address(self, address: IPv4Address | None) -> Hashable:
        return None if address is None else self.number(int(address))

    def number(self, address: int) -> Hashable:
        return self._relative(self._by_address.get(address))

    def _relative(self, counterpart: Counterpart | None) -> Hashable:
        if counterpart is None:
            self.missing = True
            return None
        if counterpart.site == self._own:
            return ("own", counterpart.kind, counterpart.number)
        if counterpart.site == self._that:
            return ("that", counterpart.kind, counterpart.number)
        # A third site is called by its name, which no exchange may change.
        self.special.add(counterpart.site)
        return counterpart
