"""The machine the lab stands on: programs, kernel, network namespaces, locks. Knows nothing of sites and hosts."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from isthmus.errors import LabError

NAMESPACES = Path("/run/netns")

_PACKAGES = {
    "apt-ftparchive": "apt-utils",
    "bash": "bash",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "ssh": "openssh-client",
    "systemd-nspawn": "systemd-container",
}
"""Program -> the Debian package that brings it."""

_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_INOTIFY_INSTANCES = 4096
"""All of root's processes share the kernel's usual 128, and each systemd takes about ten of them."""

_MODULES = (
    "overlay",
    "bridge",
    "veth",
    "tun",
    "wireguard",
    "nf_tables",
    "nft_ct",
    "nft_nat",
    "nft_compat",
    "br_netfilter",
    "vxlan",
)
"""Kernel modules the lab and its hosts use. Those a kernel has built in, or does not have, are passed over."""


def missing_requirements() -> tuple[str, ...]:
    """Return the Debian packages the lab needs and this machine lacks, sorted; `apt-get install` takes them."""
    return tuple(sorted({package for program, package in _PACKAGES.items() if not shutil.which(program, path=_path())}))


def check_root() -> None:
    """Raise LabError unless we are root."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root (network namespaces, mounts); run it as root or with sudo")


def check_machine() -> None:
    """Raise LabError unless this is a Debian machine, we are root and every program is there."""
    check_root()
    if not Path("/etc/apt").is_dir():
        raise LabError("the lab needs a Debian machine: it builds its hosts from the machine's own apt sources")
    if missing := missing_requirements():
        names = " ".join(missing)
        raise LabError(f"the lab needs programs this machine lacks; install them: apt-get install {names}")


def prepare_kernel() -> None:
    """Load the modules the hosts use, since they share this kernel and cannot; lift a limit that four hosts reach."""
    if modprobe := shutil.which("modprobe", path=_path()):
        for module in _MODULES:
            subprocess.run([modprobe, "-q", module], check=False, capture_output=True)
    with suppress(OSError):
        if int(_INOTIFY.read_text(encoding="ascii")) < _INOTIFY_INSTANCES:
            _INOTIFY.write_text(str(_INOTIFY_INSTANCES), encoding="ascii")


def kernel_has_wireguard() -> bool:
    """Return whether this kernel makes WireGuard interfaces; tried in a namespace that is gone at once."""
    command = ["unshare", "--net", "ip", "link", "add", "wg-probe", "type", "wireguard"]
    return subprocess.run(command, check=False, capture_output=True, env=environment()).returncode == 0


def environment() -> dict[str, str]:
    """Return our environment for programs of the machine: the system folders on the path, messages in English."""
    return {**os.environ, "PATH": _path(), "LC_ALL": "C.UTF-8"}


def execute(*command: str, text: str | None = None) -> str:
    """Run a program of the machine with `text` as its input and return what it prints; LabError when it fails."""
    result = subprocess.run(command, input=text, check=False, capture_output=True, text=True, env=environment())
    if result.returncode:
        said = (result.stderr or result.stdout).strip()
        raise LabError(f"{' '.join(command)}: exit status {result.returncode}: {said}")
    return result.stdout


def batch(namespace: str, lines: Sequence[str]) -> None:
    """Run `ip` commands in a namespace, all in one process; the first that fails ends them with LabError."""
    execute("ip", "-n", namespace, "-batch", "-", text="\n".join(lines) + "\n")


def namespaces(prefix: str) -> tuple[str, ...]:
    """Return the names of network namespaces that begin with `prefix`, leftovers of a crash included."""
    if not NAMESPACES.is_dir():
        return ()
    return tuple(sorted(path.name for path in NAMESPACES.iterdir() if path.name.startswith(prefix)))


def namespace_alive(name: str) -> bool:
    """Return whether the name stands for a namespace; a bare file is left where /run outlives the machine."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return any(line.split()[4] == str(NAMESPACES / name) for line in mounts)


def add_namespace(name: str) -> None:
    """Make a network namespace, without IPv6; one of that name goes first."""
    delete_namespace(name)
    execute("ip", "netns", "add", name)
    batch(name, ["link set lo up"])
    set_sysctls(name, {"net.ipv6.conf.all.disable_ipv6": 1, "net.ipv6.conf.default.disable_ipv6": 1})


def delete_namespace(name: str) -> None:
    """Remove a network namespace and the interfaces in it; no word when there is none."""
    path = NAMESPACES / name
    if path.exists():
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, env=environment())
    path.unlink(missing_ok=True)


def set_sysctls(namespace: str, values: dict[str, int]) -> None:
    """Set sysctls inside a namespace; those this kernel does not have are passed over."""
    assignments = [f"{key}={value}" for key, value in values.items()]
    execute("ip", "netns", "exec", namespace, "sysctl", "-eqw", *assignments)


def end_namespaces(names: Sequence[str]) -> None:
    """Kill the processes in these namespaces, all but our own ancestors, and remove the namespaces."""
    inodes = {(NAMESPACES / name).stat().st_ino for name in names if namespace_alive(name)}
    while inodes and (living := _processes_in(inodes)):
        for pid in living:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    for name in names:
        delete_namespace(name)


def _processes_in(inodes: set[int]) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                if (entry / "ns/net").stat().st_ino in inodes:
                    found.add(int(entry.name))
    return found - _ancestors()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file while inside; wait for whoever holds it. It is let go even if we are killed.

    Who holds it may remove the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    while not _is_at(path, file.fileno()):
        file.close()  # its holder removed it while we waited
        file = path.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
    with file:
        yield


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


def _ancestors() -> set[int]:
    found, pid = set(), os.getpid()
    while pid > 0:
        found.add(pid)
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        pid = int(status.rpartition(")")[2].split()[1])
    return found
