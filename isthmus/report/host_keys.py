"""SSH host keys, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from isthmus.report.failures import failures_json

if TYPE_CHECKING:
    from isthmus.remote.trust import HostKey
    from isthmus.trust import TrustReport


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
