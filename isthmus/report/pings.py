"""The matrix of round-trip times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isthmus.check import PingReport
from isthmus.report.failures import failures_json

if TYPE_CHECKING:
    from rich.table import Table


def ping_json(report: PingReport) -> dict[str, Any]:
    """Return {"pairs": [{"source", "destination", "delivered", "rtt_ms"}…], "failures"}."""
    pairs = [
        {"source": pair.source, "destination": pair.destination, "delivered": pair.delivered, "rtt_ms": pair.rtt_ms}
        for pair in report.pairs
    ]
    return {"pairs": pairs, "failures": failures_json(report.failures)}


def ping_table(report: PingReport) -> Table:
    """Return the matrix of round-trip times in ms; a row a source, a column a destination."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("ms")
    sources = dict.fromkeys([pair.source for pair in report.pairs] + list(report.failures))
    destinations = dict.fromkeys(pair.destination for pair in report.pairs)
    # A source is nearly always a destination too; sorted so that the diagonal is one.
    columns = [name for name in sources if name in destinations]
    columns += [name for name in destinations if name not in sources]
    for name in columns:
        table.add_column(name, justify="right")
    cells = {(pair.source, pair.destination): pair for pair in report.pairs}
    for source in sources:
        row = []
        for destination in columns:
            pair = cells.get((source, destination))
            if pair is None:
                row.append("[dim]·[/dim]" if source == destination else "[red]?[/red]")
            else:
                row.append(_rtt(pair.rtt_ms))
        table.add_row(source, *row)
    return table


def _rtt(rtt_ms: float | None) -> str:
    if rtt_ms is None:
        return "[bold red]lost[/bold red]"
    colour = "green" if rtt_ms < 10 else "yellow" if rtt_ms < 100 else "red"
    return f"[{colour}]{rtt_ms:.1f}[/{colour}]"
