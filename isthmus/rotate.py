"""Gives hosts new keys while packets pass: made on the hosts, staged on all, begun together, undone together.

Every host that gets a key, and every peer of one, is held by a transaction from the first call on: its timer puts the
old key and the old files back unless all hosts are found well, on fresh connections, with nothing left to do. Only then
all are confirmed, and the old keys are gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from isthmus.apply import (
    APPLY_TIMEOUT_S,
    TRIES,
    UNDO_AFTER_S,
    UNDO_GRACE_S,
    busy,
    one_then_the_others,
    owner_of_run,
    require_armed,
    telling,
)
from isthmus.compile import compile_mesh
from isthmus.errors import HostError, IsthmusError
from isthmus.host_scripts import fire_script, hold_script, host_script, renew_script
from isthmus.model import Inventory
from isthmus.moment import moment_of_all
from isthmus.observe import PUBLIC_KEY, Facts
from isthmus.plan import plan_host
from isthmus.preshared import pairs_of, settled
from isthmus.presharing import share
from isthmus.remote import Fleet, Remote
from isthmus.rotation import PRESHARED_ROUNDS, ROUND_S, lines_of, movable, neighbours, rounds_of
from isthmus.survey import (
    PROBE_TIMEOUT_S,
    UNDO_TIMEOUT_S,
    Progress,
    Report,
    Wanted,
    known_keys,
    mesh_plan,
    probe,
    silent,
    wanted_of,
)

CLOCK_S = 1.0
"""A host whose clock is so far off does not take part: its rounds would not be those of the others."""
HEARD_S = 15
"""How long peers may take to hear each other under the new keys: a handshake that was lost is tried again after 5 s."""


def rotate_keys(
    inventory: Inventory, fleet: Fleet, only: Collection[str] | None = None, progress: Progress = silent
) -> Report:
    """Give the hosts of `only` (all by default) new keys; the report's `changed` are those that got one.

    A host that cannot be reached keeps its key, and so do its peers: they are in the failures. Raises IsthmusError
    where something else is to be done first: nothing was touched then.
    """
    for attempt in range(1, TRIES + 1):
        report = mesh_plan(inventory, fleet, None, progress, UNDO_AFTER_S + UNDO_GRACE_S)
        if report.waiting:
            raise IsthmusError(f"not begun: changes are waiting on {', '.join(report.waiting)}: `inv mesh.up` first")
        if _rotated(report, fleet, only, progress) or attempt == TRIES:
            break
        time.sleep(attempt)
    return report


@dataclass(frozen=True)
class _Run:
    """One try: who gets a key, who takes part, and what belongs to it."""

    report: Report
    fleet: Fleet
    progress: Progress
    owner: str
    undo_after: int
    hosts: Sequence[str]
    taking_part: Sequence[str]

    @property
    def inventory(self) -> Inventory:
        return self.report.inventory

    def each(self, step: Callable[[Remote], object], done: str) -> bool:
        """Do a step on all that take part; False when one failed, and then all are undone."""
        results = self.fleet.each(self.taking_part, step, on_done=telling(self.progress, done))
        failed = {name: result for name, result in results.items() if isinstance(result, HostError)}
        if failed:
            self.undo(failed)
        return not failed

    def undo(self, failed: Mapping[str, HostError], told: str = "undone: no host gets a new key") -> None:
        """Put back what every host had; who cannot be reached does so by its timer."""

        def undo(remote: Remote) -> str:
            return remote.run(host_script("undo", owner=self.owner), timeout=UNDO_TIMEOUT_S)

        self.fleet.reconnect(self.taking_part)
        results = self.fleet.each(self.taking_part, undo, on_done=telling(self.progress, told))
        late = f"; has its old key back within {self.undo_after} s"
        for name, error in failed.items():
            text = error.message + (late if isinstance(results[name], HostError) else "")
            self.report.failures[name] = HostError(name, text)


def _rotated(report: Report, fleet: Fleet, only: Collection[str] | None, progress: Progress) -> bool:
    """Rotate, and fill the report's `changed`, facts and failures; False when another run is at it."""
    configs = settled(compile_mesh(report.inventory), report.facts, report.plans)
    chosen = [name for name in report.inventory.hosts if only is None or name in only]
    hosts, kept = movable(configs, chosen, report.plans)
    told = (
        report.failures if only is None else {name: report.failures[name] for name in report.failures if name in only}
    )
    report.failures = {**told, **{name: HostError(name, why) for name, why in kept.items()}}
    part = {*hosts, *(peer for name in hosts for peer in neighbours(configs, name))}
    # Leaves first, as mesh.up has it: of two runs at once one gets the first leaf.
    in_turn = sorted(part, key=lambda name: (report.inventory.is_gateway(name), report.inventory.hosts[name].address))
    rounds = rounds_of(report.inventory, hosts)
    run = _Run(
        report,
        fleet,
        progress,
        owner_of_run(),
        UNDO_AFTER_S + (PRESHARED_ROUNDS + len(rounds)) * ROUND_S,
        hosts,
        in_turn,
    )
    if not hosts:
        return True
    old = known_keys(report.facts)
    held = _hold(run)
    if isinstance(held, bool):
        return held
    pairs = [pair for pair in pairs_of(report.inventory, configs) if {*pair} <= part and {*pair} & {*hosts}]
    if pairs and (failed := share(fleet, report.inventory.mesh.interface, pairs, run.owner)):
        run.undo(failed)
        return True
    new = {**old, **held}
    wanted = wanted_of(configs, new, ())

    def renew(remote: Remote) -> str:
        lines = lines_of(wanted[remote.name].config, rounds, old, new)
        script = renew_script(wanted[remote.name].files, lines, interface=interface, owner=run.owner)
        return remote.run(script, timeout=APPLY_TIMEOUT_S)

    def fire(remote: Remote) -> str:
        script = fire_script(interface=interface, owner=run.owner, moment=moment)
        return remote.run(
            script, timeout=moment - time.time() + (PRESHARED_ROUNDS + len(rounds)) * ROUND_S + APPLY_TIMEOUT_S / 2
        )

    interface = report.inventory.mesh.interface
    if not run.each(renew, "has the new files"):
        return True
    moment = moment_of_all(len(in_turn), time.time())
    if run.each(fire, "has changed keys") and _found_well(run, wanted, new):
        _confirm(run)
    return True


def _hold(run: _Run) -> dict[str, str] | bool:
    """Hold all hosts that take part and return the new public keys by host.

    Else nobody is held any more, and what is returned is whether the failures are for good (True), or another run is
    at work (False).
    """
    interface = run.inventory.mesh.interface
    key = f"/etc/wireguard/{interface}.key"

    def hold(remote: Remote) -> str:
        shared = {f"/etc/wireguard/{interface}.psk/{name}" for name in run.report.facts[remote.name].preshared}
        paths = sorted({*run.report.plans[remote.name].files, *shared, key})
        new_key = remote.name in run.hosts
        script = hold_script(paths, interface=interface, owner=run.owner, undo_after=run.undo_after, new_key=new_key)
        sent = time.time()
        clock, *keys = remote.run(script, timeout=APPLY_TIMEOUT_S).split()
        answered = time.time()
        if not sent - CLOCK_S <= float(clock) <= answered + CLOCK_S:
            wrong = float(clock) - (sent if float(clock) < sent else answered)
            raise HostError(remote.name, f"its clock is {wrong:+.1f} s off: set it first (NTP)")
        if len(keys) != new_key or not all(map(PUBLIC_KEY.fullmatch, keys)):
            raise HostError(remote.name, f"hold: found {' '.join(keys)[-80:]!r}, expected the host's new public key")
        return keys[0] if keys else ""

    held = one_then_the_others(run.fleet, run.taking_part, hold, telling(run.progress, "is held"))
    failed = {name: result for name, result in held.items() if isinstance(result, HostError)}
    if not failed:
        return {name: result for name, result in held.items() if isinstance(result, str) and result}
    run.undo(failed)
    return not any(map(busy, failed.values()))


def _found_well(run: _Run, wanted: Mapping[str, Wanted], keys: Mapping[str, str]) -> bool:
    """Return whether, on fresh connections, no host has anything left to do and all hear whom they heard before."""
    interface, before = run.inventory.mesh.interface, dict(run.report.facts)
    old = known_keys(before)

    def look(remote: Remote) -> None:
        name = remote.name
        heard = {peer for peer, key in old.items() if key in _heard(before[name])}
        deadline = time.monotonic() + HEARD_S
        while True:
            facts = probe(remote, interface)
            require_armed(facts, run.owner, run.undo_after)
            left = plan_host(wanted[name].config, wanted[name].files, keys, facts)
            unheard = sorted(peer for peer in heard if keys[peer] not in _heard(facts))
            if left or not unheard or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        if left:
            what = "; ".join(f"{change.kind.value} {change.name}" for change in left.changes)
            raise HostError(name, f"the change did not take; still differing: {what}")
        if unheard:
            raise HostError(name, f"does not hear {', '.join(unheard)} with the new keys")
        run.report.facts[name] = facts

    run.fleet.reconnect(run.taking_part)
    return run.each(look, "is well with the new keys")


def _heard(facts: Facts) -> set[str]:
    """Return the public keys of the peers that this host has a handshake with."""
    return {peer.public_key for peer in (facts.interface.peers if facts.interface else ()) if peer.latest_handshake}


def _confirm(run: _Run) -> None:
    def confirm(remote: Remote) -> str:
        return remote.run(host_script("confirm", owner=run.owner), timeout=PROBE_TIMEOUT_S)

    results = run.fleet.each(run.taking_part, confirm, on_done=telling(run.progress, "confirmed"))
    for name, result in results.items():
        if isinstance(result, HostError):
            late = f"if it has its old key back within {run.undo_after} s, `inv mesh.up` tells the others"
            text = f"{result.message}; {late}"
            run.report.failures[name] = HostError(name, text)
    run.report.changed = tuple(name for name in run.hosts if name not in run.report.failures)
