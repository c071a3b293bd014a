"""Real OpenSSH servers on loopback, each with its own host keys and a free port, for the tests of isthmus.remote."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from isthmus.model import Host, Inventory, Mesh, Site, Ssh
from isthmus.remote import Fleet

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:" + os.environ.get("PATH", ""))

needs_sshd = pytest.mark.skipif(
    SSHD is None or os.geteuid() != 0, reason="needs root and OpenSSH's server (apt install openssh-server)"
)


def make_key(path: Path, kind: str = "ed25519", *options: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path), *options], check=True)
    return path


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@cache
def penalties() -> tuple[str, ...]:
    """OpenSSH 9.8 and later shut out an address after failed logins, and ours are meant to fail."""
    said = subprocess.run([str(SSHD), "-T", "-o", "PerSourcePenalties=no"], check=False, capture_output=True, text=True)
    return () if "Bad configuration option" in said.stderr else ("PerSourcePenalties no",)


@dataclass
class Sshd:
    """One running sshd. `folder` holds its configuration, keys, log (`log`) and its users' home (`home`)."""

    folder: Path
    authorized: Path
    address: str = "127.0.0.1"
    options: tuple[str, ...] = ()
    key_kinds: tuple[str, ...] = ("ed25519",)
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> Sshd:
        (self.folder / "home").mkdir(parents=True, exist_ok=True)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd refuses to start without
        for kind in self.key_kinds:
            if not (self.folder / f"host_{kind}").exists():
                make_key(self.folder / f"host_{kind}", kind, *(("-b", "2048") if kind == "rsa" else ()))
        again = bool(self.port)
        for _ in range(5):  # another test's sshd may take the free port before ours does
            self.port = self.port if again else free_port(self.address)
            if self._listens():
                return self
        raise AssertionError(f"sshd does not start: {self.log}")

    def _listens(self) -> bool:
        config, log = self.folder / "sshd_config", self.folder / "log"
        config.write_text("\n".join(self._config()) + "\n")
        log.write_text("")
        self.process = subprocess.Popen([str(SSHD), "-D", "-f", str(config), "-E", str(log)])
        deadline = time.monotonic() + 30
        while f"Server listening on {self.address} port {self.port}" not in self.log:
            if self.process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _config(self) -> list[str]:
        return [
            f"ListenAddress {self.address}:{self.port}",
            *(f"HostKey {self.folder}/host_{kind}" for kind in self.key_kinds),
            f"AuthorizedKeysFile {self.authorized}",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PasswordAuthentication no",
            "LogLevel DEBUG",
            "MaxStartups 100",
            *penalties(),
            *self.options,
            # bash reads ~/.bashrc when sshd starts it: the one of the machine the tests run on is none of our business
            f"SetEnv HOME={self.folder}/home PATH={self.folder}/bin:/usr/bin:/bin",
        ]

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def public_key(self, kind: str = "ed25519") -> str:
        """`type base64`, as known_hosts writes it."""
        return " ".join((self.folder / f"host_{kind}.pub").read_text().split()[:2])

    def fingerprint(self, kind: str = "ed25519") -> str:
        """What ssh-keygen says the fingerprint is."""
        path = str(self.folder / f"host_{kind}.pub")
        return subprocess.run(["ssh-keygen", "-lf", path], check=True, capture_output=True, text=True).stdout.split()[1]

    @property
    def known_name(self) -> str:
        return f"[{self.address}]:{self.port}"


def inventory_of(
    hosts: dict[str, Sshd | tuple[str, int]], private: tuple[str, ...] = (), user: str = "root", gateways: int = 1
) -> Inventory:
    """One site with these hosts, the first its gateways; those of `private` have no public address."""
    places = {name: (place.address, place.port) if isinstance(place, Sshd) else place for name, place in hosts.items()}
    site = Site("lo", IPv4Network("127.0.0.0/8"), tuple(hosts)[:gateways])
    return Inventory(
        source="hosts.toml",
        mesh=Mesh(IPv4Network("127.0.0.0/8")),
        ssh=Ssh(),
        sites={"lo": site},
        hosts={
            name: Host(
                name,
                "lo",
                address=IPv4Address(address if name in private else f"127.9.9.{number}"),
                public=None if name in private else IPv4Address(address),
                ssh=Ssh(user, port),
            )
            for number, (name, (address, port)) in enumerate(places.items(), 1)
        },
    )


@dataclass
class Bench:
    """A folder with a key pair that opens every sshd made here, a known_hosts and an ssh_config."""

    folder: Path
    servers: list[Sshd] = field(default_factory=list)

    def __post_init__(self) -> None:
        make_key(self.folder / "id")

    def sshd(self, **options: object) -> Sshd:
        folder = self.folder / f"sshd{len(self.servers)}"
        folder.mkdir()
        server = Sshd(folder, self.folder / "id.pub", **options)  # type: ignore[arg-type]
        self.servers.append(server)
        return server.start()

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def write_known_hosts(self, *servers: Sshd) -> Path:
        path = self.folder / "known_hosts"
        path.write_text("".join(f"{server.known_name} {server.public_key()}\n" for server in servers))
        return path

    def fleet(self, inventory: Inventory, ssh_config: str = "", **options: object) -> Fleet:
        """A fleet that knows all servers of the bench, unless told otherwise, and nothing of this machine's ~/.ssh."""
        if "known_hosts" not in options:
            options["known_hosts"] = self.write_known_hosts(*self.servers)
        options.setdefault("connect_timeout", 5)
        config = self.folder / "ssh_config"
        config.write_text(f"{ssh_config}\nHost *\n  IdentityFile {self.folder}/id\n  IdentityAgent none\n")
        return Fleet(inventory, ssh_config=(config,), system_known_hosts=(), **options)  # type: ignore[arg-type]
