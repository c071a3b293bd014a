"""Where each host is and through whom: ~/.ssh/config first, then the inventory. Pure.

| known about the host | its address | through |
| --- | --- | --- |
| HostName in ~/.ssh/config | that one | ProxyJump or ProxyCommand, if any |
| a public address, or its DNS name | that one | nobody |
| no public address, its gateway has a way in | the private one | its site's gateway, or the one that stands by |
| neither has one: we are inside | the private one | nobody |
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from isthmus.errors import UsageError
from isthmus.model import Host, Inventory
from isthmus.remote.known_hosts import name_of

TOKEN = "\0"
"""Stands for the % of a ProxyCommand, which Paramiko would fill in from ~/.ssh/config alone."""


class SshConfig(Protocol):
    """What we need of `paramiko.SSHConfig`."""

    def lookup(self, hostname: str) -> Mapping[str, str]:
        """Return the options for a name; `hostname` is the name itself where no HostName is set."""


@dataclass(frozen=True)
class Way:
    """How one host is reached."""

    name: str
    """The inventory's name, or a jump host's."""
    looked_up: str
    """The name under which ~/.ssh/config speaks of it."""
    address: str
    port: int
    user: str
    key_name: str
    """Under this name known_hosts holds its key."""
    via: tuple[str, ...] = ()
    """The names of the gateways, or the ProxyJump, whose connection carries this one: the first that can be reached."""
    via_role: str = "gateway"
    command: str | None = None
    """A ProxyCommand, ready to run: its %h, %p and %r filled in."""


def find_way(target: str, inventory: Inventory, ssh_config: SshConfig) -> Way:
    """Return the way to an inventory's host or to a jump host, written as in ProxyJump: `[user@]host[:port]`, …

    Of several jumps, separated by commas, the last is the target and the others lead to it. UsageError for a Port that
    is no number.
    """
    *before, spec = target.split(",")
    user, name, port = _split(spec)
    host = inventory.hosts.get(name) if name == spec else None
    options = ssh_config.lookup(name)
    named = options.get("hostname", name) != name
    jump = ",".join(before) or _jump(options, name)
    via: tuple[str, ...] = (jump,) if jump else ()
    role = "jump host"
    command = None if via else options.get("proxycommand")
    address = options.get("hostname", name)
    if host is not None and not named:
        address = str(host.public_place or host.address)
        if not (host.public or via or command):
            via, role = _gateways(host, inventory, ssh_config), "gateway"
    default_user, default_port = (host.ssh.user, host.ssh.port) if host else (getpass.getuser(), 22)
    port = port or _port(options.get("port", default_port), name)
    user = user or options.get("user", default_user)
    return Way(
        name=name,
        looked_up=name,
        address=address,
        port=port,
        user=user,
        key_name=options.get("hostkeyalias") or name_of(address, port),
        via=via,
        via_role=role,
        command=_filled(command, {"h": address, "p": str(port), "r": user, TOKEN: "%"}) if command else None,
    )


def _split(spec: str) -> tuple[str | None, str, int | None]:
    user, _, place = spec.strip().removeprefix("ssh://").rpartition("@")
    name, colon, port = place.rpartition(":")
    if not colon or not port.isdecimal() or name.count(":"):  # the last: an IPv6 address
        return user or None, place, None
    return user or None, name, int(port)


def _port(value: str | int, name: str) -> int:
    if not str(value).isdecimal():
        raise UsageError(f"~/.ssh/config: Port for {name}: found {value}, expected a number")
    return int(value)


def _filled(command: str, values: Mapping[str, str]) -> str:
    return re.sub(f"{TOKEN}(.)", lambda found: values.get(found[1], f"%{found[1]}"), command)


def _jump(options: Mapping[str, str], name: str) -> str | None:
    """Return the ProxyJump, unless the host would jump over itself (`Host *` matches the jump host too)."""
    jump = options.get("proxyjump") or "none"
    if jump.lower() == "none" or any(_split(hop)[1] in (name, options.get("hostname")) for hop in jump.split(",")):
        return None
    return jump


def _gateways(host: Host, inventory: Inventory, ssh_config: SshConfig) -> tuple[str, ...]:
    """Return those that lead to a host without public address, none when we are among the private ones."""
    names = [name for name in inventory.sites[host.site].gateways if name != host.name]
    return tuple(name for name in names if _has_way_in(inventory.hosts[name], ssh_config))


def _has_way_in(gateway: Host, ssh_config: SshConfig) -> bool:
    options = ssh_config.lookup(gateway.name)
    named = options.get("hostname", gateway.name) != gateway.name
    return bool(gateway.public or named or _jump(options, gateway.name) or options.get("proxycommand"))
