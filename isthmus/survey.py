"""Looks at the hosts, proves the network, and plans: observe -> compile -> verify -> plan. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network

from isthmus.charge import as_found, taken
from isthmus.compile import compile_mesh
from isthmus.errors import HostError, InventoryError, UnsupportedError
from isthmus.host_scripts import host_script
from isthmus.model import LOCAL_TABLE, HostConfig, Inventory, Route
from isthmus.moves import refused_moves
from isthmus.observe import Facts, parse_probe, peers_in_files
from isthmus.plan import Change, HostPlan, Kind, objections, plan_host, preshared_with
from isthmus.preshared import pairs_of, settled, unequal
from isthmus.prove import prove
from isthmus.remote import Fleet, Remote
from isthmus.render import File, render_mesh

PROBE_TIMEOUT_S = 30
UNDO_TIMEOUT_S = 120
"""An undo stops and starts the interface, and may wait for a change that is still running."""

Charge = Callable[[Inventory, Mapping[str, Facts]], Inventory]
"""Says which gateways are in charge: the inventory with those, given what was found on the hosts."""
Progress = Callable[[str, str], None]
"""Called with (host, what has just happened there)."""


def silent(_host: str, _what: str) -> None:
    """Tell nobody."""


@dataclass
class Report:
    """What a run found and did, by host. `failures` and the other mappings never name the same host twice."""

    inventory: Inventory
    facts: dict[str, Facts] = field(default_factory=dict)
    plans: dict[str, HostPlan] = field(default_factory=dict)
    failures: dict[str, HostError] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What the user should know though nothing failed, such as a peer whose key is not known yet."""

    @property
    def waiting(self) -> tuple[str, ...]:
        """The hosts with changes still to be made."""
        return tuple(name for name, plan in self.plans.items() if plan)


# --- observe ------------------------------------------------------------------------------------------------------


def observe(
    fleet: Fleet, inventory: Inventory, hosts: Collection[str], progress: Progress = silent
) -> dict[str, Facts | HostError]:
    """Probe hosts in parallel, one round trip each."""

    def look(remote: Remote) -> Facts:
        return probe(remote, inventory.mesh.interface)

    def done(host: str, result: Facts | HostError) -> None:
        progress(host, str(result.message) if isinstance(result, HostError) else "observed")

    return fleet.each(hosts, look, on_done=done)


def probe(remote: Remote, interface: str) -> Facts:
    """Ask one host, in one round trip."""
    answer = remote.run(host_script("probe", interface=interface), timeout=PROBE_TIMEOUT_S)
    return parse_probe(remote.name, interface, answer)


def _settle(
    fleet: Fleet, inventory: Inventory, found: dict[str, Facts | HostError], limit: float, progress: Progress
) -> None:
    """Wait until no host is held by another run's unconfirmed change; those still held after `limit` s are failures.

    A transaction whose timer is gone (the host was rebooted before we armed it again) is undone at once. What was seen
    before the other run ended says little of any host: all are looked at again.
    """
    deadline = time.monotonic() + limit
    told: set[str] = set()
    while held := [name for name, facts in found.items() if isinstance(facts, Facts) and facts.transaction]:
        for name in set(held) - told:
            facts = found[name]
            assert isinstance(facts, Facts)
            progress(name, f"held by an unconfirmed run of {facts.transaction}; waiting for it, or for its undo timer")
        told.update(held)
        if time.monotonic() > deadline:
            for name in held:
                facts = found[name]
                assert isinstance(facts, Facts)
                found[name] = HostError(name, f"still held by an unconfirmed run of {facts.transaction}")
            return
        fleet.each(held, lambda remote: remote.run(host_script("undo", owner=""), timeout=UNDO_TIMEOUT_S))
        time.sleep(1)
        again = observe(fleet, inventory, held)
        found.update(again)
        if not any(isinstance(facts, Facts) and facts.transaction for facts in again.values()):
            found.update(observe(fleet, inventory, list(found)))


# --- compile and verify -------------------------------------------------------------------------------------------


def known_keys(facts: Mapping[str, Facts]) -> dict[str, str]:
    """Return the public keys by host: from the host itself, else as the files of its neighbours have it.

    A host that is off keeps its place in the others' files this way; nothing has to be remembered on the workstation.
    """
    keys: dict[str, str] = {}
    for found in facts.values():
        keys.update(peers_in_files(found))
    keys.update({name: found.public_key for name, found in facts.items() if found.public_key})
    return keys


def foreign_of(facts: Mapping[str, Facts], inventory: Inventory) -> dict[str, tuple[IPv4Network, ...]]:
    """Return the networks on each host that another site's subnet would take over: docker0's, a VPN's.

    A network on the link counts when it overlaps such a subnet, one behind a router only when it lies inside it: a
    cloud's wide route (10.0.0.0/8 by the VPC router) is less specific than ours and goes on serving the rest. So does
    one that leads nowhere (blackhole) or by several next hops.
    """
    found: dict[str, tuple[IPv4Network, ...]] = {}
    for name, host_facts in facts.items():
        here = inventory.hosts[name].site
        others = [site.subnet for site in inventory.sites.values() if site.name != here]
        own = inventory.sites[here].subnet
        networks = {
            route.destination
            for route in host_facts.routes
            if route.device != inventory.mesh.interface and route.table != LOCAL_TABLE
            if route.destination.prefixlen and not route.destination.overlaps(own)
            if any(_taken_over(route, subnet) for subnet in others)
        }
        networks |= {net for net in host_facts.pathless if any(net.subnet_of(subnet) for subnet in others)}
        found[name] = tuple(sorted(networks))
    return found


def _taken_over(route: Route, subnet: IPv4Network) -> bool:
    if route.gateway is None:
        return route.destination.overlaps(subnet)
    return route.destination.subnet_of(subnet)


def _without_unknown(config: HostConfig, keys: Mapping[str, str]) -> HostConfig:
    if all(peer.host in keys for peer in config.peers):
        return config  # the very same: what hosts of a site share is rendered once
    return replace(
        config,
        peers=tuple(peer for peer in config.peers if peer.host in keys),
        follows=tuple(follow for follow in config.follows if {follow.first, follow.second} <= keys.keys()),
    )


@dataclass(frozen=True)
class Wanted:
    """What one host should be, and the files that make it so."""

    config: HostConfig
    files: Mapping[str, File]


def wanted_of(
    configs: Mapping[str, HostConfig], keys: Mapping[str, str], expected: Collection[str]
) -> dict[str, Wanted]:
    """Render every host; keys of hosts in `expected` are about to be made and have a placeholder until then."""
    known = {**keys, **{name: f"KEY-{name}" for name in expected if name not in keys}}
    complete = {name: _without_unknown(config, known) for name, config in configs.items()}
    files = render_mesh(complete, known)
    return {name: Wanted(config, files[name]) for name, config in complete.items()}


# --- plan ---------------------------------------------------------------------------------------------------------


def mesh_plan(
    inventory: Inventory,
    fleet: Fleet,
    only: Collection[str] | None = None,
    progress: Progress = silent,
    wait: float = 0,
    charge: Charge = as_found,
) -> Report:
    """Observe all hosts, prove the network, and plan the hosts of `only` (all by default). Changes nothing.

    What is planned for, and so the report's inventory, is the one given as `charge` changes it.

    Raises BrokenPromiseError, and InventoryError for what takes two steps. Hosts that failed are in the report's
    failures. Waits `wait` seconds at most for another run's unconfirmed change (0: a held host is a note).
    """
    report = Report(inventory)
    # While the hosts answer, whatever does not need their answers: this is most of what a run with nothing to do costs.
    fleet.connect(inventory.hosts)
    configs = compile_mesh(inventory)
    render_mesh(configs, {}, placeholders=True)  # compiles the templates
    found = observe(fleet, inventory, list(inventory.hosts), progress)
    if wait:
        asked_for = {name: result for name, result in found.items() if only is None or name in only}
        _settle(fleet, inventory, asked_for, wait, progress)
        found.update(asked_for)
    for name, result in found.items():
        if isinstance(result, Facts):
            report.facts[name] = result
        else:
            report.failures[name] = result
    if refused := refused_moves(inventory, report.facts):
        raise InventoryError(inventory.source, refused)
    report.inventory = charge(inventory, report.facts)
    if report.inventory != inventory:
        inventory = report.inventory
        configs = compile_mesh(inventory)
    prove(inventory, configs, foreign_of(report.facts, inventory))
    for name, facts in list(report.facts.items()):
        against = objections(configs[name], facts)
        if against:
            kind = UnsupportedError if against[0].startswith("runs ") else HostError
            report.failures[name] = kind(name, "; ".join(against))
            # Perhaps another machine's: its key must not go into the others' files under this name.
            del report.facts[name]
    if only is not None:
        report.failures = {name: error for name, error in report.failures.items() if name in only}
    chosen = [name for name in report.facts if name not in report.failures and (only is None or name in only)]
    plan_hosts(report, configs, chosen)
    return report


def plan_hosts(report: Report, configs: Mapping[str, HostConfig], chosen: Collection[str]) -> None:
    """Fill the report's plans, and its notes on peers whose keys nobody knows yet."""
    keys = known_keys(report.facts)
    configs = settled(configs, report.facts, chosen)
    wanted = wanted_of(configs, keys, chosen)
    unknown: set[str] = set()
    report.plans = {}
    for name in chosen:
        unknown.update({peer.host for peer in configs[name].peers} - {peer.host for peer in wanted[name].config.peers})
        report.plans[name] = plan_host(wanted[name].config, wanted[name].files, keys, report.facts[name])
    for maker, taker in pairs_of(report.inventory, configs):
        if taker in report.plans and maker in report.facts[taker].preshared and unequal((maker, taker), report.facts):
            other = Change(Kind.KEY, preshared_with(maker), (f"not {maker}'s",), (f"{maker}'s",))
            plan = report.plans[taker]
            report.plans[taker] = replace(plan, changes=(*plan.changes, other))
    held = {name: facts.transaction for name, facts in report.facts.items() if facts.transaction}
    sites = report.inventory.sites.values()
    report.notes = (
        *(f"{site.drained} is drained: {site.gateway} is in charge of {site.name}" for site in sites if site.drained),
        *(
            f"{one.gateway} is in charge of {site}: {one.why}"
            for site, one in taken(report.inventory, report.facts).items()
        ),
        *(f"{name}: held by an unconfirmed run of {owner}, or by its undo timer" for name, owner in held.items()),
        *(
            f"{name}: its public key is not known yet; the others get it with the next mesh.up that reaches {name}"
            for name in sorted(unknown)
        ),
    )
