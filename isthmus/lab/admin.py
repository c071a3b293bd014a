"""The admin workstation: its ~/.ssh and the way commands run there."""

from __future__ import annotations

import os
import pwd
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from isthmus.lab import machine
from isthmus.lab.layout import Names
from isthmus.model import Inventory

_ENTER = """set -eu
ssh=$1; home=$2; tools=$3; shift 3
for folder in "$home" "${HOME:-$home}"; do
  [ -d "$folder/.ssh" ] || mkdir -m 700 "$folder/.ssh"
  mount --bind "$ssh" "$folder/.ssh"
done
unset SSH_AUTH_SOCK
case ":$PATH:" in *":$tools:"*) ;; *) PATH=$tools:$PATH ;; esac
exec "$@"
"""
"""Every step replaces the one before, so the process that was started is in the end the command itself."""


def make_key(names: Names) -> str:
    """Return the admin's public key; made when there is none yet."""
    private = names.ssh / "id_ed25519"
    if not private.with_suffix(".pub").is_file():
        names.ssh.mkdir(parents=True, exist_ok=True)
        names.ssh.chmod(0o700)
        private.unlink(missing_ok=True)
        machine.execute("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"admin@{names.name}", "-f", str(private))
    return private.with_suffix(".pub").read_text(encoding="ascii")


def write_ssh_files(names: Names, inventory: Inventory, host_keys: Mapping[str, Sequence[str]]) -> None:
    """Write known_hosts (each host under its public and its private address) and config (each under its name)."""
    known, config = [], []
    for host in inventory.hosts.values():
        for address in filter(None, (host.public, host.address)):
            place = str(address) if host.ssh.port == 22 else f"[{address}]:{host.ssh.port}"
            known += [f"{place} {key}\n" for key in host_keys[host.name]]
        config.append(f"Host {host.name}\n  HostName {host.public or host.address}\n")
        config.append(f"  User {host.ssh.user}\n  Port {host.ssh.port}\n")
        if not host.public and not inventory.is_gateway(host.name):
            config.append(f"  ProxyJump {inventory.gateway_of(host.site).name}\n")
    for name, lines in (("known_hosts", known), ("config", config)):
        path = names.ssh / name
        path.write_text("".join(lines), encoding="utf-8")
        path.chmod(0o600)


def command(names: Names, what: str | Sequence[str]) -> list[str]:
    """Return the command line that runs a shell line, or a program with arguments, on the admin workstation.

    Working directory, environment, input and output are the caller's; ~/.ssh is the lab's, whether a program asks the
    environment or, as OpenSSH does, the user database for the home. Our own Python's programs are on the path.
    """
    wanted = ["bash", "-c", what] if isinstance(what, str) else list(what)
    home = pwd.getpwuid(os.geteuid()).pw_dir
    net = f"--net={machine.NAMESPACES / names.admin}"
    tools = str(Path(sys.executable).parent)
    enter = ["nsenter", net, "unshare", "--mount", "--propagation", "slave", "sh", "-c", _ENTER, "sh"]
    return [*enter, str(names.ssh), home, tools, *wanted]


def shown(what: str | Sequence[str]) -> str:
    """Return a command as one line for messages."""
    return what if isinstance(what, str) else shlex.join(what)
