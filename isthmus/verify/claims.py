"""What must hold on each host by itself: that it takes nothing it was not given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from isthmus.model import MAIN_TABLE, PROBED, Chain, FirewallRule, Inventory, Peer, Route, Target
from isthmus.verify.machine import Machine
from isthmus.verify.promises import BrokenPromise, Promise
from isthmus.verify.tables import LongestPrefix, span
from isthmus.verify.trace import Tracer
from isthmus.verify.walk import route_text, rule_text


class Claims:
    """Judges machines one by one against the inventory they belong to."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._inventory = inventory = tracer.inventory
        merged = collapse_addresses(site.subnet for site in inventory.sites.values())
        self._mesh_networks = LongestPrefix((*span(network), network) for network in merged)
        self._site_of_member = {int(host.address): host.site for host in inventory.hosts.values()}
        self._site_of_resource = {int(item.address): item.site for item in inventory.resources.values()}
        kubernetes = inventory.kubernetes
        self._probes = _Probes(inventory)
        self._cluster = () if kubernetes is None else (kubernetes.pod_subnet, kubernetes.service_subnet)

    def broken_on(self, machine: Machine, foreign: Iterable[IPv4Network] = ()) -> list[BrokenPromise]:
        """Return the promises this machine breaks; `foreign` are networks on it that are not the mesh's."""
        found = [
            *self._address(machine),
            *self._mtu(machine),
            *self._owners(machine),
            *self._peers(machine),
            *self._routes(machine, (*self._cluster, *foreign)),
            *self._firewall(machine),
            *self._translations(machine),
        ]
        return [BrokenPromise(promise, machine.name, detail) for promise, detail in found]

    def _address(self, machine: Machine) -> Iterator[tuple[Promise, str]]:
        found = [str(address) for address in machine.addresses_of(machine.interface)]
        addresses = (self._inventory.hosts[machine.name].address, *self._probes.addresses(machine.name))
        wanted = [f"{address}/32" for address in addresses]
        # The first is the source of what the host sends; the order of the others means nothing.
        if found[:1] != wanted[:1] or sorted(found) != sorted(wanted):
            has = ", ".join(found) or "no address"
            yield Promise.MESH_ADDRESS, f"{machine.interface} has {has}, not {', '.join(wanted)}"

    def _mtu(self, machine: Machine) -> Iterator[tuple[Promise, str]]:
        wanted = self._inventory.mesh.mtu
        if machine.mtu != wanted:
            yield Promise.ONE_MTU, f"the MTU of {machine.interface} is {machine.mtu}, the mesh's is {wanted}"

    def _owners(self, machine: Machine) -> Iterator[tuple[Promise, str]]:
        owners: dict[tuple[int, int], str] = {}
        listed: set[str] = set()
        for peer in machine.peers:
            if peer.host in listed:
                yield Promise.ONE_OWNER, f"peer {peer.host} is listed twice; only the last one counts"
            listed.add(peer.host)
            for network in peer.allowed_ips:
                other = owners.setdefault(span(network), peer.host)
                if other != peer.host:
                    detail = f"{network} is in the AllowedIPs of {other} and of {peer.host}; the last one has it"
                    yield Promise.ONE_OWNER, detail

    def _peers(self, machine: Machine) -> Iterator[tuple[Promise, str]]:
        for peer in machine.peers:
            if peer.host not in self._inventory.hosts or peer.host == machine.name:
                yield Promise.KNOWN_PEERS, f"peer {peer.host} is no other host of the inventory"
                continue
            for network in peer.allowed_ips:
                if not self._may_claim(machine, peer, network):
                    yield Promise.NARROW_KEYS, f"the key of {peer.host} may send as {network}"
            reason = self._tracer.own_tunnel(machine.name, peer)
            if reason is not None:
                yield Promise.NO_OWN_TUNNEL, reason

    def _may_claim(self, machine: Machine, peer: Peer, network: IPv4Network) -> bool:
        """Return whether a peer may speak for a network: for itself; a gateway also for its site, or towards its own
        leaves for the other sites.
        """
        inventory = self._inventory
        host, here = inventory.hosts[peer.host], inventory.hosts[machine.name].site
        if span(network) == (int(host.address), 32):
            return True
        if not inventory.is_gateway(peer.host):
            return False
        if network.prefixlen == 32 and self._probes.owner(machine.name, int(network.network_address)) == peer.host:
            return True
        if host.site != here:
            return network.subnet_of(inventory.sites[host.site].subnet)
        return network.subnet_of(inventory.mesh.supernet) and not network.overlaps(inventory.sites[here].subnet)

    def _routes(self, machine: Machine, foreign: Iterable[IPv4Network]) -> Iterator[tuple[Promise, str]]:
        foreign = tuple(foreign)
        here = self._inventory.hosts[machine.name].site
        own = self._inventory.sites[here].subnet
        for route in machine.routes:
            if route.device != machine.interface:
                continue
            for network in foreign:
                if route.destination.overlaps(network):
                    yield Promise.NARROW_ROUTES, f"{route_text(route)} collides with {network}"
            if not self._may_capture(machine.name, route, here, own):
                yield Promise.NARROW_ROUTES, f"{route_text(route)} leads what no other site owns into the mesh"

    def _may_capture(self, machine: str, route: Route, here: str, own: IPv4Network) -> bool:
        """Return whether a route into the mesh is for other sites only, in a table of its own for an own host, or for
        a probe that passes here.
        """
        start, length = span(route.destination)
        if length == 32 and route.table != MAIN_TABLE and self._site_of_member.get(start) == here:
            return True
        if length == 32 and self._probes.owner(machine, start) is not None:
            return True
        inside = self._mesh_networks.get(start)
        return inside is not None and inside.prefixlen <= length and not route.destination.overlaps(own)

    def _firewall(self, machine: Machine) -> Iterator[tuple[Promise, str]]:
        for rule in machine.firewall:
            if rule.target is not Target.ACCEPT:
                continue
            if rule.chain is Chain.INPUT and (rule.protocol, rule.destination_port) != ("udp", machine.listen_port):
                yield Promise.NARROW_FIREWALL, f"INPUT accepts {rule_text(rule)}"
            if rule.chain is Chain.FORWARD and not self._is_mesh_traffic(machine, rule):
                yield Promise.NARROW_FIREWALL, f"FORWARD accepts {rule_text(rule)}"

    def _is_mesh_traffic(self, machine: Machine, rule: FirewallRule) -> bool:
        """Return whether a FORWARD rule holds for nothing but members, flows to resources, and their answers."""
        mesh, site = self._inventory.mesh, self._inventory.hosts[machine.name].site
        own = self._inventory.sites[site].subnet
        comes_in, goes_out = rule.in_interface == machine.interface, rule.out_interface == machine.interface
        if comes_in and goes_out and rule.source is not None and rule.destination is not None:
            ends = (rule.source, rule.destination)
            if self._probes.may_forward(machine.name, ends):
                return True
            return all(end.subnet_of(mesh.supernet) for end in ends) and any(end.subnet_of(own) for end in ends)
        if comes_in:
            return self._is_resource(rule.destination, site)
        return goes_out and rule.established and self._is_resource(rule.source, site)

    def _translations(self, machine: Machine) -> Iterator[tuple[Promise, str]]:
        site = self._inventory.hosts[machine.name].site
        for rule in machine.firewall:
            if rule.target is not Target.SNAT:
                continue
            from_mesh = rule.source is not None and rule.source.subnet_of(self._inventory.mesh.supernet)
            if not from_mesh or not self._is_resource(rule.destination, site):
                yield Promise.NARROW_SNAT, f"{rule_text(rule)} is given the source {rule.to_source}"

    def _is_resource(self, network: IPv4Network | None, site: str) -> bool:
        if network is None or network.prefixlen != 32:
            return False
        return self._site_of_resource.get(int(network.network_address)) == site


class _Probes:
    """Which addresses the second gateways of sites may probe with, who holds them, and by whom they are reached."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        pairs = [(site.name, site.first, site.second) for site in inventory.sites.values() if site.second is not None]
        self._pairs = pairs if len(inventory.sites) > 1 else []
        self._sites = {site for site, _, _ in self._pairs}
        self._probing = {int(inventory.hosts[second].probing): (first, second) for _, first, second in self._pairs}
        sites = inventory.sites.values() if self._pairs else ()
        self._probed = {int(inventory.hosts[name].probed): name for site in sites for name in site.gateways}

    def addresses(self, host: str) -> list[IPv4Address]:
        """Return the probe addresses that a host has: of a gateway that others probe, of one that probes."""
        inventory = self._inventory
        here = inventory.hosts[host]
        watched = inventory.is_gateway(host) and bool(self._sites - {here.site})
        probes = here.site in self._sites and host == inventory.sites[here.site].second
        return [here.probed] * watched + [here.probing] * probes

    def owner(self, host: str, address: int) -> str | None:
        """Return by which peer a host sends to a probe address, and gets what comes from it; None for nobody.

        Probes pass the first gateway only: the second has all of them by the first, others the second's by the first.
        """
        hosts, sites = self._inventory.hosts, self._inventory.sites
        if not self._inventory.is_gateway(host):
            return None
        own = sites[hosts[host].site]
        pair = self._probing.get(address)
        if pair is not None:
            first, second = pair
            return None if host == second else second if host == first else first
        gateway = self._probed.get(address)
        if gateway is None or hosts[gateway].site == own.name or own.name not in self._sites:
            return None
        return own.first if host == own.second else gateway

    def may_forward(self, host: str, ends: tuple[IPv4Network, IPv4Network]) -> bool:
        """Return whether a host forwards between these: what its second gateway probes with, and what it probes."""
        one, other = ends if ends[1] == PROBED else ends[::-1]
        pair = self._probing.get(int(one.network_address)) if one.prefixlen == 32 else None
        return other == PROBED and pair is not None and pair[0] == host
