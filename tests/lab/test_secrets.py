"""Private keys stay on their hosts; what the program prints, logs, writes, sends and runs never holds one."""

from __future__ import annotations

import mmap
import os
import re
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from workstation import ROOT, Admin

from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions

pytestmark = pytest.mark.lab

# in no file, not even in this one
PASSWORD = f"shibboleth-{secrets.token_hex(8)}"
WRONG = f"sibboleth-{secrets.token_hex(8)}"


SHARING = {"n1": "s1", "s1": "n1"}
"""Who has a preshared key, and with whom."""


class Needles:
    """The secrets looked for. Never shown, not by a failing test either."""

    def __init__(self) -> None:
        self._secrets: dict[bytes, str] = {PASSWORD.encode(): "sudo password", WRONG.encode(): "wrong sudo password"}

    def __repr__(self) -> str:
        return f"<{len(self._secrets)} secrets>"

    def learn(self, admin: Admin) -> None:
        """Read every private key there is in the lab now; one a host, each of its own."""
        shared = {
            admin.lab.host_run(host, f"cat /etc/wireguard/wg0.psk/{other}").stdout.strip()
            for host, other in SHARING.items()
        }
        alike = len(shared) == 1 and re.fullmatch("[A-Za-z0-9+/]{43}=", next(iter(shared))) is not None
        assert alike, "the gateways do not share a key"
        self._secrets |= {key.encode(): "preshared key" for key in shared}
        before = len(self._secrets)
        for host in admin.hosts:
            key = admin.lab.host_run(host, "cat /etc/wireguard/wg0.key").stdout.strip()
            good = re.fullmatch("[A-Za-z0-9+/]{43}=", key) is not None
            assert good, f"{host} has no key"
            self._secrets[key.encode()] = f"key of {host}"
        new = len(self._secrets) - before
        assert new == len(admin.hosts), "keys are not each of its own"

    def found_in(self, data: bytes | mmap.mmap, *, keys_only: bool = False) -> list[str]:
        """Return which secrets are in there."""
        found = [what for secret, what in self._secrets.items() if data.find(secret) >= 0]
        return [what for what in found if not keys_only or what.startswith("key of")]

    def found_below(self, folder: Path, since: float = 0, skip: Iterable[str] = ()) -> list[str]:
        """Return which secrets are in which files that were written since then."""
        found = []
        for path, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if name not in skip]
            for name in names:
                file = Path(path, name)
                try:
                    if file.is_symlink() or not file.is_file() or file.stat().st_mtime < since:
                        continue
                    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                        found += [f"{what} in {file}" for what in self.found_in(data)]
                except (OSError, ValueError):
                    continue  # it is gone, or empty
        return found


class Watch:
    """Notes the command line of every process of this machine, the lab's hosts included, while it is on."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            for entry in os.scandir("/proc"):
                if entry.name.isdigit():
                    try:
                        self.seen.add(Path(entry.path, "cmdline").read_bytes())
                    except OSError:
                        continue  # it has ended


class Tapped(Admin):
    """An admin whose every word is kept: what was printed, and what went over SSH."""

    def __init__(self, lab: Any, folder: Path, text: str) -> None:
        super().__init__(lab, folder, text)
        self.printed: list[tuple[str, str]] = []
        self.tape = folder / "wiretap" / "tape"  # holds the password, which sudo must be given
        self.tape.parent.mkdir()
        os.environ["WIRETAP"] = str(self.tape)

    def command(self, line: str, file: Path | None = None) -> list[str]:
        program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("wiretap.py"))]
        return [*program, *super().command(line, file)[1:]]

    def inv(self, line: str, file: Path | None = None, **how: Any) -> Any:
        how["env"] = {"INVOKE_SUDO_PASSWORD": PASSWORD, **how.get("env", {})}
        result = super().inv(line, file, **how)
        self.printed.append((line, result.stdout + result.stderr))
        return result


LOG_ARGV = """#!/bin/sh
echo "$0 $*" >>/root/argv
[ "${0##*/}" != ln ] || stat -c 'made with mode %a' "$1" >>/root/argv
exec "/usr/bin/${0##*/}" "$@"
"""


@pytest.fixture(scope="module")
def story(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tapped, Needles, Watch, float]]:
    """All that can be done with the program was done, in good days and bad, and everything was watched."""
    since = time.time() - 1
    folder = tmp_path_factory.mktemp("secrets")
    text = (ROOT / "hosts.toml").read_text(encoding="utf-8").replace('user = "root"', 'user = "debian"')
    text = text.replace("[mesh]\n", "[mesh]\npreshared_keys = true\n")
    (folder / "lab.toml").write_text(text, encoding="utf-8")
    options = HostOptions(packages=True, sudo_password=PASSWORD)
    admin = Tapped(lab(load_inventory(folder / "lab.toml"), options), folder, text)
    needles = Needles()
    for host in admin.hosts:
        for program in ("wg", "ln"):
            path = f"/usr/local/bin/{program}"
            admin.lab.host_run(host, f"cat >{path}; chmod 755 {path}", text=LOG_ARGV)
    with Watch() as watch:
        good_days(admin, needles)
        bad_days(admin)
        admin.inv("mesh.down --debug --forget-keys", code=0)
        admin.inv("mesh.up --debug", code=0)
        needles.learn(admin)
        admin.inv("mesh.up --json", code=0)
        rotations(admin, needles)
    yield admin, needles, watch, since
    del os.environ["WIRETAP"]


def good_days(admin: Tapped, needles: Needles) -> None:
    admin.inv(f"mesh.render --out {admin.file.parent}/rendered", code=0)
    admin.inv("mesh.plan --debug", code=4)
    admin.inv("mesh.up --debug", code=0)
    needles.learn(admin)
    for line in ("mesh.plan", "mesh.status", "check.ping", "check.path"):
        admin.inv(f"{line} --debug", code=0)
        admin.inv(f"{line} --json", code=0)
    admin.inv("-d mesh.plan", code=0)  # Invoke's own debugging
    admin.inv("mesh.down", code=0)
    admin.inv("mesh.up --json --debug", code=0)


def rotations(admin: Tapped, needles: Needles) -> None:
    """Keys that were replaced, new ones, and new ones that were given up again."""
    admin.inv("mesh.rotate-keys --debug", code=0)
    needles.learn(admin)
    admin.inv("mesh.rotate-keys --json", code=0)
    needles.learn(admin)
    with admin.planted("xargs", 'case "$*" in *"echo wg set"*) exit 1 ;; esac', "s1"):
        admin.inv("mesh.rotate-keys --debug", code=1)


def spoil(admin: Tapped, host: str, script: str) -> None:
    """Edit wg0.conf (`lines`) on a host, the key at hand (`key`); what does so has neither in its command line."""
    program = f"""
key = open("/etc/wireguard/wg0.key").read().strip()
lines = open("/etc/wireguard/wg0.conf").read().splitlines()
{script}
open("/etc/wireguard/wg0.conf", "w").write("\\n".join(lines) + "\\n")
"""
    result = admin.lab.host_run(host, ["python3", "-"], text=program)
    assert result.returncode == 0, result.stderr


def bad_days(admin: Tapped) -> None:
    """What is found where it should not be, what fails, and who is not let in."""
    # keys where none of ours are: in the file, in comments, in commands, in the kernel
    spoil(admin, "n2", 'lines.insert(2, f"PrivateKey = {key}"); lines += [f"#PrivateKey = {key}", f"# old: {key}"]')
    spoil(admin, "n2", 'lines += [f"PostUp = echo {key}", f"PresharedKey={key}", f"  privatekey={key}", key]')
    admin.said("n3", "wg set wg0 peer $(wg show wg0 peers) preshared-key /etc/wireguard/wg0.key")
    for line in ("mesh.plan", "mesh.plan --json", "mesh.status", "mesh.status --json"):
        admin.inv(line)
    admin.inv("mesh.up --debug", code=0)
    admin.inv("mesh.plan", code=0)

    # a file of somebody else with the same key in it; a key that is none; a change that does not take
    spoil(admin, "n2", 'lines[0] = f"PrivateKey = {key}"')
    admin.said("n3", "cp -p /etc/wireguard/wg0.key /root/; echo x >>/etc/wireguard/wg0.key")
    admin.with_mtu(1400)
    with admin.planted("ip", 'case "$*" in "link set mtu 1400"*) exit 1 ;; esac', "s1"):
        for line in ("mesh.plan --debug", "mesh.up --debug", "mesh.up --json", "mesh.status --debug"):
            admin.inv(line, code=1)
    admin.said("n2", "rm /etc/wireguard/wg0.conf")
    admin.said("n3", "mv /root/wg0.key /etc/wireguard/wg0.key")
    admin.inv("mesh.up --debug", code=0)

    result = admin.inv("mesh.plan --debug", code=1, env={"INVOKE_SUDO_PASSWORD": WRONG})
    assert result.stderr.count("sudo does not take the password given for debian") == len(admin.hosts)
    admin.lab.stop("s1")
    admin.inv("mesh.up --debug", code=1)
    admin.lab.start("s1")


Story = tuple[Tapped, Needles, Watch, float]


def test_nothing_printed_holds_a_secret(story: Story) -> None:
    admin, needles, _, _ = story
    assert len(admin.printed) > 25
    assert any("(hidden)" in text for _, text in admin.printed)
    assert [(line, found) for line, text in admin.printed if (found := needles.found_in(text.encode()))] == []


def test_no_private_key_crosses_the_wire(story: Story) -> None:
    admin, needles, _, _ = story
    tape = admin.tape.read_bytes()
    assert b"isthmus: the script begins" in tape
    assert b"PublicKey = " in tape
    assert needles.found_in(tape, keys_only=True) == []


def test_nothing_written_on_the_workstation_holds_a_secret(story: Story) -> None:
    admin, needles, _, since = story
    assert (admin.file.parent / "rendered/n1/etc/wireguard/wg0.conf").exists()
    temporary = (Path(tempfile.gettempdir()), Path("/var/tmp"))  # with the folder of hosts.toml, and what was rendered
    for folder in (ROOT, Path.home(), admin.lab.names.ssh, *temporary):
        assert needles.found_below(folder, since, skip=("wiretap", ".venv", ".git")) == []


def test_no_command_line_holds_a_secret_neither_here_nor_on_a_host(story: Story) -> None:
    admin, needles, watch, _ = story
    assert any(b"mesh.up" in line for line in watch.seen)
    assert any(b"isthmus: the script begins" in line for line in watch.seen)  # on a host
    assert needles.found_in(b"\n".join(watch.seen)) == []
    for host in admin.hosts:
        argv = admin.said(host, "cat /root/argv")  # too short-lived to be seen from here
        assert "wg set wg0 peer" in argv
        assert needles.found_in(argv.encode()) == []


def test_keys_are_made_on_the_host_for_root_alone(story: Story) -> None:
    admin, _, _, _ = story
    for host in admin.hosts:
        assert admin.said(host, "stat -c '%a %U' /etc/wireguard /etc/wireguard/wg0.key") == "700 root\n600 root"
        assert admin.said(host, "ls -A /etc/wireguard").split() == [
            "wg0.conf",
            "wg0.key",
            *["wg0.psk"] * (host in SHARING),
        ]
        if host in SHARING:
            assert (
                admin.said(host, "stat -c '%a %U' /etc/wireguard/wg0.psk /etc/wireguard/wg0.psk/*")
                == "700 root\n600 root"
            )
        argv = admin.said(host, "cat /root/argv")
        assert argv.count("wg genkey") == 5  # with --forget-keys between, and three rotations
        assert argv.count("made with mode 600") == argv.count("made with mode") == 2  # before it had its name
        same = '[ "$(wg pubkey </etc/wireguard/wg0.key)" = "$(wg show wg0 public-key)" ]'
        admin.said(host, same)


def test_on_a_host_the_key_is_in_one_file_and_the_password_in_none(story: Story) -> None:
    admin, needles, _, _ = story
    for host in admin.hosts:
        disk = admin.lab.names.host_root(host) / "upper"
        shared = [f"preshared key in {disk}/etc/wireguard/wg0.psk/{SHARING[host]}"] if host in SHARING else []
        assert sorted(needles.found_below(disk)) == sorted([f"key of {host} in {disk}/etc/wireguard/wg0.key", *shared])
        leader = admin.lab._guest(host).leader()
        for memory in ("run", "tmp", "dev/shm"):
            assert needles.found_below(Path(f"/proc/{leader}/root/{memory}")) == []
