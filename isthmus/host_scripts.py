"""The small shell programs of scripts/host, with their inputs set: what is sent to a host, as text."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from isthmus.errors import IsthmusError
from isthmus.plan import HostPlan
from isthmus.render import File

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
    parts += _stage(plan.files)
    parts += [f"discard {shlex.quote(path)}\n" for path in plan.discard]
    return "".join([*parts, "commit\n"])


def hold_script(paths: Iterable[str], *, interface: str, owner: str, undo_after: int, new_key: bool) -> str:
    """Return the script that saves these files and arms the undo timer, and makes a new private key if asked to.

    It prints the host's time, and the new public key.
    """
    head = host_script("apply", interface=interface, owner=owner, undo_after=undo_after, moment=0)
    keep = [f"keep {shlex.quote(path)}\n" for path in paths]
    return "".join([head, *keep, f"hold {'yes' if new_key else 'no'}\n"])


def renew_script(files: Mapping[str, File], rounds: Iterable[str], *, interface: str, owner: str) -> str:
    """Return the script that brings a held host the files that go with the new keys, and when it is to change what."""
    head = host_script("apply", interface=interface, owner=owner, undo_after=0, moment=0)
    return "".join([head, *_stage(files), *(f"round {line}\n" for line in rounds), "renew\n"])


def fire_script(*, interface: str, owner: str, moment: int) -> str:
    """Return the script that has a held host begin with its rounds at `moment`, in seconds since 1970."""
    return host_script("apply", interface=interface, owner=owner, undo_after=0, moment=moment) + "fire\n"


def _stage(files: Mapping[str, File]) -> Iterator[str]:
    for path, file in sorted(files.items()):
        content = base64.encodebytes(file.text.encode()).decode()
        yield f"stage {shlex.quote(path)} {file.mode:o} <<'.'\n{content}.\n"


@cache
def _text(name: str) -> str:
    path = SCRIPTS / f"{name}.sh"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise IsthmusError(f"{path} is missing: run Isthmus from its checkout or `pip install -e` it") from None
