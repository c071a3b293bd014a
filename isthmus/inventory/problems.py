"""Collects what is wrong with one TOML file: each value at its key, in the order of the file, safe to print.

A value is shown as TOML would write it, shortened, and with everything a terminal could act on escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time
from functools import lru_cache

from isthmus.errors import Problem

Path = tuple[str, ...]
"""The keys that lead to a value, such as ("hosts", "n1", "address")."""

_SHOWN = 72
"""Longest value shown whole, in characters; the rest of a longer one is `…`. A name may have 63."""

_SHOWN_DEPTH = 3
"""Arrays and tables nested deeper than this are shown as `…`: a message is no place for a whole file."""

_NAMED = 8
"""Of more names than these, an enumeration shows only the first."""

_DEEPEST_KEY = 4
"""No problem is ever noted below `hosts.n1.ssh.port`."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


class Problems:
    """The problems found so far in one file."""

    def __init__(self) -> None:
        self._noted: list[tuple[Path, Problem]] = []
        self._paths: set[Path] = set()

    def __bool__(self) -> bool:
        return bool(self._noted)

    def note(self, path: Path, found: str, expected: str) -> None:
        """Note what was found at a key and what was expected there."""
        self._noted.append((path, Problem(key_text(path), found, expected)))
        self._paths.add(path)

    def at(self, path: Path) -> bool:
        """Return whether a problem was noted at exactly this key; what depends on it then need not be checked."""
        return path in self._paths

    def in_file_order(self, tables: Mapping[str, object]) -> tuple[Problem, ...]:
        """Return all problems sorted as their keys stand in the file; a missing key counts as its table's header."""
        positions: dict[Path, int] = {}
        _number_keys(tables, (), positions)

        def position(noted: tuple[Path, Problem]) -> int:
            path = noted[0]
            while path and path not in positions:
                path = path[:-1]
            return positions.get(path, -1)

        return tuple(problem for _, problem in sorted(self._noted, key=position))


def _number_keys(table: Mapping[str, object], path: Path, positions: dict[Path, int]) -> None:
    for key, value in table.items():
        here = (*path, key)
        positions[here] = len(positions)
        if isinstance(value, Mapping) and len(here) < _DEEPEST_KEY:
            _number_keys(value, here, positions)


def key_text(path: Path) -> str:
    """Return a key as TOML would write it: `hosts.n1`, `hosts."n 1"`."""
    return ".".join(key if _BARE_KEY.fullmatch(key) and len(key) <= _SHOWN else _string(key) for key in path)


def toml_text(value: object, depth: int = 0) -> str:
    """Return a value as TOML would write it, on one short line."""
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Python refuses to write very long integers in decimal.
        return shortened(str(value) if value.bit_length() <= 256 else hex(value))
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (Mapping, list)) and depth == _SHOWN_DEPTH:
        return "{…}" if isinstance(value, Mapping) else "[…]"
    if isinstance(value, Mapping):
        items = (f"{key_text((key,))} = {toml_text(item, depth + 1)}" for key, item in value.items())
        return "{" + _joined(items) + "}"
    if isinstance(value, list):
        return "[" + _joined(toml_text(item, depth + 1) for item in value) + "]"
    return shortened(str(value))


def printable(text: str) -> str:
    """Return the text with control characters, lone surrogates and the like written as escapes."""
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def one_of(names: Sequence[str]) -> str:
    """Return `a, b or c`; of many names only the first ones."""
    shown = [printable(shortened(name)) for name in names[:_NAMED]]
    if len(names) > _NAMED:
        return ", ".join(shown) + ", …"
    return " or ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))


@lru_cache  # one slip of the pen is often made in every section
def did_you_mean(name: str, names: tuple[str, ...]) -> str:
    """Return ` (did you mean NAME?)` where one of the names is close, else nothing."""
    from difflib import get_close_matches  # only wrong files pay for it

    close = get_close_matches(name, names, n=1) if len(name) <= _SHOWN else []
    return f" (did you mean {printable(close[0])}?)" if close else ""


def shortened(text: str) -> str:
    """Return the text, or its beginning and `…`."""
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _string(text: str) -> str:
    shown = "".join(_ESCAPES.get(character) or printable(character) for character in text[:_SHOWN])
    return f'"{shown}…"' if len(text) > _SHOWN else f'"{shown}"'


def _joined(items: Iterable[str]) -> str:
    """Join the items that fit on a short line."""
    shown: list[str] = []
    for item in items:
        if sum(map(len, shown)) > _SHOWN:
            shown.append("…")
            break
        shown.append(item)
    return ", ".join(shown)


def _escaped(character: str) -> str:
    code = ord(character)
    return _ESCAPES.get(character) or (f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}")
