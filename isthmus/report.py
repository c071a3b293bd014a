"""What a user sees of a run: reports as text, tables and JSON values. No decisions here.

Plain text needs no library, so that a run with nothing to do starts fast; tables and colours are rich's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from isthmus.check import PingReport
from isthmus.errors import HostError, HostKeyError, UnreachableError
from isthmus.observe import Facts
from isthmus.paths import PathReport
from isthmus.plan import Change, HostPlan
from isthmus.survey import Report

if TYPE_CHECKING:
    from rich.table import Table

    from isthmus.lab import Sent, Status, Traffic
    from isthmus.remote.trust import HostKey
    from isthmus.trust import TrustReport

STALE_HANDSHAKE_S = 180
"""An older handshake carries nothing any more (WireGuard's REJECT_AFTER_TIME)."""


def counted(number: int, noun: str) -> str:
    """Return `1 host`, `2 hosts`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


# --- plans --------------------------------------------------------------------------------------------------------


def plan_text(plans: Mapping[str, HostPlan]) -> str:
    """Return every change of every host as a diff; unchanged hosts in one line at the end."""
    blocks = []
    for name, plan in plans.items():
        if plan:
            body = "\n".join(f"  {line}" for change in plan.changes for line in str(change).splitlines())
            blocks.append(f"{name}: {counted(len(plan.changes), 'change')}\n{body}")
    same = [name for name, plan in plans.items() if not plan]
    if same:
        blocks.append(f"{', '.join(same)}: nothing to do")
    return "\n".join(blocks)


def coloured_diff(text: str) -> str:
    """Return a plan's text with rich's markup for its added and removed lines."""
    from rich.markup import escape

    lines = []
    for line in text.splitlines():
        words = line.strip()
        colour = "green" if words.startswith("+") else "red" if words.startswith("-") else None
        lines.append(f"[{colour}]{escape(line)}[/{colour}]" if colour else escape(line))
    return "\n".join(lines)


def plan_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON values: hosts with their changes, failures, notes."""
    return {
        "hosts": {name: [_change_json(change) for change in plan.changes] for name, plan in report.plans.items()},
        "changed": list(report.changed),
        "failures": failures_json(report.failures),
        "notes": list(report.notes),
    }


def _change_json(change: Change) -> dict[str, Any]:
    return {
        "kind": change.kind.value,
        "name": change.name,
        "before": list(change.before),
        "after": list(change.after),
    }


# --- failures -----------------------------------------------------------------------------------------------------


def failures_json(failures: Mapping[str, HostError]) -> dict[str, dict[str, Any]]:
    """Return failures as JSON values; what an error carries beside its message is there by name."""
    values: dict[str, dict[str, Any]] = {}
    for name, error in failures.items():
        values[name] = {"error": type(error).__name__, "message": error.message}
        if isinstance(error, UnreachableError) and error.gateway:
            values[name]["gateway"] = error.gateway
        if isinstance(error, HostKeyError):
            values[name].update(known=error.known, found=error.found)
    return values


def failures_text(failures: Mapping[str, HostError]) -> str:
    """Return one line a host (more where the host said more)."""
    return "\n".join(f"{name}: {error.message}" for name, error in failures.items())


# --- status -------------------------------------------------------------------------------------------------------


def status_json(report: Report, names: Mapping[str, str]) -> dict[str, Any]:
    """Return what runs on every host; `names` maps public keys to hosts."""
    hosts = {}
    for name, facts in report.facts.items():
        interface = facts.interface
        peers = interface.peers if interface else ()
        hosts[name] = {
            "up": interface is not None and interface.up,
            "enabled": facts.enabled,
            "drift": [_change_json(change) for change in report.plans[name].changes] if name in report.plans else None,
            "unconfirmed": facts.transaction,
            "peers": [
                {
                    "host": names.get(peer.public_key, peer.public_key),
                    "endpoint": str(peer.endpoint) if peer.endpoint else None,
                    "latest_handshake_s": facts.clock - peer.latest_handshake if peer.latest_handshake else None,
                    "received_bytes": peer.received,
                    "sent_bytes": peer.sent,
                }
                for peer in peers
            ],
        }
    return {"hosts": hosts, "failures": failures_json(report.failures)}


def status_table(report: Report, names: Mapping[str, str]) -> Table:
    """Return a table: a row a host and peer."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("host", "state", "peer", "handshake", "received", "sent", "drift"):
        table.add_column(heading, justify="right" if heading in ("handshake", "received", "sent") else "left")
    for name, facts in report.facts.items():
        rows = list(_peer_rows(facts, names)) or [("–", "", "", "")]
        for number, row in enumerate(rows):
            table.add_row(*((name, _state(facts)) if number == 0 else ("", "")), *row, _drift(report, name, number))
    for name, error in report.failures.items():
        if name not in report.facts:
            table.add_row(name, "[red]failed[/red]", "–", "", "", "", escape(error.message.partition("\n")[0]))
    return table


def _state(facts: Facts) -> str:
    if facts.interface is None or not facts.interface.up:
        return "[red]down[/red]"
    return "[green]up[/green]" if facts.enabled else "[yellow]up, not at boot[/yellow]"


def _drift(report: Report, name: str, row: int) -> str:
    plan = report.plans.get(name)
    if row or plan is None:
        return ""
    if not plan:
        return "[green]none[/green]"
    what = ", ".join(f"{change.kind.value} {change.name}" for change in plan.changes[:2])
    more = f" and {len(plan.changes) - 2} more" if len(plan.changes) > 2 else ""
    return f"[yellow]{what}{more}[/yellow]"


def _peer_rows(facts: Facts, names: Mapping[str, str]) -> Iterable[tuple[str, str, str, str]]:
    for peer in facts.interface.peers if facts.interface else ():
        age = facts.clock - peer.latest_handshake
        handshake = f"{age} s ago" if peer.latest_handshake else "never"
        if not peer.latest_handshake or age > STALE_HANDSHAKE_S:
            handshake = f"[yellow]{handshake}[/yellow]"
        who = names.get(peer.public_key, f"unknown {peer.public_key[:8]}…")
        yield who, handshake, data_size(peer.received), data_size(peer.sent)


def data_size(count: int) -> str:
    """Return a number of bytes in units of 1000, as clouds bill: `512 B`, `1.2 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


# --- ping ---------------------------------------------------------------------------------------------------------


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


# --- paths --------------------------------------------------------------------------------------------------------


def paths_json(report: PathReport) -> dict[str, Any]:
    """Return {"pairs": [{"source", "destination", "delivered", "path", "promised", "kept"}…], "broken", "failures"}."""
    pairs = [
        {
            "source": pair.walk.source,
            "destination": pair.walk.destination,
            "delivered": pair.walk.delivered,
            "path": str(pair.walk.path),
            "promised": str(pair.promised),
            "kept": pair.kept,
        }
        for pair in report.pairs
    ]
    return {
        "pairs": pairs,
        "broken": [str(broken) for broken in report.broken],
        "failures": failures_json(report.failures),
    }


def paths_text(report: PathReport) -> str:
    """Return a line a pair, with what was promised where it differs, then every broken promise with its walk."""
    width = max((len(f"{p.walk.source} to {p.walk.destination}") for p in report.pairs), default=0)
    lines = []
    for pair in report.pairs:
        ends = f"{pair.walk.source} to {pair.walk.destination}"
        if pair.kept:
            lines.append(f"{ends:{width}}  {pair.walk.path}")
        else:
            found = f"takes {pair.walk.path}" if pair.walk.delivered else pair.walk.outcome.value
            lines.append(f"{ends:{width}}  BROKEN: {found}; promised is {pair.promised}")
    lines += [str(broken) for broken in report.broken]
    return "\n".join(lines)


# --- host keys ----------------------------------------------------------------------------------------------------


def trust_text(keys: Iterable[HostKey]) -> str:
    """Return a line a host: address, type of key, fingerprint, and the recorded one where it changed."""
    lines = []
    for key in keys:
        was = f"  (recorded: {key.known})" if key.known else ""
        lines.append(f"{key.host}  {key.name}  {key.key.type}  {key.fingerprint}{was}")
    return "\n".join(lines)


def trust_json(report: TrustReport) -> dict[str, Any]:
    """Return every key shown and what became of it."""
    keys = {
        name: {
            "address": key.name,
            "type": key.key.type,
            "fingerprint": key.fingerprint,
            "known": key.known,
            "recorded": name in report.recorded,
        }
        for name, key in report.keys.items()
    }
    return {"keys": keys, "failures": failures_json(report.failures)}


# --- the lab ------------------------------------------------------------------------------------------------------


def lab_json(status: Status, traffic: Mapping[str, Traffic]) -> dict[str, Any]:
    """Return what there is of a lab, and bytes by site's uplink."""
    return {
        "name": status.name,
        "up": status.up,
        "hosts": {name: state.value for name, state in status.hosts.items()},
        "resources": dict(status.resources),
        "uplinks": _uplinks_json(traffic),
    }


def lab_table(status: Status, traffic: Mapping[str, Traffic]) -> Table:
    """Return the lab's parts, a row each."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("what", "name", "state"):
        table.add_column(heading)
    for name, state in status.hosts.items():
        table.add_row("host", name, state.value)
    for name, runs in status.resources.items():
        table.add_row("resource", name, "up" if runs else "absent")
    for site, bytes_ in traffic.items():
        table.add_row("uplink", site, f"sent {data_size(bytes_.sent)}, received {data_size(bytes_.received)}")
    return table


def sent_json(sent: Sent) -> dict[str, Any]:
    """Return a transfer as JSON values."""
    return {
        "source": sent.source,
        "destination": sent.destination,
        "bytes": sent.bytes,
        "uplinks": _uplinks_json(sent.uplinks),
    }


def sent_text(sent: Sent) -> str:
    """Return what the clouds would bill for a transfer, a line a site."""
    lines = [f"{data_size(sent.bytes)} from {sent.source} to {sent.destination}; over the internet:"]
    for site, uplink in sent.uplinks.items():
        lines.append(f"  {site}: sent {data_size(uplink.sent)}, received {data_size(uplink.received)}")
    return "\n".join(lines)


def _uplinks_json(traffic: Mapping[str, Traffic]) -> dict[str, dict[str, int]]:
    return {site: {"sent_bytes": one.sent, "received_bytes": one.received} for site, one in traffic.items()}
