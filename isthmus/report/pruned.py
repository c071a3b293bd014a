"""Hosts that have left the inventory, and what became of them."""

from __future__ import annotations

from typing import Any

from isthmus.prune import PruneReport
from isthmus.report.failures import failures_json


def prune_json(report: PruneReport) -> dict[str, Any]:
    """Return a prune's report as JSON values."""
    return {
        "cleaned": list(report.cleaned),
        "bare": list(report.bare),
        "unreachable": failures_json(report.unreachable),
        "failures": failures_json(report.failures),
    }


def prune_text(report: PruneReport) -> str:
    """Return a line for each host that has left and did not fail."""
    lines = [f"{name}: has left; everything of ours was taken off" for name in report.cleaned]
    lines += [f"{name}: has left; nothing of ours was there" for name in report.bare]
    lines += [
        f"{name}: has left and cannot be reached ({error.message}); nobody trusts it any more, its files stay"
        for name, error in report.unreachable.items()
    ]
    return "\n".join(lines)
