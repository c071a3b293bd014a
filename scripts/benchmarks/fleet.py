"""Part fleet: `inv mesh.plan` observing 10, 50 and 100 hosts that are a network namespace and an sshd each.

They have no systemd and none of our packages; the probe answers all the same, and every host has a plan. All of them,
and `inv`, share this machine's cores, so half the time measured is theirs.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from benchmarks import rivals
from benchmarks.inventories import inventory_text
from benchmarks.measure import BenchError, Ended, interleave, must
from benchmarks.table import Results, print_table
from isthmus.inventory import parse_inventory
from isthmus.model import Host

SIZES = (10, 50, 100)
RUNS = 3
SITES = 2
PARALLEL = 32
"""So many hosts `inv` works on at once; the floor does the same."""
PREFIX = "isthmus-bench-"
"""Of every network namespace of this part."""
ADMIN, SWITCH = f"{PREFIX}admin", f"{PREFIX}switch"
WAITING = 4
"""The exit code of mesh.plan when changes are waiting: on these hosts everything is."""

_SSHD = """Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/home/.ssh/id_ed25519.pub
PidFile none
StrictModes no
UsePAM no
UseDNS no
PrintMotd no
PermitRootLogin prohibit-password
PasswordAuthentication no
"""


def measure_fleet(results: Results, folder: Path) -> None:
    """Build the hosts, measure, print, and take them down."""
    rows = []
    with _fleet(folder, max(SIZES)):
        for size in SIZES:
            inventory = folder / f"fleet-{size}.toml"
            inventory.write_text(_text(size), encoding="utf-8")
            ways = {"plan": partial(_plan, inventory, folder, size), "floor": partial(_floor, folder, size)}
            series = interleave(ways, RUNS, warm_up=size == min(SIZES))
            plan, floor = series["plan"], series["floor"]
            results.put_series(f"fleet_{size}", plan)
            results.put(f"fleet_{size}_mb", plan.peak_mb)
            results.put_series(f"fleet_{size}_floor", floor)
            results.put(f"fleet_{size}_vs_floor", plan.ratio(floor))
            rows.append(
                (
                    f"{size} hosts",
                    *(f"{value:.2f} s" for value in (plan.median, min(plan.known), max(plan.known))),
                    f"{plan.peak_mb:.0f} MB",
                    f"{floor.median:.2f} s",
                )
            )
    how = (
        f"{RUNS} runs each after a warm-up, interleaved with the floor; fresh connections, {PARALLEL} at once. "
        "The hosts are namespaces with an sshd on the same machine; memory is that of inv alone. "
        f"Floor: OpenSSH `true` on the same hosts, {PARALLEL} at once, no multiplexing."
    )
    head = ("inv mesh.plan", "median", "min", "max", "memory", "floor")
    print_table("fleet: observe every host and plan all of them", how, head, rows)


def _plan(inventory: Path, folder: Path, size: int) -> Ended:
    command = (sys.executable, "-m", "invoke", "mesh.plan", "--file", str(inventory))
    ended = must((*_inside(ADMIN), *command), env=_environment(folder), cwd=rivals.ROOT, status=WAITING)
    # A plan that failed on some host, or skipped it, would be fast.
    missing = [host.name for host in _hosts(size) if host.name not in ended.output]
    if missing:
        raise BenchError(f"mesh.plan of {size} hosts says nothing of {', '.join(missing)}")
    return ended


def _floor(folder: Path, size: int) -> Ended:
    addresses = "\n".join(str(host.public) for host in _hosts(size))
    (folder / "addresses").write_text(f"{addresses}\n", encoding="utf-8")
    ssh = f"ssh -F {shlex.quote(str(folder / 'ssh_config'))}"
    script = f"xargs -P {PARALLEL} -I ADDRESS {ssh} ADDRESS true <{shlex.quote(str(folder / 'addresses'))}"
    return must((*_inside(ADMIN), "sh", "-c", script), env=_environment(folder))


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(folder / "home"), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}


def _inside(namespace: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", namespace)


# --- the hosts ----------------------------------------------------------------------------------------------------


def _text(size: int) -> str:
    return inventory_text(size, SITES, all_public=True)


def _hosts(size: int) -> list[Host]:
    return list(parse_inventory(_text(size), "bench").hosts.values())


@contextmanager
def _fleet(folder: Path, size: int) -> Iterator[None]:
    """Make `size` hosts on one switch, with an sshd each; they go when the block ends, and no process stays."""
    servers: list[subprocess.Popen[bytes]] = []
    hosts = _hosts(size)
    _remove()
    try:
        _make_keys(folder, hosts)
        _wire(hosts)
        for number in range(len(hosts)):
            # sshd without PAM refuses an account whose password is locked, as root's is on many machines. So these, in
            # the mount namespace that `ip netns exec` makes, see a shadow file in which there merely is none.
            script = f"mount --bind {folder}/shadow /etc/shadow && exec /usr/sbin/sshd -D -e -f {folder}/sshd_config"
            with (folder / "sshd.log").open("ab") as log:
                command = (*_inside(f"{PREFIX}{number}"), "sh", "-c", script)
                servers.append(
                    subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(folder)
                    )
                )
        _wait_for(folder, size)
        yield
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait()
        _remove()


def _make_keys(folder: Path, hosts: list[Host]) -> None:
    home = folder / "home" / ".ssh"
    home.mkdir(parents=True)
    home.chmod(0o700)
    for path in (folder / "host_key", home / "id_ed25519"):
        must(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", str(path)))
    key = " ".join((folder / "host_key.pub").read_text(encoding="ascii").split()[:2])
    known = "".join(f"{host.public} {key}\n" for host in hosts)
    (folder / "known_hosts").write_text(known, encoding="ascii")
    config = (
        f"User root\nIdentityFile {home}/id_ed25519\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known_hosts\n"
        "StrictHostKeyChecking yes\nBatchMode yes\n"
    )
    (folder / "ssh_config").write_text(config, encoding="utf-8")
    (folder / "sshd_config").write_text(_SSHD.format(folder=folder), encoding="utf-8")
    (folder / "shadow").write_text("root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n", encoding="ascii")
    (folder / "shadow").chmod(0o600)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)


def _wire(hosts: list[Host]) -> None:
    """Plug every host, with its private and its public address, and the admin into one switch."""
    for namespace in (SWITCH, ADMIN, *(f"{PREFIX}{number}" for number in range(len(hosts)))):
        must(("ip", "netns", "add", namespace), env=_system())
    ports = [(ADMIN, "admin", ["203.0.113.254/24"])]
    for number, host in enumerate(hosts):
        ports.append((f"{PREFIX}{number}", f"port{number}", [f"{host.address}/16", f"{host.public}/24"]))
    _batch(SWITCH, ["link add switch type bridge", "link set switch up"])
    plugs = [f"link add {port} type veth peer name eth0 netns {namespace}" for namespace, port, _ in ports]
    _batch(SWITCH, plugs + [f"link set {port} master switch up" for _, port, _ in ports])
    for namespace, _, addresses in ports:
        lines = [f"address add {address} dev eth0" for address in addresses]
        _batch(namespace, ["link set lo up", "link set eth0 up", *lines])


def _batch(namespace: str, lines: list[str]) -> None:
    subprocess.run(
        ("ip", "-n", namespace, "-batch", "-"), input="\n".join(lines) + "\n", text=True, check=True, env=_system()
    )


def _wait_for(folder: Path, size: int) -> None:
    """Return when every sshd lets us in."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(BenchError):
            _floor(folder, size)
            return
        time.sleep(0.5)
    raise BenchError(f"not all of {size} hosts let us in within 60 s: {folder / 'sshd.log'}")


def _remove() -> None:
    """Remove every namespace of ours, a killed run's included; what still runs in them was left by that run."""
    run = Path("/run/netns")
    for path in run.glob(f"{PREFIX}*") if run.is_dir() else ():
        pids = subprocess.run(("ip", "netns", "pids", path.name), capture_output=True, text=True, env=_system())
        for pid in pids.stdout.split():
            subprocess.run(("kill", pid), capture_output=True)
        subprocess.run(("ip", "netns", "delete", path.name), capture_output=True, env=_system())


def _system() -> dict[str, str]:
    return {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
