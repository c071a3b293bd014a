"""The ports that must be open, and those that are not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from isthmus.open_ports import PortReport, State, Tried
from isthmus.ports import PortRule
from isthmus.report.failures import failures_json

if TYPE_CHECKING:
    from rich.table import Table

_COLOURS = {State.OPEN: "green", State.CLOSED: "bold red", State.UNTESTED: "yellow"}


def rules_json(rules: Iterable[PortRule]) -> list[dict[str, Any]]:
    """Return [{"host", "direction", "service", "protocol", "port", "address", "source", "source_address", "why"}…]."""
    return [
        {
            "host": rule.host,
            "direction": rule.direction,
            "service": rule.service.value,
            "protocol": rule.protocol,
            "port": rule.port,
            "address": str(rule.address),
            "source": rule.source,
            "source_address": str(rule.source_address) if rule.source_address else None,
            "why": rule.why,
        }
        for rule in rules
    ]


def ports_json(report: PortReport) -> dict[str, Any]:
    """Return {"ports": [a rule with "state" and "reason"…], "failures"}."""
    rules = rules_json(tried.rule for tried in report.tried)
    ports = [
        {**rule, "state": tried.state.value, "reason": tried.reason}
        for rule, tried in zip(rules, report.tried, strict=True)
    ]
    return {"ports": ports, "failures": failures_json(report.failures)}


def rules_table(rules: Iterable[PortRule]) -> Table:
    """Return a table: a row a rule."""
    table = _table("why")
    for rule in rules:
        table.add_row(*_row(rule), rule.why)
    return table


def ports_table(report: PortReport) -> Table:
    """Return a table: a row a rule, and what came of trying it."""
    table = _table("state")
    for tried in report.tried:
        word = f"[{_COLOURS[tried.state]}]{tried.state.value}[/{_COLOURS[tried.state]}]"
        table.add_row(*_row(tried.rule), f"{word}: {tried.reason}" if tried.reason else word)
    return table


def closed_line(tried: Tried) -> str:
    """Return one line: the host, the port, and from where it is closed."""
    rule = tried.rule
    source = f"{rule.source} ({rule.source_address})" if rule.source_address else rule.source
    where = f"{rule.host} ({rule.address})"
    return f"{where}: {rule.admits} is closed to {source}: {tried.reason}; it is for {rule.why}"


def _table(last: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("host", "address", "port", "from", "source", last):
        table.add_column(heading)
    return table


def _row(rule: PortRule) -> tuple[str, ...]:
    source = str(rule.source_address) if rule.source_address else "any address"
    return rule.host, str(rule.address), rule.admits, rule.source, source
