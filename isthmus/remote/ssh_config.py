"""Reads ~/.ssh/config and its likes, with the Include lines that Paramiko passes over."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Iterable
from pathlib import Path

from isthmus.errors import IsthmusError
from isthmus.remote.way import TOKEN

with warnings.catch_warnings():  # see connection.py
    warnings.simplefilter("ignore")
    import paramiko

DEEPEST_INCLUDE = 16
"""OpenSSH's own limit (READCONF_MAX_DEPTH)."""


def read_ssh_config(paths: Iterable[Path]) -> paramiko.SSHConfig:
    """Return the files together; the first to say something wins, as in ssh(1). Missing files say nothing."""
    config = paramiko.SSHConfig()
    try:
        for path in paths:
            config.parse(_lines(path.expanduser(), path.expanduser().parent, 0))
    except paramiko.ConfigParseError as error:
        raise IsthmusError(f"{path}: {error}; expected ssh_config(5)") from None
    return config


def _lines(path: Path, base: Path, depth: int) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    block = "Host *"
    for line in lines:
        word, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if word.lower() in ("host", "match"):
            block = line
        if word.lower() == "proxycommand":
            line = line.replace("%", TOKEN)
        if word.lower() != "include" or depth == DEEPEST_INCLUDE:
            found.append(line)
            continue
        for pattern in rest.split():
            for included in sorted(glob.glob(str(base / Path(pattern.strip('"')).expanduser()))):
                found += _lines(Path(included), base, depth + 1)
        found.append(block)  # what follows belongs where the Include stood, not to the included file's last block
    return found
