"""What must hold on each host by itself: that it takes nothing it was not given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, collapse_addresses

from isthmus.model import MAIN_TABLE, Chain, FirewallRule, Peer, Route, Target
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
        wanted = f"{self._inventory.hosts[machine.name].address}/32"
        if found != [wanted]:
            yield Promise.MESH_ADDRESS, f"{machine.interface} has {', '.join(found) or 'no address'}, not {wanted}"

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
            if not self._may_capture(route, here, own):
                yield Promise.NARROW_ROUTES, f"{route_text(route)} leads what no other site owns into the mesh"

    def _may_capture(self, route: Route, here: str, own: IPv4Network) -> bool:
        """Return whether a route into the mesh is for other sites only, or in a table of its own for an own host."""
        start, length = span(route.destination)
        if length == 32 and route.table != MAIN_TABLE and self._site_of_member.get(start) == here:
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
