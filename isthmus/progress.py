"""Tells what happens on which host while it happens: a bar on a terminal, plain lines elsewhere. To standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def shown_progress(what: str, *, plain: bool = True, hosts: int | None = None) -> Iterator[Callable[[str, str], None]]:
    """Yield a callback for (host, event). Off a terminal each event is a line, or nothing where `plain` is false.

    `hosts` is how many events there will be, where each host has one: the bar then fills.
    """
    if not sys.stderr.isatty():

        def tell(host: str, event: str) -> None:
            if plain:
                sys.stderr.write(f"{host}: {event}\n")
                sys.stderr.flush()

        yield tell
        return
    with _bar() as bar:
        row = bar.add_task(what, total=hosts)

        def show(host: str, event: str) -> None:
            bar.update(row, description=f"{what}: {host} {event.splitlines()[0] if event else ''}", advance=1)

        yield show


@contextmanager
def shown_steps() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a callback for (what has just been done, steps done, steps in all)."""
    if not sys.stderr.isatty():

        def tell(what: str, done: int, total: int) -> None:
            sys.stderr.write(f"[{done}/{total}] {what}\n")
            sys.stderr.flush()

        yield tell
        return
    with _bar() as bar:
        row = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(row, description=what, completed=done, total=total)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    # No markup: what hosts say is in it.
    text = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), text, BarColumn(pulse_style="cyan"), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
