"""`inv mesh.…`: the mesh on the hosts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Collection, Exit, task

from isthmus.commands.shared import (
    DEBUG,
    FAILED,
    FILE,
    INTERRUPTED,
    JSON,
    OK,
    ONLY,
    WAITING,
    chosen_hosts,
    command,
    console,
    number,
    open_fleet,
    print_json,
    read_inventory,
    say_failures,
)
from isthmus.errors import UsageError
from isthmus.inventory import load_inventory

if TYPE_CHECKING:
    from isthmus.model import Inventory
    from isthmus.remote import Fleet


@task(help={**FILE, "out": "the folder to write to (default: rendered)"})
@command
def render(c: Any, out: str = "rendered", file: str | None = None) -> int:
    """Write every file of every host below a folder, without touching any host."""
    from isthmus.export import export

    inventory = read_inventory(file)
    if not out:
        raise UsageError("--out: found nothing, expected the path of a folder")
    count = export(inventory, Path(out))
    print(f"{count} files of {len(inventory.hosts)} hosts in {out}")
    return OK


@task(help={**FILE, **ONLY, **JSON, **DEBUG})
@command
def plan(c: Any, file: str | None = None, only: str | None = None, json: bool = False, debug: bool = False) -> int:
    """Show what mesh.up would change, host by host, as a diff; exit 4 if anything, 0 if nothing."""
    from isthmus.progress import shown_progress
    from isthmus.report import coloured_diff, plan_json, plan_text
    from isthmus.survey import mesh_plan

    inventory = read_inventory(file)
    with (
        open_fleet(c, inventory, debug) as fleet,
        shown_progress("observing", plain=False, hosts=len(inventory.hosts)) as progress,
    ):
        report = mesh_plan(inventory, fleet, chosen_hosts(inventory, only), progress)
    if json:
        print_json(plan_json(report))
    elif sys.stdout.isatty():
        console().print(coloured_diff(plan_text(report.plans)), soft_wrap=True)
    else:
        print(plan_text(report.plans))
    say_failures(report.failures, report.notes)
    return FAILED if report.failures else WAITING if report.waiting else OK


@task(
    help={
        **FILE,
        **ONLY,
        **JSON,
        **DEBUG,
        "undo-after": "seconds after which a host undoes a change that was not confirmed (default 120)",
        "prune": "an older hosts.toml: take everything of ours off its hosts that have left since",
    }
)
@command
def up(
    c: Any,
    file: str | None = None,
    only: str | None = None,
    json: bool = False,
    debug: bool = False,
    undo_after: str = "120",
    prune: str | None = None,
) -> int:
    """Bring every host to what the inventory says: install, make keys, verify, apply, start, check."""
    inventory = read_inventory(file)
    chosen = chosen_hosts(inventory, only)
    old = None if prune is None else _old_inventory(prune, only)
    undo_after_s = number("undo-after", undo_after, 5, 3600, " seconds")
    with open_fleet(c, inventory, debug) as fleet:
        fleet.connect(inventory.hosts)  # meanwhile the modules below are imported: a third of what is left
        from isthmus.apply import mesh_up
        from isthmus.progress import shown_progress

        with shown_progress("mesh.up", plain=not json) as progress, _undone_when_interrupted():
            report = mesh_up(inventory, fleet, chosen, undo_after_s, progress)
        broken = _check_after(fleet, report) if report.changed else ()
    left = _prune(c, old, report, debug, plain=not json) if old and not broken else None
    if json:
        from isthmus.report import plan_json, prune_json

        values = {**plan_json(report), "broken": [[pair.source, pair.destination] for pair in broken]}
        print_json({**values, "left": prune_json(left)} if left else values)
    else:
        _say_done(report, broken)
    say_failures(report.failures, report.notes)
    failed = bool(report.failures or broken)
    if old and broken:
        print("who has left is not cleaned: first every pair must reach each other", file=sys.stderr)
    if left:
        if not json:
            _say_left(left)
        failed = failed or bool(left.failures)
    return FAILED if failed else OK


def _old_inventory(path: str, only: str | None) -> Inventory:
    if not path:
        raise UsageError("--prune: found nothing, expected the path of an older inventory")
    if only is not None:
        raise UsageError("--prune: found --only too, expected one of them: who stays must know before who leaves")
    return load_inventory(path)


def _prune(c: Any, old: Inventory, report: Any, debug: bool, *, plain: bool) -> Any:
    """Clean the hosts of the older inventory that have left."""
    from isthmus.progress import shown_progress
    from isthmus.prune import prune

    with (
        open_fleet(c, old, debug, project=report.inventory.source) as fleet,
        shown_progress("pruning", plain=plain) as progress,
    ):
        return prune(old, fleet, report, progress)


def _say_left(left: Any) -> None:
    from isthmus.report import prune_text

    if text := prune_text(left):
        print(text)
    say_failures(left.failures)


@contextmanager
def _undone_when_interrupted() -> Iterator[None]:
    """Say on Ctrl-C what becomes of hosts that are being changed: only here are there undo timers."""
    try:
        yield
    except KeyboardInterrupt:
        rest = "a host that was being changed puts its old network back by itself"
        raise Exit(f"interrupted; {rest}", INTERRUPTED) from None


def _say_done(report: Any, broken: tuple[Any, ...]) -> None:
    for name in report.plans:
        if name not in report.failures:
            changes = len(report.plans[name].changes)
            print(f"{name}: {f'{changes} changed' if name in report.changed else 'nothing to do'}")
    for pair in broken:
        print(f"{pair.source} does not reach {pair.destination}", file=sys.stderr)
    if not report.failures and not broken:
        done = "the mesh is up and every pair reaches each other" if report.changed else "nothing to do"
        print(f"{len(report.plans)} hosts: {done}")


def _check_after(fleet: Fleet, report: Any) -> tuple[Any, ...]:
    """Ping from the hosts that were to be brought up to all that are up; the pairs that are broken.

    A dead host is a failure already, not as many broken pairs, and with --only the others may have no mesh yet. Where
    something is broken all is asked once more: a handshake is tried again after 5 s, and may be lost twice.
    """
    from isthmus.check import ping

    inventory = report.inventory
    chosen = [name for name in report.plans if name not in report.failures]
    up = {name for name, facts in report.facts.items() if name in chosen or facts.interface}
    up -= report.failures.keys()
    up |= {name for name, resource in inventory.resources.items() if inventory.sites[resource.site].gateway in up}
    found = ping(fleet, inventory, chosen, count=1)
    if any(pair.destination in up for pair in found.broken):
        found = ping(fleet, inventory, chosen, count=1)
    report.failures.update(found.failures)
    return tuple(pair for pair in found.broken if pair.destination in up)


@task(help={**FILE, **ONLY, **JSON, **DEBUG})
@command
def status(c: Any, file: str | None = None, only: str | None = None, json: bool = False, debug: bool = False) -> int:
    """Show what runs on each host: interface, peers, handshakes, bytes, and drift from the plan."""
    from isthmus.progress import shown_progress
    from isthmus.report import charges_text, status_json, status_table
    from isthmus.survey import known_keys, mesh_plan

    inventory = read_inventory(file)
    with (
        open_fleet(c, inventory, debug) as fleet,
        shown_progress("observing", plain=False, hosts=len(inventory.hosts)) as progress,
    ):
        report = mesh_plan(inventory, fleet, chosen_hosts(inventory, only), progress)
    names = {key: host for host, key in known_keys(report.facts).items()}
    if json:
        print_json(status_json(report, names))
    else:
        console().print(status_table(report, names))
        if text := charges_text(report):
            print(text)
    say_failures(report.failures, report.notes)
    return FAILED if report.failures or report.waiting else OK


@task(help={**FILE, **ONLY, **JSON, **DEBUG, "forget-keys": "delete the hosts' private keys too"})
@command
def down(
    c: Any,
    file: str | None = None,
    only: str | None = None,
    json: bool = False,
    debug: bool = False,
    forget_keys: bool = False,
) -> int:
    """Take everything of ours off the hosts; keys are kept unless --forget-keys."""
    from isthmus.apply import mesh_down
    from isthmus.progress import shown_progress
    from isthmus.report import plan_json

    inventory = read_inventory(file)
    with open_fleet(c, inventory, debug) as fleet, shown_progress("mesh.down", plain=not json) as progress:
        report = mesh_down(inventory, fleet, chosen_hosts(inventory, only), forget_keys, progress)
    if json:
        print_json(plan_json(report))
    else:
        print(f"taken off: {', '.join(report.changed) or 'nothing, nothing of ours was there'}")
    say_failures(report.failures)
    return FAILED if report.failures else OK


GATEWAY = {"gateway": "one of the two gateways of a site"}


@task(positional=["gateway"], help={**GATEWAY, **FILE, **JSON, **DEBUG})
@command
def drain(c: Any, gateway: str, file: str | None = None, json: bool = False, debug: bool = False) -> int:
    """Put the other gateway of a site in charge, for maintenance of this one, until mesh.undrain."""
    return _move_charge(c, "drain", gateway, file, debug, json=json)


@task(positional=["gateway"], help={**GATEWAY, **FILE, **JSON, **DEBUG})
@command
def undrain(c: Any, gateway: str, file: str | None = None, json: bool = False, debug: bool = False) -> int:
    """Let hosts.toml say again who is in charge of a site whose gateway was drained, or had failed."""
    return _move_charge(c, "undrain", gateway, file, debug, json=json)


def _move_charge(c: Any, verb: str, gateway: str, file: str | None, debug: bool, *, json: bool) -> int:
    from isthmus import drain as moves
    from isthmus.progress import shown_progress
    from isthmus.report import plan_json

    inventory = read_inventory(file)
    move = {"drain": moves.drain, "undrain": moves.undrain}[verb]
    with open_fleet(c, inventory, debug) as fleet:
        with shown_progress(f"mesh.{verb}", plain=not json) as progress, _undone_when_interrupted():
            report = move(inventory, fleet, gateway, progress)
        broken = _check_after(fleet, report) if report.changed else ()
    if json:
        print_json({**plan_json(report), "broken": [[pair.source, pair.destination] for pair in broken]})
    else:
        _say_done(report, broken)
    say_failures(report.failures, report.notes)
    return FAILED if report.failures or broken else OK


@task(help={**FILE, **ONLY, **JSON, **DEBUG})
@command
def rotate_keys(
    c: Any, file: str | None = None, only: str | None = None, json: bool = False, debug: bool = False
) -> int:
    """Give hosts new keys while packets pass: made on the hosts, begun on all together, undone together."""
    from isthmus.progress import shown_progress
    from isthmus.rotate import rotate_keys as rotate

    inventory = read_inventory(file)
    with open_fleet(c, inventory, debug) as fleet:
        with shown_progress("mesh.rotate-keys", plain=not json) as progress, _undone_when_interrupted():
            report = rotate(inventory, fleet, chosen_hosts(inventory, only), progress)
        broken = _check_after(fleet, report) if report.changed else ()
    if json:
        failures = {name: error.message for name, error in report.failures.items()}
        pairs = [[pair.source, pair.destination] for pair in broken]
        print_json({"rotated": list(report.changed), "failures": failures, "broken": pairs})
    else:
        print(f"new keys: {', '.join(report.changed) or 'none, every host keeps its key'}")
        for pair in broken:
            print(f"{pair.source} does not reach {pair.destination}", file=sys.stderr)
    say_failures(report.failures, report.notes)
    return FAILED if report.failures or broken else OK


mesh = Collection("mesh")
for item in (render, plan, up, status, drain, undrain, rotate_keys, down):
    mesh.add_task(item)
