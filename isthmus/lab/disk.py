"""What makes an image one particular host: the files laid over it before its first start."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from isthmus.lab import cgroups, kubernetes, machine
from isthmus.lab.options import HostOptions
from isthmus.model import Host

HOST_KEY_TYPES = ("ed25519", "ecdsa")

_USER_ID = 1000

_DOCKER_UNIT = """[Unit]
Description=what Docker leaves on a host
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-docker

[Install]
WantedBy=multi-user.target
"""
_DOCKER = """#!/bin/sh
# What dockerd does to a host's network when it starts (Docker 24, no container running).
set -eu
ip link add docker0 type bridge
ip address add 172.17.0.1/16 brd 172.17.255.255 dev docker0
ip link set docker0 up
echo 1 >/proc/sys/net/ipv4/ip_forward
iptables-restore --noflush <<'RULES'
*filter
:FORWARD DROP
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
RULES
"""


@dataclass(frozen=True)
class File:
    """One file to lay over an image. With `link` it is a symbolic link to there."""

    text: str = ""
    mode: int = 0o644
    owner: int = 0
    link: str | None = None


def packages(options: HostOptions) -> tuple[str, ...]:
    """Return the packages that are installed from the start, beyond those of a bare host."""
    if options.packages:
        return ("wireguard-tools", "iptables", "iputils-ping")
    return ("iptables",) if options.docker else ()


def files(host: Host, options: HostOptions, layers: Sequence[Path], admin_key: str) -> dict[str, File]:
    """Return what makes these layers (topmost first) this host; the owner of `admin_key` may log in."""
    user = host.ssh.user
    filters = [f"net.ipv4.conf.{name}.rp_filter = {options.rp_filter}\n" for name in ("all", "default", options.nic)]
    found = {
        "etc/hostname": File(f"{host.name}\n"),
        "etc/hosts": File(f"127.0.0.1 localhost\n127.0.1.1 {host.name}\n::1 localhost ip6-localhost\n"),
        "etc/machine-id": File(hashlib.sha256(f"{admin_key}{host.name}".encode()).hexdigest()[:32] + "\n", 0o444),
        "etc/sysctl.d/60-lab.conf": File("".join(filters)),
        "etc/ssh/sshd_config.d/lab.conf": File(f"Port {host.ssh.port}\n"),
    }
    if user == "root":
        found["root/.ssh/authorized_keys"] = File(admin_key, 0o600)
    else:
        found |= _login(user, options.sudo_password, layers, admin_key)
    if options.docker:
        found["usr/local/sbin/lab-docker"] = File(_DOCKER, 0o755)
        found["etc/systemd/system/lab-docker.service"] = File(_DOCKER_UNIT)
        found["etc/systemd/system/multi-user.target.wants/lab-docker.service"] = File(link="../lab-docker.service")
    if options.kubernetes:
        found |= {path: File(text, mode) for path, (text, mode) in kubernetes.files(cgroup_v1=cgroups.has_v1()).items()}
    return found


def stamp(wanted: Mapping[str, File], options: HostOptions, layers: Sequence[Path]) -> str:
    """Return what a disk is recognised by: it changes with anything that would be laid over the layers."""
    salted = "etc/shadow"  # another text each time, for the same password
    rest = {path: file for path, file in wanted.items() if path != salted}
    return hashlib.sha256(repr((rest, options.sudo_password, tuple(layers))).encode()).hexdigest()


def write(upper: Path, wanted: Mapping[str, File], layers: Sequence[Path]) -> None:
    """Write files into an overlay's upper folder; folders that are in the layers keep their mode and owner."""
    for path, file in wanted.items():
        target = upper / path
        for parent in reversed(Path(path).parents):
            _make_folder(upper, parent, file.owner, layers)
        if file.link is not None:
            target.symlink_to(file.link)
            continue
        target.write_text(file.text, encoding="utf-8")
        target.chmod(file.mode)
        os.chown(target, file.owner, file.owner)


def make_host_keys(upper: Path, host: str) -> None:
    """Make a host's SSH keys; `etc/ssh` is there already."""
    for kind in HOST_KEY_TYPES:
        key = upper / f"etc/ssh/ssh_host_{kind}_key"
        machine.execute("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", f"root@{host}", "-f", str(key))


def _make_folder(upper: Path, path: Path, owner: int, layers: Sequence[Path]) -> None:
    folder = upper / path
    if folder.is_dir():
        return
    folder.mkdir()
    for layer in layers:
        if (layer / path).is_dir():
            shutil.copystat(layer / path, folder)
            status = (layer / path).stat()
            os.chown(folder, status.st_uid, status.st_gid)
            return
    folder.chmod(0o700 if path.name == ".ssh" else 0o755)
    os.chown(folder, owner, owner)


def _login(user: str, password: str | None, layers: Sequence[Path], admin_key: str) -> dict[str, File]:
    """Return what adds a login user who may use sudo: with a password or, for None, without."""
    hashed = "*" if password is None else machine.execute("openssl", "passwd", "-6", "-stdin", text=password).strip()
    lines = {
        "etc/passwd": (f"{user}:x:{_USER_ID}:{_USER_ID}::/home/{user}:/bin/bash\n", 0o644),
        "etc/group": (f"{user}:x:{_USER_ID}:\n", 0o644),
        "etc/shadow": (f"{user}:{hashed}:19000:0:99999:7:::\n", 0o600),
    }
    found = {
        path: File(next((layer / path).read_text() for layer in layers if (layer / path).is_file()) + line, mode)
        for path, (line, mode) in lines.items()
    }
    how = "ALL" if password is not None else "NOPASSWD: ALL"
    found["etc/sudoers.d/lab"] = File(f"{user} ALL=(ALL:ALL) {how}\n", 0o440)
    found[f"home/{user}/.ssh/authorized_keys"] = File(admin_key, 0o600, _USER_ID)
    return found
