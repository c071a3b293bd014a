"""Hosts that failed, as text and JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isthmus.errors import HostError, HostKeyError, UnreachableError


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
