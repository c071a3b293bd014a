"""What runs on every host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from isthmus.charge import charges
from isthmus.observe import Facts
from isthmus.report.failures import failures_json
from isthmus.report.plans import change_json
from isthmus.report.words import data_size
from isthmus.survey import Report

if TYPE_CHECKING:
    from rich.table import Table

STALE_HANDSHAKE_S = 180
"""An older handshake carries nothing any more (WireGuard's REJECT_AFTER_TIME)."""


def status_json(report: Report, names: Mapping[str, str]) -> dict[str, Any]:
    """Return what runs on every host; `names` maps public keys to hosts."""
    hosts = {}
    for name, facts in _asked_for(report):
        interface = facts.interface
        peers = interface.peers if interface else ()
        hosts[name] = {
            "up": interface is not None and interface.up,
            "enabled": facts.enabled,
            "drift": [change_json(change) for change in report.plans[name].changes] if name in report.plans else None,
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
    sites = {
        charge.site: {
            "gateway": charge.gateway,
            "since_s": charge.ago_s,
            "why": charge.why or None,
            "astray": list(charge.astray),
        }
        for charge in charges(report.inventory, report.facts)
    }
    failures = failures_json(report.failures)
    return {"hosts": hosts, "sites": sites, "failures": failures, "notes": list(report.notes)}


def charges_text(report: Report) -> str:
    """Return a line for each site with two gateways: who is in charge, since when and why, as far as it is noted."""
    lines = []
    for charge in charges(report.inventory, report.facts):
        since = f" for {charge.ago_s} s" if charge.ago_s is not None else ""
        why = f": {charge.why}" if charge.why else ""
        astray = f"; not so for {', '.join(charge.astray)}" if charge.astray else ""
        lines.append(f"{charge.gateway} is in charge of {charge.site}{since}{why}{astray}")
    return "\n".join(lines)


def status_table(report: Report, names: Mapping[str, str]) -> Table:
    """Return a table: a row a host and peer."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("host", "state", "peer", "handshake", "received", "sent", "drift"):
        table.add_column(heading, justify="right" if heading in ("handshake", "received", "sent") else "left")
    for name, facts in _asked_for(report):
        rows = list(_peer_rows(facts, names)) or [("–", "", "", "")]
        for number, row in enumerate(rows):
            table.add_row(*((name, _state(facts)) if number == 0 else ("", "")), *row, _drift(report, name, number))
    for name, error in report.failures.items():
        if name not in report.facts:
            table.add_row(name, "[red]failed[/red]", "–", "", "", "", escape(error.message.partition("\n")[0]))
    return table


def _asked_for(report: Report) -> list[tuple[str, Facts]]:
    """Return what was found on the hosts that were to be planned: all are looked at, for their keys."""
    return [(name, facts) for name, facts in report.facts.items() if name in report.plans or name in report.failures]


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
