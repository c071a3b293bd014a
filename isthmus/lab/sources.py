"""The machine's own apt sources -> sources for a suite of Debian. Pure; never names a mirror of its own.

Both formats of sources.list(5) are read. Only Debian's own archive is taken: entries for the machine's release (or its
`-updates`, `-security`) with the component main, not signed by another keyring than Debian's.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from isthmus.errors import LabError


@dataclass(frozen=True)
class Source:
    """One apt source of binary packages."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str | None = None
    """A keyring file; None where none is given."""

    def __str__(self) -> str:
        option = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {option}{self.uri} {self.suite} {' '.join(self.components)}"


def debian_sources(files: Mapping[str, str], codename: str, suite: str) -> tuple[Source, ...]:
    """Return where `suite` comes from on a machine that runs `codename` and has these files in /etc/apt.

    `files` is {file name: text}; names ending in `.sources` are deb822, all others one line an entry. Raises LabError
    when none of them is Debian's archive.
    """
    found: dict[Source, None] = {}
    for name, text in files.items():
        for source in _deb822(text) if name.endswith(".sources") else _one_line(text):
            if (kind := _kind(source, codename)) is not None:
                found[Source(source.uri, suite + kind, ("main",), source.signed_by)] = None
    if not any(source.suite == suite for source in found):
        raise LabError(f"none of the machine's apt sources is Debian's archive of {codename}: found {', '.join(files)}")
    return tuple(found)


def _kind(source: Source, codename: str) -> str | None:
    """Return `` for the archive itself, `-updates` or `-security`; None for what is not Debian's."""
    release, dash, kind = source.suite.partition("-")
    own = release in (codename, "stable", "oldstable", "oldoldstable") and "main" in source.components
    foreign = source.signed_by is not None and "debian-archive" not in source.signed_by
    return dash + kind if own and not foreign and kind in ("", "updates", "security") else None


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        words = shlex.split(line.partition("#")[0].replace("[", " [ ").replace("]", " ] "))
        if not words or words[0] != "deb":
            continue
        options: dict[str, str] = {}
        rest = words[1:]
        if rest and rest[0] == "[" and "]" in rest:
            end = rest.index("]")
            options = dict(word.split("=", 1) for word in rest[1:end] if "=" in word)
            rest = rest[end + 1 :]
        if len(rest) >= 2:
            yield Source(rest[0].rstrip("/"), rest[1], tuple(rest[2:]), options.get("signed-by"))


def _deb822(text: str) -> Iterator[Source]:
    for fields in _stanzas(text.splitlines()):
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "off", "0")
        if "deb" not in fields.get("types", "").split() or not enabled:
            continue
        signed_by = fields.get("signed-by", "")
        keyring = signed_by.split()[0] if signed_by.startswith("/") else None
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri.rstrip("/"), suite, tuple(fields.get("components", "").split()), keyring)


def _stanzas(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    key = ""
    for line in [*lines, ""]:
        if not line.strip():
            if fields:
                yield fields
            fields, key = {}, ""
        elif line.startswith("#"):
            continue
        elif line[0].isspace():
            fields[key] = f"{fields.get(key, '')} {line.strip()}".strip()
        else:
            key, _, value = line.partition(":")
            key = key.strip().lower()
            fields[key] = value.strip()
