"""One host of the lab: its disk (an overlay over an image), its start, its end, and a way in that is not SSH."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from isthmus.errors import LabError
from isthmus.lab import cgroups, disk, machine
from isthmus.lab.layout import Names, Port

_BOOT = Path(__file__).parent / "files/boot.sh"
_HALT = signal.SIGRTMIN + 3
"""What systemd as process 1 takes as the wish to halt (man 1 systemd, "Signals")."""
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Guest:
    """One host of one lab, as far as this machine knows it."""

    def __init__(self, names: Names, host: str) -> None:
        self.name = host
        self._namespace = names.host(host)
        self._lab = names.name
        self._unit = f"host.{host}"
        self._run = names.host_run(host)
        self._disk = names.host_root(host)

    @property
    def console(self) -> Path:
        """The file with what the host printed since it was switched on."""
        return self._run / "console"

    def host_keys(self) -> tuple[str, ...]:
        """Return the host's public SSH keys as `TYPE BASE64`."""
        paths = (self._disk / f"upper/etc/ssh/ssh_host_{kind}_key.pub" for kind in disk.HOST_KEY_TYPES)
        return tuple(" ".join(path.read_text(encoding="ascii").split()[:2]) for path in paths)

    def has_disk(self, stamp: str) -> bool:
        """Return whether the host has a whole disk that was made with this stamp."""
        return _holds(self._disk / "stamp", stamp)

    def make_disk(self, stamp: str, files: Mapping[str, disk.File], layers: Sequence[Path]) -> None:
        """Make the host, which is off, a new disk and SSH keys of its own. The stamp comes last: without it the disk
        is not whole."""
        self.remove_disk()
        upper = self._disk / "upper"
        upper.mkdir(parents=True)
        disk.write(upper, files, layers)
        disk.make_host_keys(upper, self.name)
        (self._disk / "stamp").write_text(stamp, encoding="utf-8")

    def remove_disk(self) -> None:
        """Forget what the host, which is off, has on its disk."""
        shutil.rmtree(self._disk, ignore_errors=True)

    def configure(self, port: Port, layers: Sequence[Path], *, unified: bool, containers: bool) -> None:
        """Decide what the host, which is off, will be switched on with: this NIC, these layers below its disk.

        `unified` gives it cgroup v2 alone on a machine that also has v1; with `containers` it may run some of its own.
        """
        data = self._disk / "containers"
        if containers:
            data.mkdir(parents=True, exist_ok=True)
        (self._run / "root").mkdir(parents=True, exist_ok=True)
        settings = {
            "MACHINE": f"{self._lab}.{self.name}",
            "HOST": self.name,
            "NAMESPACE": self._namespace,
            "LOWER": ":".join(map(str, layers)),
            "DISK": str(self._disk),
            "UNIFIED": "1" if unified else "",
            "CONTAINERS": str(data) if containers else "",
        }
        text = "".join(f"{key}={shlex.quote(value)}\n" for key, value in settings.items())
        (self._run / "settings").write_text(text, encoding="utf-8")
        (self._run / "wire").write_text(_script(port), encoding="utf-8")

    def is_configured(self, port: Port) -> bool:
        """Return whether this is the NIC the host is switched on with."""
        return _holds(self._run / "wire", _script(port))

    def switch_on(self) -> None:
        """Switch the host, which is off, on; returns at once. LabError when it was never configured."""
        if not (self._run / "settings").is_file():
            raise LabError(f"{self.name} is not built; inv lab.up builds it")
        folders = cgroups.make(self._lab, self._unit)
        with self.console.open("w", encoding="utf-8") as console:
            subprocess.run(
                ["setsid", "--fork", "sh", str(_BOOT), str(self._run), *map(str, folders)],  # it outlives us
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=machine.environment(),
            )

    def stop(self, *, seconds: float = 0) -> None:
        """Shut the host down in order; after `seconds`, for 0 at once, cut its power. Its NIC goes with it."""
        deadline = time.monotonic() + seconds
        if seconds and (leader := self.leader()):
            with suppress(ProcessLookupError):
                os.kill(leader, _HALT)
            while self.alive() and time.monotonic() < deadline:
                time.sleep(0.05)
        cgroups.end(self._lab, self._unit)
        machine.delete_namespace(self._namespace)

    def alive(self) -> bool:
        """Return whether the host is switched on, started up or not."""
        return bool(cgroups.processes(self._lab, self._unit))

    def leader(self) -> int | None:
        """Return this machine's number for the host's process 1; None when the host is off or has none yet."""
        for pid in sorted(cgroups.processes(self._lab, self._unit)):
            with suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
                numbers = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
                if len(numbers) == 2 and numbers[1] == "1":
                    return pid
        return None

    def admits_users(self) -> bool:
        """Return whether the host has started far enough that others than root may log in (man 8 pam_nologin)."""
        leader = self.leader()
        return leader is not None and not Path(f"/proc/{leader}/root/run/nologin").exists()

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command line that runs `command` in the host as root, in /root. LabError when the host is off."""
        leader = self.leader()
        if leader is None:
            raise LabError(f"{self.name} is off")
        spaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd")
        clean = ("env", "-i", "--chdir=/root", _PATH, "HOME=/root", "LANG=C.UTF-8", "TERM=dumb")
        return ["nsenter", f"--target={leader}", *spaces, *clean, *command]

    def run(self, command: Sequence[str], text: str | None, timeout: float | None) -> subprocess.CompletedProcess[str]:
        """Run `command` in the host with `text` as its input; output is captured. subprocess.TimeoutExpired.

        A host that shuts down stops every process for a moment (systemd-shutdown); nsenter then stops itself and would
        wait for ever for somebody to tell it to go on.
        """
        argv = self.command(command)
        with tempfile.TemporaryFile("w+") as source:
            source.write(text or "")
            source.seek(0)
            stdin = None if text is None else source
            with subprocess.Popen(
                argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process:
                return _awaited(process, timeout)


def _awaited(process: subprocess.Popen[str], timeout: float | None) -> subprocess.CompletedProcess[str]:
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            out, err = process.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGCONT)
            if deadline is not None and time.monotonic() > deadline:
                process.kill()
                raise
            continue
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _script(port: Port) -> str:
    return "".join(f"{line}\n" for line in port.wiring())


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text
