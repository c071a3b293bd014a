"""Runs against hosts: observe -> compile -> verify -> plan -> apply -> observe again -> confirm.

Every change on a host is a transaction there: its old state is saved, a timer that puts it back is armed, and only a
fresh connection that finds nothing left to do disarms it. A run that dies at any moment leaves hosts to their timers.
"""

from __future__ import annotations

import getpass
import re
import secrets
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network

from isthmus.compile import compile_mesh
from isthmus.errors import CommandError, HostError, UnreachableError, UnsupportedError
from isthmus.host_scripts import apply_script, host_script
from isthmus.model import LOCAL_TABLE, HostConfig, Inventory, Route
from isthmus.observe import OURS, PUBLIC_KEY, Facts, parse_probe
from isthmus.plan import HostPlan, objections, plan_host
from isthmus.remote import Fleet, Remote
from isthmus.render import File, render_host
from isthmus.verify import machines_of, require

PROBE_TIMEOUT_S = 30
APT_WAIT_S = 300
"""How long a host's package manager may be busy with something else (a cloud image upgrades itself at first boot)."""
PREPARE_TIMEOUT_S = 900
APPLY_TIMEOUT_S = 120
UNDO_AFTER_S = 60
"""Default of the undo timer: longer than applying and reconnecting take on a bad line, short enough to wait for."""
UNDO_GRACE_S = 30
"""What an undo itself may take after its timer has fired."""

_PEER_IN_FILE = rf"^# (\S+)\n\[Peer\]\nPublicKey = ({PUBLIC_KEY.pattern})$"

Progress = Callable[[str, str], None]
"""Called with (host, what has just happened there)."""


def _silent(_host: str, _what: str) -> None:
    pass


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
    fleet: Fleet, inventory: Inventory, hosts: Collection[str], progress: Progress = _silent
) -> dict[str, Facts | HostError]:
    """Probe hosts in parallel, one round trip each."""
    interface = inventory.mesh.interface
    script = host_script("probe", interface=interface)

    def probe(remote: Remote) -> Facts:
        return parse_probe(remote.name, interface, remote.run(script, timeout=PROBE_TIMEOUT_S))

    def done(host: str, result: Facts | HostError) -> None:
        progress(host, str(result.message) if isinstance(result, HostError) else "observed")

    return fleet.each(hosts, probe, on_done=done)


def _settled(
    fleet: Fleet, inventory: Inventory, found: dict[str, Facts | HostError], limit: float, progress: Progress
) -> None:
    """Wait until no host is held by another run's unconfirmed change; those still held after `limit` s are failures.

    A transaction whose timer is gone (the host was rebooted before we armed it again) is undone at once.
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
        fleet.each(held, lambda remote: remote.run(host_script("undo", owner=""), timeout=APPLY_TIMEOUT_S))
        time.sleep(1)
        found.update(observe(fleet, inventory, held))


# --- compile and verify -------------------------------------------------------------------------------------------


def known_keys(facts: Mapping[str, Facts]) -> dict[str, str]:
    """Return the public keys by host: from the host itself, else as the files of its neighbours have it.

    A host that is off keeps its place in the others' files this way; nothing has to be remembered on the workstation.
    """
    keys: dict[str, str] = {}
    for found in facts.values():
        for path, file in found.files.items():
            if path.startswith("/etc/wireguard/") and file.text.startswith(OURS):
                keys.update(re.findall(_PEER_IN_FILE, file.text, re.MULTILINE))
    keys.update({name: found.public_key for name, found in facts.items() if found.public_key})
    return keys


def _check_promises(inventory: Inventory, configs: Mapping[str, HostConfig], facts: Mapping[str, Facts]) -> None:
    """Raise BrokenPromiseError before anything is touched."""
    require(machines_of(configs, inventory), inventory, foreign_of(facts, inventory))


def foreign_of(facts: Mapping[str, Facts], inventory: Inventory) -> dict[str, tuple[IPv4Network, ...]]:
    """Return the networks on each host that another site's subnet would take over: docker0's, a VPN's.

    A network on the link counts when it overlaps such a subnet, one behind a router only when it lies inside it: a
    cloud's wide route (10.0.0.0/8 by the VPC router) is less specific than ours and goes on serving the rest.
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
        found[name] = tuple(sorted(networks))
    return found


def _taken_over(route: Route, subnet: IPv4Network) -> bool:
    if route.gateway is None:
        return route.destination.overlaps(subnet)
    return route.destination.subnet_of(subnet)


def _without_unknown(config: HostConfig, keys: Mapping[str, str]) -> HostConfig:
    return replace(config, peers=tuple(peer for peer in config.peers if peer.host in keys))


@dataclass(frozen=True)
class _Wanted:
    config: HostConfig
    files: Mapping[str, File]


def _wanted(
    configs: Mapping[str, HostConfig], keys: Mapping[str, str], expected: Collection[str]
) -> dict[str, _Wanted]:
    """Render every host; keys of hosts in `expected` are about to be made and have a placeholder until then."""
    known = {**keys, **{name: f"KEY-{name}" for name in expected if name not in keys}}
    wanted = {}
    for name, config in configs.items():
        complete = _without_unknown(config, known)
        wanted[name] = _Wanted(complete, render_host(complete, known))
    return wanted


# --- plan ---------------------------------------------------------------------------------------------------------


def mesh_plan(
    inventory: Inventory,
    fleet: Fleet,
    only: Collection[str] | None = None,
    progress: Progress = _silent,
    wait: float = 0,
) -> Report:
    """Observe all hosts, prove the network, and plan the hosts of `only` (all by default). Changes nothing.

    Raises BrokenPromiseError. Hosts that failed are in the report's failures. Waits `wait` seconds at most for another
    run's unconfirmed change (0: a held host is a note).
    """
    report = Report(inventory)
    configs = compile_mesh(inventory)
    found = observe(fleet, inventory, list(inventory.hosts), progress)
    if wait:
        asked_for = {name: result for name, result in found.items() if only is None or name in only}
        _settled(fleet, inventory, asked_for, wait, progress)
        found.update(asked_for)
    for name, result in found.items():
        if isinstance(result, Facts):
            report.facts[name] = result
        else:
            report.failures[name] = result
    _check_promises(inventory, configs, report.facts)
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
    _plan_hosts(report, configs, chosen)
    return report


def _plan_hosts(report: Report, configs: Mapping[str, HostConfig], chosen: Collection[str]) -> None:
    """Fill the report's plans, and its notes on peers whose keys nobody knows yet."""
    keys = known_keys(report.facts)
    wanted = _wanted(configs, keys, chosen)
    unknown: set[str] = set()
    report.plans = {}
    for name in chosen:
        unknown.update({peer.host for peer in configs[name].peers} - {peer.host for peer in wanted[name].config.peers})
        report.plans[name] = plan_host(wanted[name].config, wanted[name].files, keys, report.facts[name])
    held = {name: facts.transaction for name, facts in report.facts.items() if facts.transaction}
    report.notes = (
        *(f"{name}: held by an unconfirmed run of {owner}, or by its undo timer" for name, owner in held.items()),
        *(
            f"{name}: its public key is not known yet; the others get it with the next mesh.up that reaches {name}"
            for name in sorted(unknown)
        ),
    )


# --- apply --------------------------------------------------------------------------------------------------------


def mesh_up(
    inventory: Inventory,
    fleet: Fleet,
    only: Collection[str] | None = None,
    undo_after: int = UNDO_AFTER_S,
    progress: Progress = _silent,
) -> Report:
    """Bring the hosts of `only` (all by default) to what the inventory says, or leave each as it was.

    The report's plans are what was found to do; `changed` are the hosts where it was done and confirmed. Raises
    BrokenPromiseError before anything is touched.
    """
    report = mesh_plan(inventory, fleet, only, progress, wait=undo_after + UNDO_GRACE_S)
    waiting = report.waiting
    if not waiting:
        return report
    shown = dict(report.plans)
    configs = compile_mesh(inventory)
    prepared = _prepare(report, fleet, inventory, progress)
    _plan_hosts(report, configs, [name for name in shown if name not in report.failures])
    keys = known_keys(report.facts)
    for name in report.waiting:
        gateway = inventory.sites[inventory.hosts[name].site].gateway
        if not inventory.is_gateway(name) and gateway not in keys:
            report.failures[name] = HostError(name, f"not changed: the public key of its gateway {gateway} is unknown")
    todo = [name for name in report.waiting if name not in report.failures]
    _apply_and_confirm(report, fleet, inventory, todo, undo_after, progress)
    report.plans = {name: plan for name, plan in shown.items() if name not in report.failures}
    report.changed = tuple(name for name in report.plans if name in todo or name in prepared)
    return report


def _prepare(report: Report, fleet: Fleet, inventory: Inventory, progress: Progress) -> Collection[str]:
    """Install packages and make keys where they are missing; then those hosts' facts know their public keys.

    Returns the hosts where there was something to prepare.
    """
    todo = [name for name, plan in report.plans.items() if plan.needs_preparation]
    interface = inventory.mesh.interface

    def prepare(remote: Remote) -> str:
        packages = " ".join(report.plans[remote.name].packages)
        script = host_script("prepare", interface=interface, packages=packages, apt_wait=APT_WAIT_S)
        key = remote.run(script, timeout=PREPARE_TIMEOUT_S).strip()
        if not PUBLIC_KEY.fullmatch(key):
            raise HostError(remote.name, f"prepare: found {key[-80:]!r}, expected the host's public key")
        return key

    for name in todo:
        progress(name, "installing " + ", ".join(report.plans[name].packages or ("a key",)))
    results = fleet.each(todo, prepare, on_done=_telling(progress, "prepared"))
    for name, result in results.items():
        if isinstance(result, HostError):
            report.failures[name] = result
        else:
            tools = report.facts[name].tools | {"wg", "wg-quick", "iptables", "iptables-restore", "ping"}
            report.facts[name] = replace(report.facts[name], public_key=result, key_mode=0o600, tools=tools)
    return todo


def _apply_and_confirm(
    report: Report,
    fleet: Fleet,
    inventory: Inventory,
    todo: Collection[str],
    undo_after: int,
    progress: Progress,
) -> None:
    interface = inventory.mesh.interface
    owner = f"{_user()}@{socket.gethostname()} ({secrets.token_hex(4)})"

    def carry_out(remote: Remote) -> str:
        script = apply_script(report.plans[remote.name], interface=interface, owner=owner, undo_after=undo_after)
        return remote.run(script, timeout=APPLY_TIMEOUT_S)

    def confirm(remote: Remote) -> Facts:
        """On a fresh connection: the host must have nothing left to do; else it is undone now, not in a minute."""
        probe = host_script("probe", interface=interface)
        facts = parse_probe(remote.name, interface, remote.run(probe, timeout=PROBE_TIMEOUT_S))
        plan = report.plans[remote.name]
        left = plan_host(wanted[remote.name].config, wanted[remote.name].files, keys, facts)
        if left:
            remote.run(host_script("undo", owner=owner), timeout=APPLY_TIMEOUT_S)
            what = "; ".join(f"{change.kind.value} {change.name}" for change in left.changes)
            raise HostError(plan.host, f"the change did not take, the old state was put back; still differing: {what}")
        remote.run(host_script("confirm", owner=owner), timeout=PROBE_TIMEOUT_S)
        return replace(facts, transaction=None)

    keys = known_keys(report.facts)
    wanted = _wanted(compile_mesh(inventory), keys, ())
    for name in todo:
        changes = _count(len(report.plans[name].changes), "change")
        progress(name, f"applying {changes}; undone in {undo_after} s unless confirmed")
    applied = fleet.each(todo, carry_out, on_done=_telling(progress, "applied"))
    done = [name for name, result in applied.items() if not isinstance(result, HostError)]
    fleet.reconnect(done)
    confirmed = fleet.each(done, confirm, on_done=_telling(progress, "confirmed"))
    for name, result in {**applied, **confirmed}.items():
        if isinstance(result, CommandError) and result.status is None:
            message = f"{result.message}; if the change was begun, it is undone within {undo_after} s"
            report.failures[name] = CommandError(name, message, None)
        elif isinstance(result, UnreachableError) and name in done:
            message = f"not reachable after the change ({result.message}); undoes it within {undo_after} s"
            report.failures[name] = UnreachableError(name, message, result.gateway)
        elif isinstance(result, HostError):
            report.failures[name] = result
        elif isinstance(result, Facts):
            report.facts[name] = result


# --- down ---------------------------------------------------------------------------------------------------------


def mesh_down(
    inventory: Inventory,
    fleet: Fleet,
    only: Collection[str] | None = None,
    forget_keys: bool = False,
    progress: Progress = _silent,
) -> Report:
    """Take everything of ours off the hosts; keys stay unless `forget_keys`. A foreign interface is not touched."""
    report = Report(inventory)
    interface = inventory.mesh.interface
    configs = compile_mesh(inventory)
    chosen = [name for name in inventory.hosts if only is None or name in only]
    script = host_script("leave", interface=interface, forget_keys="yes" if forget_keys else "no")

    def leave(remote: Remote) -> bool:
        probe = host_script("probe", interface=interface)
        facts = parse_probe(remote.name, interface, remote.run(probe, timeout=PROBE_TIMEOUT_S))
        foreign = [text for text in objections(configs[remote.name], facts) if not text.startswith("runs ")]
        if foreign:
            raise HostError(remote.name, "; ".join(foreign))
        ours = bool(facts.files or facts.program_sha256 or (forget_keys and facts.public_key))
        if ours:
            remote.run(script, timeout=APPLY_TIMEOUT_S)
        return ours

    results = fleet.each(chosen, leave, on_done=_telling(progress, "done"))
    report.failures = {name: result for name, result in results.items() if isinstance(result, HostError)}
    report.changed = tuple(name for name, result in results.items() if result is True)
    return report


def _telling(progress: Progress, success: str) -> Callable[[str, object], None]:
    def tell(host: str, result: object) -> None:
        progress(host, result.message if isinstance(result, HostError) else success)

    return tell


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for the uid, as in a container
        return "unknown"


__all__ = ["Report", "known_keys", "mesh_down", "mesh_plan", "mesh_up", "observe"]
