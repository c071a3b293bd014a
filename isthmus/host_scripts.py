"""The small shell programs of scripts/host, with their inputs set: what is sent to a host, as text."""

from __future__ import annotations

import base64
import shlex
from functools import cache
from pathlib import Path

from isthmus.errors import IsthmusError
from isthmus.plan import HostPlan

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts" / "host"
"""Beside the package, in a checkout as after `pip install -e .`."""


def host_script(name: str, **inputs: str | int) -> str:
    """Return scripts/host/NAME.sh with its inputs as shell variables in front, quoted.

    Its first line is its name, by which errors and debug lines call it.
    """
    assignments = "".join(f"{key}={shlex.quote(str(value))}\n" for key, value in inputs.items())
    return f"# {name}\n{assignments}{_text(name)}"


def apply_script(plan: HostPlan, *, interface: str, owner: str, undo_after: int, moment: int = 0) -> str:
    """Return the script that carries out a plan on its host and arms the undo timer first (`undo_after` seconds).

    At `moment`, in seconds since 1970, it changes peers; at once when that is past.
    """
    parts = [host_script("apply", interface=interface, owner=owner, undo_after=undo_after, moment=moment)]
    for path, file in sorted(plan.files.items()):
        content = base64.encodebytes(file.text.encode()).decode()
        parts.append(f"stage {shlex.quote(path)} {file.mode:o} <<'.'\n{content}.\n")
    parts += [f"discard {shlex.quote(path)}\n" for path in plan.discard]
    return "".join([*parts, "commit\n"])


@cache
def _text(name: str) -> str:
    path = SCRIPTS / f"{name}.sh"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise IsthmusError(f"{path} is missing: run Isthmus from its checkout or `pip install -e` it") from None
