"""known_hosts text -> the host keys we may believe, and back.

The format is OpenSSH's (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"): plain, negated, wildcard and hashed names and
`@revoked` keys are understood; `@cert-authority` lines are passed over, since host certificates are not used here.
Paramiko's own reader knows neither patterns nor markers, and stops at the first line it cannot decode.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path


def name_of(address: str, port: int) -> str:
    """Return the name a host key is recorded under: the address, or `[address]:port` when the port is not 22."""
    return address if port == 22 else f"[{address}]:{port}"


def fingerprint_of(blob: bytes) -> str:
    """Return OpenSSH's `SHA256:…` of a public key's wire form (`ssh-keygen -l` prints the same)."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


@dataclass(frozen=True)
class Key:
    """One public host key. `type` is its name on the wire, such as `ssh-ed25519`."""

    type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """OpenSSH's `SHA256:…`."""
        return fingerprint_of(self.blob)

    @property
    def base64(self) -> str:
        """The key as known_hosts writes it."""
        return base64.b64encode(self.blob).decode()


@dataclass(frozen=True)
class _Line:
    """One line that names a key; everything else in a file is kept as text only."""

    names: tuple[str, ...]
    key: Key
    revoked: bool

    def matches(self, name: str) -> bool:
        found = False
        for pattern in self.names:
            if pattern.startswith("|1|"):
                found = found or _hashed_is(pattern, name)
            elif pattern.startswith("!"):
                if fnmatchcase(name, _glob(pattern[1:])):
                    return False
            else:
                found = found or fnmatchcase(name, _glob(pattern))
        return found


def _glob(pattern: str) -> str:
    """OpenSSH's patterns know only * and ?; a bracket is a bracket (`[203.0.113.1]:2222`)."""
    return pattern.replace("[", "[[]").lower()


def _hashed_is(pattern: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in pattern[3:].split("|"))
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def _parse(line: str) -> _Line | None:
    """Return what the line says, None where it says nothing we use: a comment, a marker of CAs, a broken key."""
    fields = line.split()
    marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
    if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", "@revoked"):
        return None
    names, type_, text = fields[:3]
    try:
        blob = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return _Line(tuple(names.lower().split(",")) if "|1|" not in names else (names,), Key(type_, blob), bool(marker))


class KnownHosts:
    """The host keys of several files together, looked up by name; any of them is believed, as in ssh(1).

    A file that is missing or cannot be read says nothing: that only refuses more.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._paths = tuple(paths)
        self.read()

    def read(self) -> None:
        """Read the files again."""
        self._plain: dict[str, list[_Line]] = {}
        self._others: list[_Line] = []  # patterns and hashes: asked one by one
        for path in self._paths:
            with contextlib.suppress(OSError):
                self._add(path.expanduser().read_text(encoding="utf-8", errors="replace"))

    def _add(self, text: str) -> None:
        for line in filter(None, map(_parse, text.splitlines())):
            if any(character in name for name in line.names for character in "*?!|"):
                self._others.append(line)
            else:
                for name in line.names:
                    self._plain.setdefault(name, []).append(line)

    def _lines(self, name: str) -> list[_Line]:
        name = name.lower()
        return self._plain.get(name, []) + [line for line in self._others if line.matches(name)]

    def keys(self, name: str) -> tuple[Key, ...]:
        """Return the keys recorded for `name`, in the order of the files; () when it is unknown."""
        return tuple(line.key for line in self._lines(name) if not line.revoked)

    def revoked(self, name: str) -> frozenset[Key]:
        """Return the keys that `name` must not show any more."""
        return frozenset(line.key for line in self._lines(name) if line.revoked)


def with_key(text: str, name: str, key: Key, comment: str, *, replace: bool) -> str:
    """Return a known_hosts text that holds `key` for `name`; `replace` takes the other keys of `name` out first.

    Lines that have nothing to do with `name`, comments and order are kept.
    """
    lines = text.splitlines()
    parsed = [_parse(line) for line in lines]
    if any(line is not None and not line.revoked and line.key == key and line.matches(name) for line in parsed):
        return text
    if replace:
        kept = [_without(line, said, name) for line, said in zip(lines, parsed, strict=True)]
        lines = [line for line in kept if line is not None]
    return "".join(f"{line}\n" for line in [*lines, f"{name} {key.type} {key.base64} {comment}"])


def _without(line: str, said: _Line | None, name: str) -> str | None:
    """Return the line without `name`, None when it named nothing else. Patterns for many hosts are left alone."""
    if said is None or said.revoked:
        return line
    left = [other for other in said.names if other != name.lower() and not _hashed_is(other, name)]
    if len(left) == len(said.names):
        return line
    return line.replace(line.split()[0], ",".join(left), 1) if left else None
