"""How Linux and WireGuard on one host treat a packet. Knows the kernel, and nothing of how Isthmus chooses its values.

Sources, of Linux 6.x: net/core/fib_rules.c and net/ipv4/fib_trie.c (rules, longest prefix, metric), net/ipv4/route.c
`ip_route_input_slow`, net/ipv4/fib_frontend.c `__fib_validate_source` (rp_filter), drivers/net/wireguard/allowedips.c
(cryptokey routing); netfilter's order PREROUTING, routing, FORWARD, POSTROUTING.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import NamedTuple

from isthmus.model import MAIN_TABLE, Chain, FirewallRule, Host, Peer, Route, Target
from isthmus.verify.machine import LOOPBACK, Machine
from isthmus.verify.tables import Flow, LongestPrefix, Match, span
from isthmus.verify.walk import Outcome, address_text, route_text, rule_text

MAIN_PRIORITY = 32766
"""The priority of the kernel's own rule that leads to the main table."""


class Decision(NamedTuple):
    """What a host does with a packet: it leaves by `route`, or it ends here with an outcome."""

    source: int
    """The packet's source as it came in, or as the host's own packet was born."""
    route: Route | None = None
    accepted: FirewallRule | None = None
    """The rule that let it pass."""
    translated: IPv4Address | None = None
    """The source address it leaves with, where that is another (SNAT)."""
    outcome: Outcome | None = None
    reason: str = ""


class Kernel:
    """One machine, ready to be asked about packets."""

    def __init__(self, machine: Machine, host: Host) -> None:
        self.machine = machine
        self.name = host.name
        self.site = host.site
        self.address = int(host.address)
        self.public = None if host.public is None else int(host.public)
        self.interface = machine.interface
        # The way to the site is the device that holds the private address.
        self.nic = next((d for d, a in machine.addresses if a.ip == host.address and d != machine.interface), None)
        self._local = frozenset(int(address.ip) for _, address in machine.addresses)
        self._first_address = {device: int(address.ip) for device, address in reversed(machine.addresses)}

        # A peer listed twice is the last one listed: `wg setconf` replaces what it has.
        self.peers = {peer.host: peer for peer in machine.peers}
        # A prefix belongs to the last peer that claims it.
        last_first = [peer for peer in reversed(machine.peers) if self.peers[peer.host] is peer]
        self._owners = LongestPrefix((*span(network), peer) for peer in last_first for network in peer.allowed_ips)

        tables: dict[int, list[tuple[int, int, Route]]] = {}
        for route in sorted(machine.routes, key=lambda route: route.metric):
            tables.setdefault(route.table, []).append((*span(route.destination), route))
        self._tables = {table: LongestPrefix(routes) for table, routes in tables.items()}
        self._all_tables = [self._tables[table] for table in sorted(self._tables)]
        self._asked: dict[str, tuple[LongestPrefix[Route], ...]] = {}

        rules = [Match(rule) for rule in machine.firewall]
        self._accepting = {
            chain: [m for m in rules if m.rule.chain is chain and m.rule.target is Target.ACCEPT]
            for chain in (Chain.INPUT, Chain.FORWARD)
        }
        self._translating = [m for m in rules if m.rule.chain is Chain.NAT and m.rule.target is Target.SNAT]
        self._conditions = [condition for match in rules for condition in match.addresses()]

    # --- one packet -----------------------------------------------------------------------------------------------

    def decide(self, arrived: str, source: int, destination: int, flow: Flow) -> Decision:
        """Return what becomes of a packet that arrived on a device.

        LOOPBACK is where the host's own packets come from; the host then chooses the source, unless it is bound to one
        of its addresses.
        """
        if destination in self._local:
            if arrived == LOOPBACK or self.accepts_source(source, arrived):
                return Decision(source, outcome=Outcome.DELIVERED)
            return Decision(source, outcome=Outcome.REVERSE_PATH, reason=self.reverse_reason(source, arrived, LOOPBACK))
        if arrived != LOOPBACK and not self.machine.ip_forward:
            return Decision(source, outcome=Outcome.NOT_FORWARDING, reason="net.ipv4.ip_forward is 0")
        route = self.route(destination, arrived)
        if route is None:
            source = source or self.address
            return Decision(source, outcome=Outcome.NO_ROUTE, reason=f"no route to {address_text(destination)}")
        accepted = None
        if arrived == LOOPBACK:
            source = source if source in self._local else self._own_source(route)
        else:
            if not self.accepts_source(source, arrived, route.device):
                reason = self.reverse_reason(source, arrived, route.device)
                return Decision(source, route, outcome=Outcome.REVERSE_PATH, reason=reason)
            accepted = self.accepted_by(Chain.FORWARD, source, destination, arrived, route.device, flow)
            if accepted is None and self.machine.forward_drops:
                reason = self._denied_reason(source, destination, arrived, route.device)
                return Decision(source, route, outcome=Outcome.DENIED, reason=reason)
        return Decision(source, route, accepted, self._translated(source, destination, route.device, flow))

    def owner(self, address: int) -> Peer | None:
        """Return the peer whose AllowedIPs hold the address best: whom it is sent to, whom it is accepted from."""
        return self._owners.get(address)

    def route(self, destination: int, arrived: str) -> Route | None:
        """Return the route for a packet that arrived on a device, LOOPBACK for the host's own.

        Rules by priority, each table's longest prefix, of equal ones the lowest metric, else the first.
        """
        for table in self._asked.get(arrived) or self._tables_for(arrived):
            route = table.get(destination)
            if route is not None:
                return route
        return None

    def accepts_source(self, source: int, arrived: str, leaves: str = LOOPBACK) -> bool:
        """Return whether rp_filter lets a packet in; `leaves` is the device it will leave by, LOOPBACK if it stays.

        The kernel looks up the way back as if the answer came in by `leaves`, so rules on an incoming interface take
        part for what is forwarded. Packets that claim to come from the host itself never pass.
        """
        if source in self._local:
            return False
        if self.machine.rp_filter == 0:
            return True
        back = self.route(source, leaves)
        return back is not None and (self.machine.rp_filter == 2 or back.device == arrived)

    def accepted_by(
        self, chain: Chain, source: int, destination: int, arrived: str, leaves: str | None, flow: Flow
    ) -> FirewallRule | None:
        """Return the rule of ours that accepts a packet, or None. `leaves` is None for what stays on the host."""
        for match in self._accepting[chain]:
            if match.holds(source, destination, arrived, leaves, flow):
                return match.rule
        return None

    def treatment(self, address: int) -> tuple[bool, Peer | None, tuple[Route | None, ...], tuple[bool, ...]]:
        """Return all that the methods above could ever find out about an address.

        Whether it is the host's own, the peer that has it, its route in each table, the firewall conditions it meets.
        """
        routes = tuple([table.get(address) for table in self._all_tables])
        met = tuple([address & mask == network for mask, network in self._conditions])
        return address in self._local, self._owners.get(address), routes, met

    def first_addresses(self) -> tuple[int, ...]:
        """Return the sources of own packets that leave by the mesh interface, and by the NIC, on routes without one."""
        return tuple(self._first_address.get(device or "", self.address) for device in (self.interface, self.nic))

    def _own_source(self, route: Route) -> int:
        """Return the source address of the host's own packet that takes a route: `src`, else the device's first."""
        if route.source is not None:
            return int(route.source)
        return self._first_address.get(route.device, self.address)

    def _translated(self, source: int, destination: int, leaves: str, flow: Flow) -> IPv4Address | None:
        """Return the address that replaces the source as the packet leaves. Only a flow's first packet is asked."""
        if not flow.established:
            for match in self._translating:
                if match.holds(source, destination, None, leaves, flow):
                    return match.rule.to_source
        return None

    def _tables_for(self, arrived: str) -> tuple[LongestPrefix[Route], ...]:
        asked = [(rule.priority, rule.table) for rule in self.machine.rules if rule.iif == arrived]
        asked.append((MAIN_PRIORITY, MAIN_TABLE))
        asked.sort(key=lambda rule: rule[0])
        self._asked[arrived] = tuple(self._tables[table] for _, table in asked if table in self._tables)
        return self._asked[arrived]

    # --- words, made only when something is wrong -----------------------------------------------------------------

    def reverse_reason(self, source: int, arrived: str, leaves: str) -> str:
        """Return why `accepts_source` says no."""
        text = address_text(source)
        if source in self._local:
            return f"{text} is an address of {self.name} itself, it cannot come in by {arrived}"
        back = self.route(source, leaves)
        if back is None:
            return f"rp_filter: no route back to {text}"
        return f"rp_filter: it came in by {arrived}, but the way back to {text} is {route_text(back)}"

    def refused_reason(self, source: int, sender: str) -> str:
        """Return why WireGuard does not take a source from a sender."""
        allowed = ", ".join(map(str, self.peers[sender].allowed_ips)) or "(none)"
        owner = self.owner(source)
        holder = "no peer has it" if owner is None else f"{owner.host} has it"
        return f"AllowedIPs {allowed} of peer {sender} do not hold the source {address_text(source)}: {holder}"

    def _denied_reason(self, source: int, destination: int, arrived: str, leaves: str) -> str:
        rules = "; ".join(rule_text(match.rule) for match in self._accepting[Chain.FORWARD]) or "nothing"
        packet = f"{address_text(source)} to {address_text(destination)} in {arrived} out {leaves}"
        return f"FORWARD accepts {rules}, not {packet}"
