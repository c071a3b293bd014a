"""Plans as diffs and JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isthmus.plan import Change, HostPlan
from isthmus.report.failures import failures_json
from isthmus.report.words import counted
from isthmus.survey import Report


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
        "hosts": {name: [change_json(change) for change in plan.changes] for name, plan in report.plans.items()},
        "changed": list(report.changed),
        "failures": failures_json(report.failures),
        "notes": list(report.notes),
    }


def change_json(change: Change) -> dict[str, Any]:
    """Return one change as JSON values."""
    return {
        "kind": change.kind.value,
        "name": change.name,
        "before": list(change.before),
        "after": list(change.after),
    }
