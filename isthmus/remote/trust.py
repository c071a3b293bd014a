"""Learning host keys: what each host shows, what is recorded for it, and writing it down. For `inv ssh.trust`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from isthmus.errors import HostError, HostKeyError, IsthmusError, UnreachableError
from isthmus.remote.fleet import Fleet, Remote
from isthmus.remote.known_hosts import Key, with_key


class Standing(Enum):
    """What is recorded for a host, compared with the key it shows."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    """Nothing is recorded."""
    CHANGED = "changed"
    """Only other keys are recorded."""


@dataclass(frozen=True)
class HostKey:
    """The key a host shows, and what we know of it."""

    host: str
    """The inventory's name."""
    name: str
    """Under which the key is looked up: an address, `[address]:port`, or a HostKeyAlias."""
    key: Key
    recorded: tuple[Key, ...]

    @property
    def standing(self) -> Standing:
        """How the key compares with what is recorded."""
        if self.key in self.recorded:
            return Standing.KNOWN
        return Standing.CHANGED if self.recorded else Standing.UNKNOWN

    @property
    def fingerprint(self) -> str:
        """OpenSSH's `SHA256:…` of the key shown; the host prints it for `ssh-keygen -lf /etc/ssh/ssh_host_…_key`."""
        return self.key.fingerprint

    @property
    def known(self) -> str | None:
        """The recorded fingerprint to show beside it: of the same type of key if there is one; None when unknown."""
        same = [key for key in self.recorded if key.type == self.key.type]
        return next((key.fingerprint for key in (*same, *self.recorded)), None)


def scan(
    fleet: Fleet,
    hosts: Iterable[str],
    on_done: Callable[[str, HostKey | HostError], None] | None = None,
) -> dict[str, HostKey | HostError]:
    """Ask each host for its key, and send nothing more to it: no login.

    A host behind a gateway can be asked only through a gateway's own connection, so the gateway must be trusted
    first; until then such a host is an UnreachableError with `gateway` set. Scan, `record`, and scan those again:
    `behind` names them.
    """

    def shown(remote: Remote) -> HostKey:
        link = fleet.link(remote.name)
        key = link.host_key()
        return HostKey(remote.name, link.way.key_name, key, fleet.known_hosts.keys(link.way.key_name))

    return fleet.each(hosts, shown, on_done)


def behind(fleet: Fleet, results: dict[str, HostKey | HostError], hosts: Iterable[str]) -> tuple[str, ...]:
    """Return the hosts that could not be scanned because one of `hosts`, which leads to them, was not trusted."""
    gates = set(hosts)
    return tuple(
        name
        for name, result in results.items()
        if isinstance(result, UnreachableError) and result.gateway and gates & set(fleet.link(name).way.via)
    )


def record(fleet: Fleet, keys: Iterable[HostKey], *, replace: bool = False) -> tuple[HostKey, ...]:
    """Write keys into the project's known_hosts, let the fleet believe them, and return those that were new.

    A changed key is written only with `replace`, which takes the old ones out; without it, it raises HostKeyError
    before anything is written. The file is replaced whole or not at all, mode 0644; other lines of it are kept.
    """
    new = tuple(key for key in keys if key.standing is not Standing.KNOWN)
    for key in new:
        if key.standing is Standing.CHANGED and not replace:
            text = f"the recorded key of {key.name} is {key.known}, it shows {key.fingerprint}; not replaced"
            raise HostKeyError(key.host, text, key.known, key.fingerprint)
    path = fleet.known_hosts_file
    if path is None or not new:
        return ()
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
        for key in new:
            text = with_key(text, key.name, key.key, key.host, replace=replace)
        _write(path, text)
    except OSError as error:
        raise IsthmusError(f"{path}: cannot be written: {error.strerror}") from None
    fleet.known_hosts.read()
    fleet.reconnect(key.host for key in new)
    return new


def _write(path: Path, text: str) -> None:
    """Replace the file in one step, so that a run killed in the middle leaves the old one."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
