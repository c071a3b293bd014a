"""What the article's mesh must keep, asked of the command line and of the hosts themselves."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from workstation import PATIENCE_S, ROOT, Admin

from isthmus.inventory import load_inventory
from isthmus.lab import LabOptions, send

ARTICLE = (ROOT / "hosts.toml").read_text(encoding="utf-8")
OK, FAILED, USAGE, REFUSED, WAITING = range(5)
ADDRESSES = {"n1": "172.16.0.1", "n2": "172.16.0.2", "n3": "172.16.0.3", "s1": "172.16.128.1"}
PAIRS = {
    (source, destination) for source in ADDRESSES for destination in (*ADDRESSES, "mysql") if source != destination
}
MTU = 1420
"""Of the mesh, in bytes."""
SENT = 200_000
"""Bytes that everybody sends to everybody in `strangers_met`; many full packets, so that a wrong MTU would show."""


def at_once(admin: Admin, *lines: str) -> list[subprocess.CompletedProcess[str]]:
    """Run several `inv LINE` that change nothing beside each other and return how they ended."""
    with ThreadPoolExecutor(len(lines)) as pool:
        return list(pool.map(admin.inv, lines))


def said(ended: subprocess.CompletedProcess[str]) -> str:
    """Return all that a command said, for a failed assertion's message."""
    return f"exit {ended.returncode}\n{ended.stdout}{ended.stderr}"


def delivered(ping: subprocess.CompletedProcess[str]) -> set[tuple[str, str]]:
    """Return the pairs that `check.ping --json` says reach each other."""
    return {(pair["source"], pair["destination"]) for pair in json.loads(ping.stdout)["pairs"] if pair["delivered"]}


def kept(path: subprocess.CompletedProcess[str]) -> set[tuple[str, str]]:
    """Return the pairs whose packets, as `check.path --json` says, take the promised path."""
    report = json.loads(path.stdout)
    assert report["broken"] == []
    return {(pair["source"], pair["destination"]) for pair in report["pairs"] if pair["kept"]}


def assert_whole(admin: Admin) -> None:
    """Every member and resource answers every member, on the promised path, and nothing is left to do."""
    ping, path, plan = at_once(admin, "check.ping --count 1 --json", "check.path --json", "mesh.plan")
    assert delivered(ping) == PAIRS, said(ping)
    assert ping.returncode == OK, said(ping)
    assert kept(path) == PAIRS, said(path)
    assert path.returncode == OK, said(path)
    assert plan.returncode == OK, said(plan)


def resource_saw(admin: Admin) -> set[str]:
    """Let every member connect to mysql; return the addresses that mysql saw."""
    before = len(admin.lab.resource_peers("mysql"))
    for host in ADDRESSES:
        admin.said(host, f"timeout {PATIENCE_S} bash -c 'head -n 1 </dev/tcp/172.16.128.50/3306'")
    seen = admin.lab.resource_peers("mysql")[before:]
    assert [peer.protocol for peer in seen] == ["tcp"] * len(ADDRESSES)
    return {str(peer.address) for peer in seen}


_LISTEN = """
import collections, json, socket, sys
server = socket.create_server((sys.argv[1], 7000), backlog=64)
server.settimeout(60)
print("ready", flush=True)
seen = collections.Counter()
for _ in range(int(sys.argv[2])):
    connection, (address, _) = server.accept()
    connection.settimeout(60)
    while data := connection.recv(1 << 16):
        seen[address] += len(data)
    connection.close()
print(json.dumps(seen))
"""
_SEND = """
import socket, sys
for address in sys.argv[2:]:
    with socket.create_connection((address, 7000), timeout=60) as connection:
        connection.sendall(bytes(int(sys.argv[1])))
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
"""


def strangers_met(admin: Admin) -> dict[str, dict[str, int]]:
    """Let every member send SENT bytes over TCP to every other; return {host: {source address it saw: bytes}}."""
    with ExitStack() as stack:
        listeners: dict[str, Any] = {}
        for host, address in ADDRESSES.items():
            argv = admin.lab.host_command(host, ["python3", "-c", _LISTEN, address, str(len(ADDRESSES) - 1)])
            listeners[host] = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
            stack.callback(listeners[host].kill)
        for listener in listeners.values():
            assert listener.stdout.readline() == "ready\n"

        def send(host: str) -> None:
            others = [address for name, address in ADDRESSES.items() if name != host]
            ended = admin.lab.host_run(host, ["python3", "-c", _SEND, str(SENT), *others])
            assert ended.returncode == 0, f"{host}: {ended.stderr}"

        with ThreadPoolExecutor(len(listeners)) as pool:
            list(pool.map(send, listeners))
        return {host: json.loads(listener.communicate(timeout=PATIENCE_S)[0]) for host, listener in listeners.items()}


def true_sources() -> dict[str, dict[str, int]]:
    """Return what `strangers_met` must be: each host sees every other's own address, and every byte."""
    return {host: {address: SENT for name, address in ADDRESSES.items() if name != host} for host in ADDRESSES}


# --- all of it ----------------------------------------------------------------------------------------------------


@contextmanager
def built(labs: Any, folder: Path, options: LabOptions, text: str = ARTICLE) -> Iterator[Admin]:
    """Build a lab of its own, with nothing of ours on its hosts; it is gone at the end."""
    (folder / "hosts.toml").write_text(text, encoding="utf-8")
    lab = labs.plan(load_inventory(folder / "hosts.toml"), options)
    try:
        lab.up()
        yield Admin(lab, folder, text)
    finally:
        lab.down()


def assert_mesh_up_keeps_every_promise(admin: Admin) -> None:
    """Bring the mesh up and ask for all it promises: reached, by the promised path, seen as oneself, billed once."""
    admin.inv("mesh.up", code=OK)
    ping, path, up = at_once(admin, "check.ping --count 1 --json", "check.path --json", "mesh.up")
    assert delivered(ping) == PAIRS, said(ping)
    assert kept(path) == PAIRS, said(path)
    assert up.returncode == OK, said(up)
    assert up.stdout.splitlines()[-1] == "4 hosts: nothing to do", said(up)
    assert strangers_met(admin) == true_sources()
    assert resource_saw(admin) == {"172.16.128.1"}
    for source, destination in (("n2", "s1"), ("s1", "n3"), ("n1", "s1")):
        # 20 bytes of IP header, 8 of ICMP: a packet as large as the mesh takes, that nobody may cut into pieces
        admin.said(source, f"ping -c 1 -W {PATIENCE_S} -M do -s {MTU - 28} {ADDRESSES[destination]}")
    assert_billed_once(admin)


def assert_billed_once(admin: Admin) -> None:
    """Bytes inside a site stay off its uplink; bytes between sites cross each uplink once, in one direction."""
    inside = send(admin.lab, "n2", "n3", 5_000_000).uplinks["nanjing"]
    assert inside.sent + inside.received < 100_000
    between = send(admin.lab, "n3", "s1", 2_000_000).uplinks
    assert 2_000_000 < between["nanjing"].sent < 2_600_000
    assert 2_000_000 < between["shanghai"].received < 2_600_000
    assert between["nanjing"].received + between["shanghai"].sent < 1_000_000
