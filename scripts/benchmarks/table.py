"""What was measured: rows of a table for people, flat keys for programs."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from benchmarks.measure import Series


@dataclass
class Results:
    """Numbers by flat key; nothing gets in here that was not measured in this run or read from this machine."""

    values: dict[str, float | int | str] = field(default_factory=dict)

    def put(self, key: str, value: float | int | str) -> None:
        """Record one value, a fraction to four significant digits; a key is used once."""
        if key in self.values:
            raise KeyError(f"{key} is measured twice")
        self.values[key] = float(f"{value:.4g}") if isinstance(value, float) else value

    def put_series(self, key: str, series: Series) -> None:
        """Record `KEY_s` (the median), `KEY_min_s`, `KEY_max_s` and `KEY_runs`."""
        self.put(f"{key}_s", series.median)
        self.put(f"{key}_min_s", min(series.known))
        self.put(f"{key}_max_s", max(series.known))
        self.put(f"{key}_runs", len(series.known))


WIDTH = 110
"""Of the prose below a table."""
SECONDS = ("what", "median", "min", "max", "runs")


def seconds_row(what: str, series: Series) -> tuple[str, ...]:
    """Return a row below SECONDS."""
    known = series.known
    return (what, *(f"{value:.2f} s" for value in (series.median, min(known), max(known))), str(len(known)))


def print_table(
    title: str, how: str, head: Sequence[str], rows: Iterable[Sequence[str]], out: TextIO | None = None
) -> None:
    """Print a table of text: the first column to the left, the others to the right, and below it what was done."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    print(f"\n{title}", file=out or sys.stdout)
    for number, line in enumerate(lines):
        cells = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join(["", line[0].ljust(widths[0]), *cells]).rstrip(), file=out or sys.stdout)
        if number == 0:
            print("  " + "─" * (sum(widths) + 2 * len(widths) - 2), file=out or sys.stdout)
    print(textwrap.fill(how, WIDTH, initial_indent="  ", subsequent_indent="  "), file=out or sys.stdout, flush=True)
