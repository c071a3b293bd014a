"""The admin workstation: its ~/.ssh, the names it knows, and the way commands run there."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from isthmus.lab import machine
from isthmus.lab.layout import Names
from isthmus.model import Inventory

_ENTER = """set -eu
ssh=$1; hosts=$2; home=$3; tools=$4; shift 4
mount --bind "$hosts" /etc/hosts
for folder in "$home" "${HOME:-$home}"; do
  [ -d "$folder" ] || continue
  [ -d "$folder/.ssh" ] || mkdir -m 700 "$folder/.ssh"
  mount --bind "$ssh" "$folder/.ssh"
done
unset SSH_AUTH_SOCK
case ":${PATH:-}:" in *":$tools:"*) ;; *) export PATH="$tools:${PATH:-/usr/sbin:/usr/bin:/sbin:/bin}" ;; esac
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


def write_names(names: Names, inventory: Inventory, host_keys: Mapping[str, Sequence[str]]) -> None:
    """Write what the workstation knows of the hosts: known_hosts, and /etc/hosts for those with a public address.

    There is no ~/.ssh/config: what Isthmus does by itself is not to be done for it.
    """
    known, addresses = [], []
    for host in inventory.hosts.values():
        places = [str(address) for address in (host.public, host.address) if address]
        if host.public:
            names_of_it = [host.name, *filter(None, [host.public_name])]
            places += names_of_it
            addresses.append(f"{host.public} {' '.join(names_of_it)}\n")
        if host.ssh.port != 22:
            places = [f"[{place}]:{host.ssh.port}" for place in places]
        known += [f"{','.join(places)} {key}\n" for key in host_keys[host.name]]
    path = names.ssh / "known_hosts"
    path.write_text("".join(known), encoding="utf-8")
    path.chmod(0o600)
    machines = Path("/etc/hosts").read_text(encoding="utf-8")
    names.hosts_file.write_text(f"{machines}\n{''.join(addresses)}", encoding="utf-8")


def command(names: Names, what: str | Sequence[str]) -> list[str]:
    """Return the command line that runs a shell line, or a program with arguments, on the admin workstation.

    Working directory, environment, input and output are the caller's; ~/.ssh is the lab's, whether a program asks the
    environment or, as OpenSSH does, the user database for the home; hosts with a public address are known by name. Our
    own Python's programs are on the path.
    """
    wanted = ["bash", "-c", what] if isinstance(what, str) else list(what)
    home = pwd.getpwuid(os.geteuid()).pw_dir
    net = f"--net={machine.NAMESPACES / names.admin}"
    tools = str(Path(sys.executable).parent)
    enter = ["nsenter", net, "unshare", "--mount", "--propagation", "slave", "sh", "-c", _ENTER, "sh"]
    return [*enter, str(names.ssh), str(names.hosts_file), home, tools, *wanted]
