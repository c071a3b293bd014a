"""Follows a packet from host to host until it arrives or stops."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

from isthmus.model import Inventory, Peer
from isthmus.verify.kernel import Decision, Kernel
from isthmus.verify.machine import LOOPBACK, Machine
from isthmus.verify.tables import Flow
from isthmus.verify.underlay import Carried, Underlay
from isthmus.verify.walk import Hop, Outcome, Walk

ANYTHING = Flow()


class Tracer:
    """Answers where packets go among the given machines.

    `machines` may lack hosts of the inventory (unreachable ones): walks end there as UNSEEN. `spoofing_dropped` False
    is a private network that lets any source pass.
    """

    def __init__(self, machines: Mapping[str, Machine], inventory: Inventory, *, spoofing_dropped: bool = True) -> None:
        self.inventory = inventory
        self._machines = machines
        self._underlay = Underlay(machines, inventory, spoofing_dropped)

    def trace(self, source: str, destination: str) -> Walk:
        """Return the walk of a new flow's first packet from a host to another host or to a resource.

        To a host it stands for every protocol and port; to a resource that has a port, for TCP to that port. KeyError
        where the inventory or the machines do not have the name.
        """
        flow = ANYTHING
        host = self.inventory.hosts.get(destination)
        if host is not None:
            address = host.address
        else:
            resource = self.inventory.resources[destination]
            address = resource.address
            if resource.port is not None:
                flow = Flow("tcp", resource.port)
        packet = _Packet(source, destination, 0, int(address), flow)
        return self._follow(packet, self._underlay.kernel(source))

    def probe(self, start: str, goal: str, source: IPv4Address, target: IPv4Address) -> Walk:
        """Return the walk of a packet from one of a host's own addresses to one of another's."""
        packet = _Packet(start, goal, int(source), int(target), ANYTHING)
        return self._follow(packet, self._underlay.kernel(start))

    def answer(self, walk: Walk) -> Walk:
        """Return the walk of the answer to a delivered walk, through the connection tracking of the hosts it passed."""
        packet = _Packet(walk.destination, walk.source, walk.address, walk.seen_as, Flow(established=True))
        for hop in walk.hops:
            if hop.translated is not None:
                packet.restored[hop.host] = (int(hop.translated), hop.source)
        resource = self.inventory.resources.get(walk.destination)
        if resource is None:
            return self._follow(packet, self._underlay.kernel(walk.destination))
        carried = self._underlay.deliver(resource.site, packet.destination)
        packet.hops.append(Hop(resource.name, LOOPBACK, packet.source, link=carried.link))
        kernel = self._arrive(packet, resource.name, carried)
        return kernel if isinstance(kernel, Walk) else self._follow(packet, kernel)

    def kernel(self, host: str) -> Kernel:
        """Return the kernel of a host; KeyError where its machine is not known."""
        return self._underlay.kernel(host)

    def own_tunnel(self, host: str, peer: Peer) -> str | None:
        """Return in words how a host routes a peer's endpoint into the tunnel it carries; None where it does not."""
        return self._underlay.own_tunnel(self._underlay.kernel(host), peer)

    def _follow(self, packet: _Packet, kernel: Kernel) -> Walk:
        while True:
            packet.restore(kernel.name)
            if packet.was_at(kernel.name):
                return packet.ends(kernel.name, Outcome.LOOP, f"it was at {kernel.name} before")
            decision = kernel.decide(packet.arrived, packet.source, packet.destination, packet.flow)
            packet.source = decision.source
            if decision.route is None or decision.outcome is not None:
                return packet.stops(kernel.name, decision)
            sent_as = decision.source if decision.translated is None else int(decision.translated)
            carried = self._underlay.leave(kernel, decision.route, sent_as, packet.destination)
            packet.hops.append(
                Hop(
                    kernel.name,
                    packet.arrived,
                    packet.source,
                    decision.route,
                    decision.accepted,
                    decision.translated,
                    carried.peer,
                    carried.link,
                )
            )
            packet.source = sent_as
            reached = self._arrive(packet, kernel.name, carried)
            if isinstance(reached, Walk):
                return reached
            kernel = reached

    def _arrive(self, packet: _Packet, sender: str, carried: Carried) -> Kernel | Walk:
        """Return the host that takes the packet in, or the walk that is over."""
        if carried.host is None:
            return packet.walk(carried.outcome, carried.reason)
        if carried.host not in self._machines:
            packet.arrived = "its network"
            if carried.host == packet.goal and packet.goal in self.inventory.resources:
                return packet.ends(carried.host, Outcome.DELIVERED)
            return packet.ends(carried.host, Outcome.UNSEEN, f"nothing is known of {carried.host}")
        kernel = self._underlay.kernel(carried.host)
        if carried.peer is None:
            packet.arrived = kernel.nic or "no device"
            return kernel
        packet.arrived = kernel.interface
        owner = kernel.owner(packet.source)
        if owner is None or owner.host != sender:
            return packet.ends(kernel.name, Outcome.SOURCE_REFUSED, kernel.refused_reason(packet.source, sender))
        return kernel


class _Packet:
    """A packet on its way: where it is, and where it has been."""

    __slots__ = ("arrived", "destination", "flow", "goal", "hops", "restored", "source", "start")

    def __init__(self, start: str, goal: str, source: int, destination: int, flow: Flow) -> None:
        self.start = start
        self.goal = goal
        self.source = source
        self.destination = destination
        self.flow = flow
        self.arrived = LOOPBACK
        self.hops: list[Hop] = []
        self.restored: dict[str, tuple[int, int]] = {}
        """What connection tracking undoes: {host: (the address it gave, the address it replaced)}."""

    def restore(self, host: str) -> None:
        """Give back the destination that a host's connection tracking remembers."""
        if host in self.restored and self.restored[host][0] == self.destination:
            self.destination = self.restored[host][1]

    def was_at(self, host: str) -> bool:
        """Return whether it came to a host as it did before; nothing there has changed, so it will go on for ever."""
        here = (host, self.arrived, self.source)
        return any((hop.host, hop.arrived, hop.source) == here for hop in self.hops)

    def stops(self, host: str, decision: Decision) -> Walk:
        """Return the walk that a host's decision ends."""
        self.hops.append(Hop(host, self.arrived, decision.source, decision.route))
        outcome = decision.outcome or Outcome.NO_ROUTE
        if outcome is Outcome.DELIVERED and host != self.goal:
            return self.walk(Outcome.MISDELIVERED, f"{IPv4Address(self.destination)} is an address of {host} itself")
        return self.walk(outcome, decision.reason)

    def ends(self, host: str, outcome: Outcome, reason: str = "") -> Walk:
        """Return the walk that is over as the packet comes to a host."""
        self.hops.append(Hop(host, self.arrived, self.source))
        return self.walk(outcome, reason)

    def walk(self, outcome: Outcome, reason: str = "") -> Walk:
        """Return the walk as far as it came."""
        return Walk(self.start, self.goal, outcome, tuple(self.hops), self.destination, self.source, reason)
