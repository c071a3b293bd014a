"""The commands: arguments, one call, printing, exit code. `inv --list`, `inv --help mesh.up`."""

from __future__ import annotations

import functools
import json as json_format
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Collection, Exit, task

from isthmus.errors import IsthmusError, UsageError
from isthmus.inventory import load_inventory

if TYPE_CHECKING:
    from isthmus.model import Inventory
    from isthmus.remote import Fleet

OK, FAILED, USAGE, REFUSED, WAITING = range(5)
"""The exit codes: done · a check or hosts failed · inventory or command wrong · a promise broken · changes wait."""

FILE = {"file": "the inventory, instead of $ISTHMUS_HOSTS or hosts.toml"}
JSON = {"json": "print JSON"}
DEBUG = {"debug": "show every script that is run on a host, and how long it took"}
ONLY = {"only": "only these hosts, separated by commas"}

_PASSWORD = re.compile(r"""('password': )('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")


def _hide_password(record: logging.LogRecord) -> bool:
    """Mask the sudo password in Invoke's own debug log (`inv --debug …`), which shows its whole configuration."""
    record.msg, record.args = _PASSWORD.sub(r"\1'***'", record.getMessage()), ()
    return True


logging.getLogger("invoke").addFilter(_hide_password)


def command(body: Callable[..., int]) -> Callable[..., None]:
    """Turn what a task returns or raises into its exit code; a user never sees a traceback."""

    @functools.wraps(body)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            code = body(*args, **kwargs)
        except IsthmusError as error:
            raise Exit(str(error), code=error.exit_code) from None
        except KeyboardInterrupt:
            raise Exit("interrupted; a host that was being changed puts its old network back by itself", 130) from None
        except BrokenPipeError:
            # `inv … | head`: nobody reads on. Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = FAILED
        if code:
            raise Exit(code=code)

    return guarded


def _inventory(file: str | None) -> Inventory:
    path = file or os.environ.get("ISTHMUS_HOSTS") or "hosts.toml"
    if path == "hosts.toml" and not Path(path).exists():
        path = os.path.relpath(Path(__file__).with_name(path))  # `inv` was called in a folder below
    return load_inventory(path)


def _chosen(inventory: Inventory, only: str | None) -> list[str] | None:
    if only is None:
        return None
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in inventory.hosts]
    if unknown or not names:
        found = ", ".join(unknown) or "nothing"
        raise UsageError(f"--only: found {found}, expected hosts of the inventory: {', '.join(inventory.hosts)}")
    return names


def _fleet(c: Any, inventory: Inventory, debug: bool) -> Fleet:
    from isthmus.remote import Fleet

    return Fleet(
        inventory,
        known_hosts=Path(inventory.source).parent / "known_hosts",
        sudo_password=c.config.sudo.password,
        debug=(lambda line: print(line, file=sys.stderr, flush=True)) if debug else None,
    )


def _print_json(value: object) -> None:
    print(json_format.dumps(value, indent=2))


def _console() -> Any:
    from rich.console import Console

    # Off a terminal a table must not be folded at 80 columns: it is read by grep and people's logs.
    return Console(width=None if sys.stdout.isatty() else 400, highlight=False)


def _say_failures(failures: Any, notes: tuple[str, ...] = ()) -> None:
    if failures:
        from isthmus.report import failures_text

        print(failures_text(failures), file=sys.stderr)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


# --- mesh ---------------------------------------------------------------------------------------------------------


@task(help={**FILE, "out": "the folder to write to (default: rendered)"})
@command
def render(c: Any, out: str = "rendered", file: str | None = None) -> int:
    """Write every file of every host below a folder, without touching any host."""
    from isthmus.export import export

    inventory = _inventory(file)
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

    inventory = _inventory(file)
    with _fleet(c, inventory, debug) as fleet, shown_progress("observing", plain=False) as progress:
        report = mesh_plan(inventory, fleet, _chosen(inventory, only), progress)
    if json:
        _print_json(plan_json(report))
    elif sys.stdout.isatty():
        _console().print(coloured_diff(plan_text(report.plans)), soft_wrap=True)
    else:
        print(plan_text(report.plans))
    _say_failures(report.failures, report.notes)
    return FAILED if report.failures else WAITING if report.waiting else OK


@task(
    help={
        **FILE,
        **ONLY,
        **JSON,
        **DEBUG,
        "undo-after": "seconds after which a host undoes a change that was not confirmed (default 120)",
    }
)
@command
def up(
    c: Any,
    file: str | None = None,
    only: str | None = None,
    json: bool = False,
    debug: bool = False,
    undo_after: int = 120,
) -> int:
    """Bring every host to what the inventory says: install, make keys, verify, apply, start, check."""
    inventory = _inventory(file)
    chosen = _chosen(inventory, only)
    if not 5 <= undo_after <= 3600:
        raise UsageError(f"--undo-after: found {undo_after}, expected 5 to 3600 seconds")
    with _fleet(c, inventory, debug) as fleet:
        fleet.connect(inventory.hosts)  # meanwhile the modules below are imported: a third of what is left
        from isthmus.apply import mesh_up
        from isthmus.progress import shown_progress

        with shown_progress("mesh.up", plain=not json) as progress:
            report = mesh_up(inventory, fleet, chosen, undo_after, progress)
        broken = _check_after(fleet, inventory, report) if report.changed else ()
    if json:
        from isthmus.report import plan_json

        _print_json({**plan_json(report), "broken": [[pair.source, pair.destination] for pair in broken]})
    else:
        for name in report.plans:
            if name not in report.failures:
                changes = len(report.plans[name].changes)
                print(f"{name}: {f'{changes} changed' if name in report.changed else 'nothing to do'}")
        for pair in broken:
            print(f"{pair.source} does not reach {pair.destination}", file=sys.stderr)
        if not report.failures and not broken:
            done = "the mesh is up and every pair reaches each other" if report.changed else "nothing to do"
            print(f"{len(report.plans)} hosts: {done}")
    _say_failures(report.failures, report.notes)
    return FAILED if report.failures or broken else OK


def _check_after(fleet: Fleet, inventory: Inventory, report: Any) -> tuple[Any, ...]:
    """Ping between the hosts that could be used; a dead host is a failure already, not as many broken pairs.

    Where something is broken all is asked once more: a handshake is tried again after 5 s, and may be lost twice.
    """
    from isthmus.check import ping

    alive = [name for name in report.facts if name not in report.failures]
    found = ping(fleet, inventory, alive, count=1)
    if found.broken:
        found = ping(fleet, inventory, alive, count=1)
    report.failures.update(found.failures)
    pairs = found.broken
    return tuple(pair for pair in pairs if pair.destination in alive or pair.destination in inventory.resources)


@task(help={**FILE, **ONLY, **JSON, **DEBUG})
@command
def status(c: Any, file: str | None = None, only: str | None = None, json: bool = False, debug: bool = False) -> int:
    """Show what runs on each host: interface, peers, handshakes, bytes, and drift from the plan."""
    from isthmus.progress import shown_progress
    from isthmus.report import status_json, status_table
    from isthmus.survey import known_keys, mesh_plan

    inventory = _inventory(file)
    with _fleet(c, inventory, debug) as fleet, shown_progress("observing", plain=False) as progress:
        report = mesh_plan(inventory, fleet, _chosen(inventory, only), progress)
    names = {key: host for host, key in known_keys(report.facts).items()}
    if json:
        _print_json(status_json(report, names))
    else:
        _console().print(status_table(report, names))
    _say_failures(report.failures, report.notes)
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

    inventory = _inventory(file)
    with _fleet(c, inventory, debug) as fleet, shown_progress("mesh.down", plain=not json) as progress:
        report = mesh_down(inventory, fleet, _chosen(inventory, only), forget_keys, progress)
    if json:
        _print_json(plan_json(report))
    else:
        print(f"taken off: {', '.join(report.changed) or 'nothing, nothing of ours was there'}")
    _say_failures(report.failures)
    return FAILED if report.failures else OK


# --- check --------------------------------------------------------------------------------------------------------


@task(help={**FILE, **ONLY, **JSON, **DEBUG, "count": "echo requests a pair (default 3)"})
@command
def ping(
    c: Any,
    file: str | None = None,
    only: str | None = None,
    json: bool = False,
    debug: bool = False,
    count: int = 3,
) -> int:
    """Measure the round-trip time of every ordered pair of members, and of every resource from every member."""
    from isthmus.check import ping as measure
    from isthmus.progress import shown_progress
    from isthmus.report import ping_json, ping_table

    inventory = _inventory(file)
    if not 1 <= count <= 100:
        raise UsageError(f"--count: found {count}, expected 1 to 100")
    with _fleet(c, inventory, debug) as fleet, shown_progress("measuring", plain=False) as progress:
        report = measure(fleet, inventory, _chosen(inventory, only), count, progress)
    if json:
        _print_json(ping_json(report))
    else:
        _console().print(ping_table(report))
        for pair in report.broken:
            print(f"{pair.source} does not reach {pair.destination}")
    _say_failures(report.failures)
    return FAILED if report.broken or report.failures else OK


@task(help={**FILE, **ONLY, **JSON, **DEBUG})
@command
def path(c: Any, file: str | None = None, only: str | None = None, json: bool = False, debug: bool = False) -> int:
    """Walk every pair's path through the routes, rules and AllowedIPs as they are on the hosts now."""
    from isthmus.paths import paths
    from isthmus.progress import shown_progress
    from isthmus.report import paths_json, paths_text

    inventory = _inventory(file)
    with _fleet(c, inventory, debug) as fleet, shown_progress("observing", plain=False) as progress:
        report = paths(fleet, inventory, _chosen(inventory, only), progress)
    if json:
        _print_json(paths_json(report))
    else:
        print(paths_text(report))
    _say_failures(report.failures)
    return FAILED if report.broken or report.failures else OK


# --- ssh ----------------------------------------------------------------------------------------------------------


@task(
    help={
        **FILE,
        **ONLY,
        **JSON,
        "yes": "record unknown keys without asking",
        "replace": "record changed keys too; only after you know why they changed",
    }
)
@command
def trust(
    c: Any,
    file: str | None = None,
    only: str | None = None,
    json: bool = False,
    yes: bool = False,
    replace: bool = False,
) -> int:
    """Fetch the hosts' SSH host keys, show their fingerprints, record them in the project's known_hosts."""
    from isthmus.report import trust_json, trust_text
    from isthmus.trust import trust_hosts

    inventory = _inventory(file)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()

    def agree(keys: Any) -> bool:
        """Let a person compare the fingerprints with what the cloud's console shows."""
        if not json:
            print(trust_text(keys))
        return yes or (interactive and input("Record these keys? [y/N] ").strip().lower() in ("y", "yes"))

    with _fleet(c, inventory, debug=False) as fleet:
        result = trust_hosts(fleet, _chosen(inventory, only) or list(inventory.hosts), agree, replace=replace)
    if json:
        _print_json(trust_json(result))
    else:
        print(f"recorded: {', '.join(result.recorded) or 'nothing'}; known before: {', '.join(result.known) or 'none'}")
    _say_failures(result.failures)
    return FAILED if result.failures else OK


# --- lab ----------------------------------------------------------------------------------------------------------

LAB = {"name": "the lab's name; several can stand side by side (default lab)"}


def _lab(file: str | None, name: str, options: str | None = None) -> Any:
    from isthmus.lab import Lab, parse_options

    inventory = _inventory(file)
    return Lab(inventory, name, parse_options(options or "", inventory))


@task(
    name="up",
    help={
        **FILE,
        **LAB,
        "options": "what hosts and clouds are like: `suite=trixie,metric=100`, for one host `n2:nic=ens5`",
    },
)
@command
def lab_up(c: Any, file: str | None = None, name: str = "lab", options: str | None = None) -> int:
    """Build the twin of the inventory on this machine: clouds, hosts, an admin workstation. Needs root."""
    from isthmus.progress import shown_steps

    lab = _lab(file, name, options)
    with shown_steps() as progress:
        lab.up(progress)
    print(f"the lab {name!r} is up; inv lab.run CMD runs a command on its admin workstation")
    return OK


@task(name="down", help=LAB)
@command
def lab_down(c: Any, name: str = "lab") -> int:
    """Take the lab down; nothing of it stays but the cached image."""
    from isthmus.lab import take_down

    take_down(name)
    print(f"lab {name} is down")
    return OK


@task(name="status", help={**FILE, **LAB, **JSON})
@command
def lab_status(c: Any, file: str | None = None, name: str = "lab", json: bool = False) -> int:
    """Show the lab's hosts and what each cloud has counted on its uplink."""
    from isthmus.report import lab_json, lab_table

    lab = _lab(file, name)
    status = lab.status()
    traffic = lab.counters() if status.up else {}
    if json:
        _print_json(lab_json(status, traffic))
    else:
        _console().print(lab_table(status, traffic))
    return OK if status.up else FAILED


@task(name="run", positional=["cmd"], help={**FILE, **LAB, "cmd": "a shell command line"})
@command
def lab_run(c: Any, cmd: str, file: str | None = None, name: str = "lab") -> int:
    """Run a command line on the lab's admin workstation, where public addresses are reachable."""
    return int(_lab(file, name).run(cmd).returncode)


@task(
    name="send",
    help={**FILE, **LAB, **JSON, "source": "host", "destination": "host", "megabytes": "how much (default 5)"},
)
@command
def lab_send(
    c: Any,
    source: str,
    destination: str,
    megabytes: int = 5,
    file: str | None = None,
    name: str = "lab",
    json: bool = False,
) -> int:
    """Send bytes from host to host over TCP and show what each cloud counted on its uplink meanwhile."""
    from isthmus.lab import send
    from isthmus.report import sent_json, sent_text

    lab = _lab(file, name)
    for end in (source, destination):
        if end not in lab.inventory.hosts:
            raise UsageError(f"found {end}, expected a host of the inventory: {', '.join(lab.inventory.hosts)}")
    if not 1 <= megabytes <= 1000:
        raise UsageError(f"--megabytes: found {megabytes}, expected 1 to 1000")
    sent = send(lab, source, destination, megabytes * 1_000_000)
    if json:
        _print_json(sent_json(sent))
    else:
        print(sent_text(sent))
    return OK


mesh = Collection("mesh")
for item in (render, plan, up, status, down):
    mesh.add_task(item)
check = Collection("check")
check.add_task(ping)
check.add_task(path)
ssh = Collection("ssh")
ssh.add_task(trust)
lab = Collection("lab")
for item in (lab_up, lab_down, lab_status, lab_run, lab_send):
    lab.add_task(item)
ns = Collection(mesh, check, ssh, lab)
