"""The lab: its parts, and what its clouds counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from isthmus.report.words import data_size

if TYPE_CHECKING:
    from rich.table import Table

    from isthmus.lab import Sent, Status, Traffic


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
