"""The matrix of the largest packets, and what is to be done about those that are too small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isthmus.mtu import LEAST_MTU, OVERHEAD, MtuReport, Passage
from isthmus.report.failures import failures_json

if TYPE_CHECKING:
    from rich.table import Table


def mtu_json(report: MtuReport) -> dict[str, Any]:
    """Return {"mtu", "proposal", "pairs": [{"source", "destination", "wanted", "found", "kept"}…], "tunnels", …}."""
    return {
        "mtu": report.mtu,
        "proposal": report.proposal,
        "pairs": [_json(pair) for pair in report.pairs],
        "tunnels": [_json(tunnel) for tunnel in report.tunnels],
        "failures": failures_json(report.failures),
    }


def _json(passage: Passage) -> dict[str, Any]:
    return {
        "source": passage.source,
        "destination": passage.destination,
        "wanted": passage.wanted,
        "found": passage.found,
        "kept": passage.kept,
    }


def mtu_table(report: MtuReport) -> Table:
    """Return the matrix of the largest packets in bytes; a row a source, a column a destination."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("bytes")
    names = list(dict.fromkeys(name for pair in report.pairs for name in (pair.source, pair.destination)))
    sources = [name for name in names if any(pair.source == name for pair in report.pairs)]
    for name in names:
        table.add_column(name, justify="right")
    cells = {(pair.source, pair.destination): pair for pair in report.pairs}
    for source in sources:
        row = [_cell(cells.get((source, destination))) for destination in names]
        table.add_row(source, *row)
    return table


def _cell(pair: Passage | None) -> str:
    if pair is None:
        return "[dim]·[/dim]"
    if pair.found is None:
        return "[bold red]lost[/bold red]"
    colour = "green" if pair.kept else "red"
    return f"[{colour}]{'>' if pair.beyond else ''}{pair.found}[/{colour}]"


def mtu_text(report: MtuReport) -> str:
    """Return a line for each path that is not as wanted, then what to do."""
    lines = [tunnel_line(report, tunnel) for tunnel in report.tunnels if not tunnel.kept]
    lines += [pair_line(report, pair) for pair in report.pairs if not pair.kept]
    if report.proposal is not None:
        lines.append(f"set mtu = {report.proposal} in [mesh] and run inv mesh.up: every path carries that")
    elif any(tunnel.found is not None and tunnel.found < LEAST_MTU + OVERHEAD for tunnel in report.tunnels):
        lines.append(f"no [mesh] mtu fits: it must be at least {LEAST_MTU}")
    if not lines and not report.failures:
        lines.append(f"every path carries [mesh] mtu = {report.mtu}, and every tunnel's path the {OVERHEAD} bytes more")
    return "\n".join(lines)


def tunnel_line(report: MtuReport, tunnel: Passage) -> str:
    """Return what is wrong under a tunnel."""
    ends = f"{tunnel.source} to {tunnel.destination}, under the tunnel"
    if tunnel.found is None:
        return f"{ends}: no packet arrives at WireGuard's port; see inv check.ports"
    return f"{ends}: {tunnel.found} bytes pass, {tunnel.wanted} are needed for [mesh] mtu = {report.mtu}"


def pair_line(report: MtuReport, pair: Passage) -> str:
    """Return what is wrong with a pair."""
    ends = f"{pair.source} to {pair.destination}"
    if pair.found is None:
        return f"{ends}: no packet arrives; see inv check.ping and inv check.path"
    if pair.beyond:
        return (
            f"{ends}: more than [mesh] mtu = {report.mtu} passes: the mesh interface has another MTU, see inv mesh.plan"
        )
    return f"{ends}: {pair.found} bytes pass, {pair.wanted} are wanted"
