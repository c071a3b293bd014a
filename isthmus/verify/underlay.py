"""What lies between hosts: private networks, the internet, and WireGuard's own packets over both.

Hosts of a site reach each other's private addresses on the NIC, through a network that drops sources which are not the
sender's. A public address is a 1:1 NAT of one host and is reached from every host that has one too. Private addresses
never cross the internet. Security groups admit the mesh's port.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from isthmus.model import Chain, Inventory, Peer, Route
from isthmus.verify.kernel import Kernel
from isthmus.verify.machine import LOOPBACK, Machine
from isthmus.verify.tables import Flow
from isthmus.verify.walk import Link, Outcome, address_text, route_text


class Carried(NamedTuple):
    """Where a packet gets that left a host: to `host` (or a resource) by `link`, or nowhere, with an outcome."""

    host: str | None
    link: Link | None = None
    peer: Peer | None = None
    """The peer it was encrypted for."""
    outcome: Outcome = Outcome.DELIVERED
    reason: str = ""


class Underlay:
    """Carries packets from host to host. `spoofing_dropped` False: private networks let any source pass."""

    def __init__(self, machines: Mapping[str, Machine], inventory: Inventory, spoofing_dropped: bool) -> None:
        self._machines = machines
        self._inventory = inventory
        self._spoofing_dropped = spoofing_dropped
        self._kernels: dict[str, Kernel] = {}
        self._tunnels: dict[tuple[str, str], Carried] = {}
        self._private = {int(host.address): host.name for host in inventory.hosts.values()}
        self._private.update({int(resource.address): resource.name for resource in inventory.resources.values()})
        self._public = {int(host.public): host.name for host in inventory.hosts.values() if host.public is not None}

    def kernel(self, host: str) -> Kernel:
        """Return the kernel of a host; KeyError where its machine is not known."""
        kernel = self._kernels.get(host)
        if kernel is None:
            kernel = self._kernels[host] = Kernel(self._machines[host], self._inventory.hosts[host])
        return kernel

    def leave(self, sender: Kernel, route: Route, source: int, destination: int) -> Carried:
        """Return where a packet gets that leaves a host by a route."""
        if route.device != sender.interface:
            return self._carry(sender, route, source, destination)
        peer = sender.owner(destination)
        if peer is None:
            reason = f"no peer's AllowedIPs hold {address_text(destination)}"
            return Carried(None, outcome=Outcome.NO_PEER, reason=reason)
        key = (sender.name, peer.host)
        carried = self._tunnels.get(key)
        if carried is None:
            carried = self._tunnels[key] = self._send_to_peer(sender, peer)._replace(peer=peer)
        return carried

    def deliver(self, site: str, destination: int) -> Carried:
        """Return whom a site's private network hands a packet to."""
        name = self._private.get(destination)
        if name is None:
            return _lost(Outcome.NOWHERE, f"nobody in {site} has {address_text(destination)}")
        target = self._inventory.hosts.get(name) or self._inventory.resources[name]
        if target.site == site:
            return Carried(name, Link.PRIVATE)
        reason = f"{address_text(destination)} is private to {target.site} and never crosses the internet"
        return _lost(Outcome.NOWHERE, reason)

    def own_tunnel(self, sender: Kernel, peer: Peer) -> str | None:
        """Return in words how a host routes a peer's endpoint into the tunnel it carries; None where it does not.

        Since Linux 5.7 (b673e24aad36) such packets are wrapped again and again until they are too long, without any
        error.
        """
        if peer.endpoint is None:
            return None
        route = sender.route(int(peer.endpoint.address), LOOPBACK)
        if route is None or route.device != sender.interface:
            return None
        return f"endpoint {peer.endpoint} of peer {peer.host} goes into {sender.interface} itself: {route_text(route)}"

    def _carry(self, sender: Kernel, route: Route, source: int, destination: int) -> Carried:
        """Return where a packet gets, plain or WireGuard's own, that leaves by another device than the mesh's."""
        if route.device != sender.nic:
            return _lost(Outcome.OTHER_DEVICE, f"{route.device} leads to neither the mesh nor {sender.site}")
        if self._spoofing_dropped and source != sender.address:
            reason = f"{address_text(source)} is not {sender.name}'s: the private network of {sender.site} drops it"
            return _lost(Outcome.SPOOFED, reason)
        if route.gateway is not None and self._private.get(int(route.gateway)) in self._inventory.hosts:
            return self.deliver(sender.site, int(route.gateway))
        # Any other next hop is the private network's router, which delivers what is on it.
        return self.deliver(sender.site, destination)

    def _send_to_peer(self, sender: Kernel, peer: Peer) -> Carried:
        """Return whether WireGuard's packets from a host reach a peer, and whether they are taken there."""
        if peer.endpoint is None:
            return _lost(Outcome.NO_ENDPOINT, f"peer {peer.host} has no endpoint")
        endpoint = f"endpoint {peer.endpoint} of peer {peer.host}"
        route = sender.route(int(peer.endpoint.address), LOOPBACK)
        if route is None:
            return _lost(Outcome.NO_ROUTE, f"no route to the {endpoint}")
        own_tunnel = self.own_tunnel(sender, peer)
        if own_tunnel is not None:
            return _lost(Outcome.OWN_TUNNEL, own_tunnel)
        carried = self._carry_outer(sender, route, int(peer.endpoint.address))
        if carried.host is None:
            return carried._replace(reason=f"{endpoint}: {carried.reason}")
        if carried.host != peer.host:
            return _lost(Outcome.WRONG_KEY, f"{endpoint} is {carried.host}, whose key is another")
        if carried.host not in self._machines:
            return _lost(Outcome.UNSEEN, f"nothing is known of {carried.host}")
        return self._take_in(sender, self.kernel(carried.host), peer.endpoint.port, carried)

    def _carry_outer(self, sender: Kernel, route: Route, endpoint: int) -> Carried:
        """Return who gets a UDP packet of WireGuard: public addresses are reached by whatever device leads there."""
        name = self._public.get(endpoint)
        if name is None:
            return self._carry(sender, route, sender.address, endpoint)
        if sender.public is None:
            return _lost(Outcome.NOWHERE, f"{sender.name} has no public address and cannot cross the internet")
        return Carried(name, Link.INTERNET)

    def _take_in(self, sender: Kernel, receiver: Kernel, port: int, carried: Carried) -> Carried:
        """Return whether the receiver's kernel, firewall and WireGuard take the sender's UDP packet."""
        listens = receiver.machine.listen_port
        if port != listens:
            return _lost(Outcome.WRONG_PORT, f"it is sent to port {port}, {receiver.name} listens on {listens}")
        crossed = carried.link is Link.INTERNET and sender.public is not None
        seen_as = sender.public if crossed and sender.public is not None else sender.address
        back = receiver.route(seen_as, LOOPBACK)
        if back is not None and back.device == receiver.interface:
            reason = (
                f"{receiver.name} would answer {address_text(seen_as)} through the tunnel itself: {route_text(back)}"
            )
            return _lost(Outcome.OWN_TUNNEL, reason)
        nic = receiver.nic or ""
        if not receiver.accepts_source(seen_as, nic):
            reason = f"{receiver.name}: {receiver.reverse_reason(seen_as, nic, LOOPBACK)}"
            return _lost(Outcome.REVERSE_PATH, reason)
        accepted = receiver.accepted_by(Chain.INPUT, seen_as, receiver.address, nic, None, Flow("udp", port))
        if accepted is None and receiver.machine.input_drops:
            return _lost(Outcome.DENIED, f"no INPUT rule of ours on {receiver.name} accepts udp {port}")
        if sender.name not in receiver.peers:
            return _lost(Outcome.UNKNOWN_SENDER, f"{receiver.name} has no peer {sender.name}")
        return carried._replace(link=carried.link if crossed else Link.TUNNEL)


def _lost(outcome: Outcome, reason: str) -> Carried:
    return Carried(None, outcome=outcome, reason=reason)
