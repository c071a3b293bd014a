"""The admin's side of a lab: an inventory file to edit, the real command line, and what hosts say of themselves.

admin = Admin(lab(options=HostOptions(packages=True)), tmp_path)
admin.edit("supernet", 'supernet = "172.16.0.0/12"\\nmtu = 1400')
admin.inv("mesh.up", code=0)
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isthmus.lab import Lab, State

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300
"""So long may anything take on a machine that many share; nothing is asserted about how long it took."""


def until(condition: Callable[[], Any], what: str | Callable[[], str]) -> Any:
    """Return the condition's first true value; fail with `what` when there is none for a long time."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for: {what if isinstance(what, str) else what()}"
        time.sleep(0.05)
    return value


class Admin:
    """Someone with a folder that holds hosts.toml (and known_hosts, if the program writes one), and a lab."""

    def __init__(self, lab: Lab, folder: Path, text: str | None = None) -> None:
        self.lab = lab
        self.file = folder / "hosts.toml"
        self.file.write_text(text or (ROOT / "hosts.toml").read_text(encoding="utf-8"), encoding="utf-8")

    # --- the inventory --------------------------------------------------------------------------------------------

    def with_mtu(self, mtu: int) -> None:
        """Ask for another MTU: a change on every host, harmless to packets that are small."""
        text = re.sub(r"^mtu .*\n", "", self.file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        self.file.write_text(text.replace("[mesh]\n", f"[mesh]\nmtu = {mtu}\n"), encoding="utf-8")

    def beside(self, name: str, *replacements: tuple[str, str], more: str = "") -> Path:
        """Write another inventory beside hosts.toml: the same text with these replacements and more at the end."""
        text = self.file.read_text(encoding="utf-8")
        for old, new in replacements:
            assert old in text, old
            text = text.replace(old, new)
        path = self.file.with_name(name)
        path.write_text(text + more, encoding="utf-8")
        return path

    # --- the command line -----------------------------------------------------------------------------------------

    def command(self, line: str, file: Path | None = None) -> list[str]:
        """Return `inv LINE` with our inventory as a command line."""
        return ["inv", *shlex.split(line), "-f", str(file or self.file)]

    def inv(
        self,
        line: str,
        file: Path | None = None,
        *,
        code: int | None = None,
        env: Mapping[str, str] | None = None,
        patience: float = PATIENCE_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run it on the workstation, for `patience` seconds; `code` is what it must end with, if given."""
        environment = {**os.environ, **(env or {})}
        command = self.command(line, file)
        result = self.lab.run(command, capture=True, cwd=ROOT, env=environment, timeout=patience, text="")
        assert "Traceback" not in result.stdout + result.stderr, result.stderr
        if code is not None:
            assert result.returncode == code, f"{line}: {result.returncode}\n{result.stdout}{result.stderr}"
        return result

    def json(self, line: str, file: Path | None = None, *, code: int | None = None) -> Any:
        """Run it with --json and return what it printed."""
        return json.loads(self.inv(f"{line} --json", file, code=code).stdout)

    def patience(self, line: str, file: Path | None = None) -> int:
        """Run it, which must be well, and return seconds in which this machine, as busy as it is, surely does it."""
        began = time.monotonic()
        self.inv(line, file, code=0)
        return 10 + 4 * int(time.monotonic() - began)

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        """Start a program on the workstation; the process is the program itself, its output is ours to read."""
        return subprocess.Popen(
            self.lab.admin_command(command),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_pausing(self, line: str, file: Path | None = None) -> subprocess.Popen[str]:
        """Start `inv LINE` that stops itself (SIGSTOP) when all hosts are changed, none confirmed; wait for that."""
        _, *arguments = self.command(line, file)
        process = self.start([sys.executable, "-W", "ignore", str(Path(__file__).with_name("pausing.py")), *arguments])
        until(lambda: process.poll() is not None or _state(process.pid) == "T", f"{line} to pause")
        assert process.poll() is None, process.communicate()
        return process

    def pings(self, file: Path | None = None) -> None:
        """Every member reaches every member and every resource."""
        pairs = self.json("check.ping --count 1", file, code=0)["pairs"]
        assert [pair for pair in pairs if not pair["delivered"]] == []

    def waiting(self, file: Path | None = None) -> dict[str, list[Any]]:
        """Return the changes that mesh.plan finds, by host."""
        report = self.json("mesh.plan", file)
        assert report["failures"] == {}, report["failures"]
        hosts: dict[str, list[Any]] = report["hosts"]
        return hosts

    # --- the hosts ------------------------------------------------------------------------------------------------

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of the lab's hosts."""
        return tuple(self.lab.inventory.hosts)

    def said(self, host: str, command: str) -> str:
        """Return what a command prints on a host, without the last line's end; it must end 0."""
        result = self.lab.host_run(host, command, timeout=PATIENCE_S)
        assert result.returncode == 0, f"{host}: {command}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    @contextmanager
    def planted(self, program: str, script: str, *hosts: str) -> Iterator[None]:
        """While inside, a program of these hosts does something first: `script`, which may exit and be all it does."""
        real = f"real=$(PATH=/usr/sbin:/usr/bin:/sbin:/bin command -v {program})"
        text = f'#!/bin/sh\n{real}\n{script}\nexec "$real" "$@"\n'
        path = f"/usr/local/bin/{program}"
        for host in hosts:
            write = f"cat >{path}.new && chmod 755 {path}.new && mv {path}.new {path}"
            assert self.lab.host_run(host, write, text=text).returncode == 0
        try:
            yield
        finally:
            for host in hosts:
                self.lab.host_run(host, f"rm {path}")

    def with_running_mtu(self, mtu: int) -> list[str]:
        """Return the hosts whose wg0 has this MTU now."""
        has = {host: self.lab.host_run(host, "cat /sys/class/net/wg0/mtu").stdout.strip() for host in self._alive()}
        return [host for host, value in has.items() if value == str(mtu)]

    def mark(self, host: str) -> Callable[[], str]:
        """Return a function that returns what the host's sshd has logged since now."""
        cursor = self.said(host, "journalctl --sync; journalctl -q -n 0 --show-cursor").split("cursor: ")[1]
        command = f"journalctl --sync; journalctl -q -u ssh -o cat --after-cursor='{cursor}'"
        return lambda: self.said(host, command)

    def unsettled(self) -> dict[str, str]:
        """Return what is going on at which hosts: a script of ours runs, a transaction or its timer is still there."""
        script = """pgrep -af '[i]sthmus: the script begins' | cut -c 1-40
            [ ! -e /var/lib/isthmus/transaction ] || echo transaction $(ls /var/lib/isthmus/transaction)
            systemctl -q is-active isthmus-undo.timer && echo timer
            systemctl -q is-active isthmus-undo.service && echo service"""
        found = {host: self.lab.host_run(host, script).stdout for host in self._alive()}
        return {host: text for host, text in found.items() if text}

    def settle(self) -> None:
        """Wait until every host has either confirmed or undone what was begun there."""
        last: dict[str, str] = {}

        def settled() -> bool:
            last.clear()
            last.update(self.unsettled())
            return not last

        until(settled, lambda: f"transactions to end: {last}")

    def _alive(self) -> list[str]:
        """Return the hosts that are switched on, whether sshd answers or not."""
        return [host for host, state in self.lab.status().hosts.items() if state in (State.UP, State.STARTING)]


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
