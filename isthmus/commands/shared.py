"""What all commands have in common: exit codes, flags, the inventory, the way to the hosts."""

from __future__ import annotations

import functools
import json as json_format
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Exit

from isthmus.errors import IsthmusError, UsageError
from isthmus.inventory import load_inventory

if TYPE_CHECKING:
    from isthmus.model import Inventory
    from isthmus.remote import Fleet

OK, FAILED, USAGE, REFUSED, WAITING = range(5)
INTERRUPTED = 130
"""The exit codes: done · a check or hosts failed · inventory or command wrong · a promise broken · changes wait ·
Ctrl-C (128 + SIGINT, as a shell has it)."""

FILE = {"file": "the inventory, instead of $ISTHMUS_HOSTS or hosts.toml"}
JSON = {"json": "print JSON"}
DEBUG = {"debug": "name every script that is run on a host, and say how long it took"}
ONLY = {"only": "only these hosts, separated by commas"}


def command(body: Callable[..., int]) -> Callable[..., None]:
    """Turn what a task returns or raises into its exit code; a user never sees a traceback."""

    @functools.wraps(body)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            code = body(*args, **kwargs)
            sys.stdout.flush()
        except IsthmusError as error:
            raise Exit(str(error), code=error.exit_code) from None
        except KeyboardInterrupt:
            raise Exit("interrupted", INTERRUPTED) from None
        except BrokenPipeError:
            settle_stdout()
            code = FAILED
        except OSError as error:
            settle_stdout()
            raise Exit(": ".join(map(str, filter(None, (error.filename, error.strerror or error)))), FAILED) from None
        if code:
            raise Exit(code=code)

    return guarded


def settle_stdout() -> None:
    """Write what is still to be written, or to nowhere: where nobody reads on, Python would complain at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_inventory(file: str | None) -> Inventory:
    """Return the inventory of --file, else of $ISTHMUS_HOSTS, else hosts.toml here or beside tasks.py."""
    if file == "":
        raise UsageError("--file: found nothing, expected the path of an inventory")
    path = file or os.environ.get("ISTHMUS_HOSTS") or "hosts.toml"
    if path == "hosts.toml" and not Path(path).exists():
        path = os.path.relpath(Path(__file__).resolve().parents[2] / path)  # `inv` was called in a folder below
    return load_inventory(path)


def chosen_hosts(inventory: Inventory, only: str | None) -> list[str] | None:
    """Return the hosts of --only, None for all; UsageError for one that the inventory does not have."""
    if only is None:
        return None
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in inventory.hosts]
    if unknown or not names:
        found = ", ".join(unknown) or "nothing"
        raise UsageError(f"--only: found {found}, expected hosts of the inventory: {', '.join(inventory.hosts)}")
    return names


def number(flag: str, text: str, least: int, most: int, unit: str = "") -> int:
    """Read a flag's number. Flags come as text: Invoke's own conversion ends in a traceback."""
    if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise UsageError(f"--{flag}: found {text or 'nothing'}, expected {least} to {most}{unit}")
    return int(text)


def open_fleet(c: Any, inventory: Inventory, debug: bool, project: str | None = None) -> Fleet:
    """Return the way to an inventory's hosts; known_hosts is beside `project`, by default the inventory's own file."""
    from isthmus.remote import Fleet

    return Fleet(
        inventory,
        known_hosts=Path(project or inventory.source).parent / "known_hosts",
        sudo_password=c.config.sudo.password,
        debug=(lambda line: print(line, file=sys.stderr, flush=True)) if debug else None,
    )


def print_json(value: object) -> None:
    """Print what a command reports with --json."""
    print(json_format.dumps(value, indent=2))


def console() -> Any:
    """Return where tables are printed: with colour on a terminal, plain and unfolded elsewhere."""
    from rich.console import Console

    # Off a terminal a table must not be folded at 80 columns: it is read by grep and people's logs.
    return Console(width=None if sys.stdout.isatty() else 400, highlight=False)


def say_failures(failures: Any, notes: tuple[str, ...] = ()) -> None:
    """Tell on standard error which hosts failed, and what else the user should know."""
    if failures:
        from isthmus.report import failures_text

        print(failures_text(failures), file=sys.stderr)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
