"""The paths packets take, beside the promised ones."""

from __future__ import annotations

from typing import Any

from isthmus.paths import PathReport
from isthmus.report.failures import failures_json


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
