"""Changes hosts so that nobody is locked out: plan -> apply -> observe again -> confirm.

Every change on a host is a transaction there: its old state is saved, a timer that puts it back is armed, and only a
fresh connection that finds nothing left to do disarms it. A run that dies at any moment leaves hosts to their timers.

Of two runs at once one works and the other waits: each begins with one host alone, the first leaf by address, and the
transaction there keeps the other out. Whoever meets another's transaction later undoes its own, waits, and plans anew.
"""

from __future__ import annotations

import getpass
import random
import secrets
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from isthmus.charge import as_found
from isthmus.compile import compile_mesh
from isthmus.errors import CommandError, HostError, UnreachableError
from isthmus.host_scripts import apply_script, host_script
from isthmus.model import Inventory
from isthmus.moment import moment_for
from isthmus.observe import PUBLIC_KEY, Facts
from isthmus.plan import PACKAGES, objections, plan_host
from isthmus.preshared import settled
from isthmus.presharing import share_missing
from isthmus.remote import Fleet, Remote
from isthmus.render import PROGRAM
from isthmus.survey import (
    PROBE_TIMEOUT_S,
    UNDO_TIMEOUT_S,
    Charge,
    Progress,
    Report,
    known_keys,
    mesh_plan,
    plan_hosts,
    probe,
    silent,
    wanted_of,
)

APT_WAIT_S = 300
"""How long a host's package manager may be busy with something else (a cloud image upgrades itself at first boot)."""
PREPARE_TIMEOUT_S = 900
APPLY_TIMEOUT_S = 180
CONFIRM_S = 20
"""What is kept of the time until the undo for confirming: a host that hangs must not make the others run out of it."""
UNDO_AFTER_S = 120
"""Default of the undo timer: longer than applying and reconnecting take on a bad line, short enough to wait for."""
UNDO_GRACE_S = 30
"""What an undo itself may take after its timer has fired."""
BUSY = 75
"""How apply.sh ends where another run holds the host."""
LOOK_AGAIN_S = 1
"""Until a host is looked at again that is half taken off: removing the other half takes milliseconds."""
TRIES = 5
"""So often a run begins anew because another was at work; each time it has waited for that one."""


def mesh_up(
    inventory: Inventory,
    fleet: Fleet,
    only: Collection[str] | None = None,
    undo_after: int = UNDO_AFTER_S,
    progress: Progress = silent,
    charge: Charge = as_found,
) -> Report:
    """Bring the hosts of `only` (all by default) to what the inventory says, or leave each as it was.

    `charge` as mesh_plan has it.

    The report's plans are what was found to do; `changed` are the hosts where it was done and confirmed. Raises
    BrokenPromiseError before anything is touched.
    """
    for attempt in range(1, TRIES + 1):
        report = mesh_plan(inventory, fleet, only, progress, undo_after + UNDO_GRACE_S, charge)
        if not report.waiting or _change(report, fleet, undo_after, progress, last=attempt == TRIES):
            break
        time.sleep(random.random())  # not in step with the other run
    return report


def _change(report: Report, fleet: Fleet, undo_after: int, progress: Progress, *, last: bool) -> bool:
    """Carry out the report's plans; False when another run is at it and nothing is left of ours (never if `last`)."""
    inventory = report.inventory
    shown = dict(report.plans)
    configs = compile_mesh(inventory)
    prepared = {*_prepare(report, fleet, inventory, progress)}
    prepared.update(share_missing(report, fleet, configs, progress))
    plan_hosts(report, configs, [name for name in shown if name not in report.failures])
    keys = known_keys(report.facts)
    for name in report.waiting:
        gateway = inventory.sites[inventory.hosts[name].site].gateway
        if not inventory.is_gateway(name) and gateway not in keys:
            report.failures[name] = HostError(name, f"not changed: the public key of its gateway {gateway} is unknown")
    todo = [name for name in report.waiting if name not in report.failures]
    if not _apply_and_confirm(report, fleet, inventory, todo, undo_after, progress) and not last:
        return False
    report.plans = {name: plan for name, plan in shown.items() if name not in report.failures}
    report.changed = tuple(name for name in report.plans if name in todo or name in prepared)
    return True


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
    results = fleet.each(todo, prepare, on_done=telling(progress, "prepared"))
    for name, result in results.items():
        if isinstance(result, HostError):
            report.failures[name] = result
        else:
            tools = report.facts[name].tools | set(PACKAGES)
            report.facts[name] = replace(report.facts[name], public_key=result, key_mode=0o600, tools=tools)
    return todo


def _apply_and_confirm(
    report: Report,
    fleet: Fleet,
    inventory: Inventory,
    todo: Collection[str],
    undo_after: int,
    progress: Progress,
) -> bool:
    """Change the hosts of `todo` and fill the report's facts and failures; False when another run is at it."""
    interface = inventory.mesh.interface
    owner = owner_of_run()

    def carry_out(remote: Remote) -> str:
        script = apply_script(
            report.plans[remote.name], interface=interface, owner=owner, undo_after=undo_after, moment=moment
        )
        now = time.monotonic()
        longest = min(APPLY_TIMEOUT_S, max(undo_after / 2, undo_after - CONFIRM_S))
        answer = remote.run(script, timeout=max(longest - (now - begun[0] if begun else 0), 1))
        begun.append(now)
        return answer

    def undo(remote: Remote) -> str:
        return remote.run(host_script("undo", owner=owner), timeout=UNDO_TIMEOUT_S)

    def confirm(remote: Remote) -> Facts:
        """On a fresh connection: the host must have nothing left to do; else it is undone now, not in a minute."""
        facts = probe(remote, interface)
        left = plan_host(wanted[remote.name].config, wanted[remote.name].files, keys, facts)
        what = "; ".join(f"{change.kind.value} {change.name}" for change in left.changes)
        if remote.name not in done:
            if left:  # another run began after we had looked at this host, and ended before we met it elsewhere
                raise HostError(left.host, f"was changed by somebody else during this run; run mesh.up again: {what}")
            return facts
        require_armed(facts, owner, undo_after)
        if left:
            undo(remote)
            raise HostError(left.host, f"the change did not take, the old state was put back; still differing: {what}")
        remote.run(host_script("confirm", owner=owner), timeout=PROBE_TIMEOUT_S)
        return replace(facts, transaction=None)

    keys = known_keys(report.facts)
    wanted = wanted_of(settled(compile_mesh(inventory), report.facts, report.plans), keys, ())
    begun: list[float] = []  # the first is when the oldest of our undo timers was armed
    for name in todo:
        changes = _count(len(report.plans[name].changes), "change")
        progress(name, f"applying {changes}; undone in {undo_after} s unless confirmed")
    # Leaves first: when the change cuts a gateway off, the hosts behind it could not be begun with.
    in_turn = sorted(todo, key=lambda name: (inventory.is_gateway(name), inventory.hosts[name].address))
    moment = moment_for([report.plans[name] for name in todo], undo_after, time.time())
    begin = one_then_the_others if moment == 0 else _all_at_once
    applied = begin(fleet, in_turn, carry_out, telling(progress, "applied"))
    done = [name for name in todo if name in applied and not isinstance(applied[name], HostError)]
    if any(map(busy, applied.values())):
        fleet.each(done, undo, on_done=telling(progress, "undone, since another run is at work"))
        report.failures.update({name: HostError(name, "not changed: another run is at work") for name in todo})
        report.failures.update({name: result for name, result in applied.items() if isinstance(result, HostError)})
        return False
    done = _without_one_end(report, fleet, done, undo)
    fleet.reconnect(done)
    unchanged = [name for name in report.plans if name not in applied and name not in report.failures]
    confirmed = fleet.each(
        [*done, *unchanged],
        confirm,
        on_done=lambda name, result: telling(progress, "confirmed" if name in done else "unchanged")(name, result),
    )
    _note_results(report, {**applied, **confirmed}, done, undo_after, unchanged)
    return True


def _without_one_end(report: Report, fleet: Fleet, done: Sequence[str], undo: Callable[[Remote], str]) -> list[str]:
    """Undo hosts whose preshared key with another changed while that one failed; return the others."""
    left = {
        name: other
        for name in done
        for other in report.plans[name].shares
        if other in report.plans and report.plans[other].shares and other not in done
    }
    fleet.each(left, undo)
    for name, other in left.items():
        report.failures[name] = HostError(name, f"undone, since {other} did not get the preshared key of the two")
    return [name for name in done if name not in left]


def _note_results(
    report: Report,
    results: Mapping[str, str | Facts | HostError],
    done: Collection[str],
    undo_after: int,
    unchanged: Collection[str],
) -> None:
    """Fill the report's facts and failures; the hosts of `done` were changed before what happened to them."""
    for name, result in results.items():
        if isinstance(result, CommandError) and result.status is None and name not in unchanged:
            message = f"{result.message}; if the change was begun, it is undone within {undo_after} s"
            report.failures[name] = CommandError(name, message, None)
        elif isinstance(result, UnreachableError) and name in done:
            message = f"not reachable after the change ({result.message}); undoes it within {undo_after} s"
            report.failures[name] = UnreachableError(name, message, result.gateway)
        elif isinstance(result, HostError):
            report.failures[name] = result
        elif isinstance(result, Facts):
            report.facts[name] = result


def one_then_the_others(
    fleet: Fleet, hosts: Sequence[str], carry_out: Callable[[Remote], str], on_done: Callable[[str, object], None]
) -> dict[str, str | HostError]:
    """Begin on one host after the other until one has taken it, then on all others; stop where another run is met."""
    applied: dict[str, str | HostError] = {}
    for name in hosts:
        applied.update(fleet.each([name], carry_out, on_done))
        if busy(applied[name]):
            return applied
        if not isinstance(applied[name], HostError):
            break
    applied.update(fleet.each([name for name in hosts if name not in applied], carry_out, on_done))
    return applied


def _all_at_once(
    fleet: Fleet, hosts: Sequence[str], carry_out: Callable[[Remote], str], on_done: Callable[[str, object], None]
) -> dict[str, str | HostError]:
    """Apply on all hosts: where they wait for one moment, none may begin after it.

    Of two runs that do so neither may get all hosts; both meet the other, take theirs back and begin anew.
    """
    return fleet.each(hosts, carry_out, on_done)


def busy(result: object) -> bool:
    """Return whether what came of a host is that another run holds it."""
    return isinstance(result, CommandError) and result.status == BUSY


def require_armed(facts: Facts, owner: str, undo_after: int) -> None:
    """Raise HostError when our transaction is no longer there: its timer was faster than we are."""
    if facts.transaction != owner:
        text = f"the change was undone before it was confirmed: more than {undo_after} s passed; see --undo-after"
        raise HostError(facts.host, text)


# --- down ---------------------------------------------------------------------------------------------------------


def mesh_down(
    inventory: Inventory,
    fleet: Fleet,
    only: Collection[str] | None = None,
    forget_keys: bool = False,
    progress: Progress = silent,
) -> Report:
    """Take everything of ours off the hosts; keys stay unless `forget_keys`. A foreign interface is not touched."""
    report = Report(inventory)
    interface = inventory.mesh.interface
    configs = compile_mesh(inventory)
    chosen = [name for name in inventory.hosts if only is None or name in only]
    script = host_script("leave", interface=interface, forget_keys="yes" if forget_keys else "no")

    def leave(remote: Remote) -> bool:
        facts = probe(remote, interface)
        if facts.files and facts.program_sha256 is None:
            # A run that was killed may be at it on the host: it removes one file after the other.
            time.sleep(LOOK_AGAIN_S)
            facts = probe(remote, interface)
        foreign = [text for text in objections(configs[remote.name], facts) if not text.startswith("runs ")]
        if foreign:
            raise HostError(remote.name, "; ".join(foreign))
        ours = bool(facts.files or facts.program_sha256 or (forget_keys and facts.public_key))
        if facts.files and facts.program_sha256 is None:
            raise HostError(
                remote.name, f"{PROGRAM} is missing and nothing else can take the mesh off: run mesh.up first"
            )
        if ours:
            remote.run(script, timeout=APPLY_TIMEOUT_S)
        return ours

    results = fleet.each(chosen, leave, on_done=telling(progress, "done"))
    report.failures = {name: result for name, result in results.items() if isinstance(result, HostError)}
    report.changed = tuple(name for name, result in results.items() if result is True)
    return report


def telling(progress: Progress, success: str) -> Callable[[str, object], None]:
    """Return what Fleet.each is to call as hosts finish: it tells the progress of success, or of what failed."""

    def tell(host: str, result: object) -> None:
        progress(host, result.message if isinstance(result, HostError) else success)

    return tell


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def owner_of_run() -> str:
    """Return how a run signs its transactions: who, where, and a number that no other run has."""
    return f"{_user()}@{socket.gethostname()} ({secrets.token_hex(4)})"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for the uid, as in a container
        return "unknown"
