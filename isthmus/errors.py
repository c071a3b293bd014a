"""The exception tree. Each error carries data; its text is one clear line; its class decides the exit code.

IsthmusError                 1
├── UsageError               2   the command line is wrong
├── InventoryError           2   hosts.toml is wrong; carries every Problem found
├── BrokenPromiseError       3   the network asked for cannot keep a promise; nothing was touched
├── LabError                 1   the twin on this machine could not be built or driven
├── SourceError              1   a source of packages or images has not what is asked for, or is not to be trusted
└── HostError                1   one host could not be reached, read or changed
    ├── UnreachableError         no connection; says whether the host or its gateway failed
    ├── HostKeyError             its SSH host key is unknown or has changed
    ├── CommandError             a script on it failed
    └── UnsupportedError         it runs something we do not support
"""

from __future__ import annotations

from dataclasses import dataclass


class IsthmusError(Exception):
    """Base of everything this program raises on purpose."""

    exit_code = 1


class UsageError(IsthmusError):
    """The command line or the environment asks for something that does not exist."""

    exit_code = 2


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong in the inventory: the key, the value found there and what was expected."""

    where: str
    """Dotted path of the key, such as `hosts.n1.address`; `line 3, column 5` for TOML syntax."""
    found: str
    """The offending value as TOML would write it, or words such as `nothing`."""
    expected: str
    """What would have been right, such as `an IPv4 address inside 172.16.0.0/24`."""

    def __str__(self) -> str:
        return f"{self.where}: found {self.found}, expected {self.expected}"


class InventoryError(IsthmusError):
    """The inventory cannot be used; `problems` holds all that is wrong with it, in the order of the file."""

    exit_code = 2

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))


class BrokenPromiseError(IsthmusError):
    """A promise of the network would be broken; `broken` holds one text each, with the packet's walk."""

    exit_code = 3

    def __init__(self, broken: tuple[str, ...]) -> None:
        self.broken = broken
        super().__init__("\n".join(broken))


class LabError(IsthmusError):
    """The lab could not be built, started or used."""


class SourceError(IsthmusError):
    """A source of packages and images cannot be reached, has not what is asked for, or is not to be trusted."""


class HostError(IsthmusError):
    """Something failed on or on the way to one host; the others go on."""

    def __init__(self, host: str, message: str) -> None:
        self.host = host
        self.message = message
        super().__init__(f"{host}: {message}")


class UnreachableError(HostError):
    """No SSH connection could be made. `gateway` names the host behind which it lies when that one is to blame."""

    def __init__(self, host: str, message: str, gateway: str | None = None) -> None:
        self.gateway = gateway
        super().__init__(host, message)


class HostKeyError(HostError):
    """The SSH host key is unknown or changed. Nothing was sent to the host.

    Fingerprints are OpenSSH's `SHA256:…`; `known` is None when no key is recorded.
    """

    def __init__(self, host: str, message: str, known: str | None, found: str) -> None:
        self.known = known
        self.found = found
        super().__init__(host, message)


class CommandError(HostError):
    """A script on the host ended with another status than 0. `status` is None when it did not end in time."""

    def __init__(self, host: str, message: str, status: int | None) -> None:
        self.status = status
        super().__init__(host, message)


class UnsupportedError(HostError):
    """The host's system is not one we support."""
