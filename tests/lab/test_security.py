"""What strangers and thieves reach: SSH and WireGuard from outside, from inside nothing but what their key holds."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from promises import OK
from test_live import BEIJING
from workstation import PATIENCE_S, ROOT, Admin

from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions

pytestmark = pytest.mark.lab

ADDRESSES = {
    "n1": "172.16.0.1",
    "n2": "172.16.0.2",
    "n3": "172.16.0.3",
    "s1": "172.16.128.1",
    "b1": "172.17.0.1",
}
PUBLIC = {"n1": "203.0.113.1", "n2": "203.0.113.2", "s1": "203.0.113.129", "b1": "203.0.113.65"}
PORT = 7777

SCAN = """
import selectors, socket, sys, time
found, ports, at_once = [], iter(range(1, 65536)), 500
waiting = selectors.DefaultSelector()
while True:
    while len(waiting.get_map()) < at_once and (port := next(ports, None)):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex((sys.argv[1], port))
        waiting.register(one, selectors.EVENT_WRITE, (port, time.monotonic() + 5))
    if not waiting.get_map():
        break
    for key, _ in waiting.select(0.1):
        if key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            found.append(key.data[0])
        waiting.unregister(key.fileobj)
        key.fileobj.close()
    for key in [key for key in waiting.get_map().values() if key.data[1] < time.monotonic()]:
        found.append(-key.data[0])  # no answer at all: the cloud's group is in the way
        waiting.unregister(key.fileobj)
        key.fileobj.close()
print(*found)
"""
"""Connects to every TCP port of an address; prints the open ones, and those that do not answer as negative numbers."""

WATCH = """
import json, select, socket, struct, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
raw.bind(("wg0", 0x0800))
seen = set()
print("watching", flush=True)
while True:
    ready, _, _ = select.select([raw, sys.stdin], [], [])
    if raw in ready:
        packet, (_, _, kind, _, _) = raw.recvfrom(65535)
        inner = 4 * (packet[0] & 15)
        if packet[9] == 17 and struct.unpack("!H", packet[inner + 2:inner + 4])[0] == int(sys.argv[1]) and kind != 4:
            seen.add((socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])))
    elif sys.stdin in ready:
        break
print(json.dumps(sorted(seen)))
"""
"""Prints (source, destination) of every UDP packet to a port that comes out of the tunnel, before any firewall."""

SEND = """
import socket, sys
_, source, port, *destinations = sys.argv
one = socket.socket(type=socket.SOCK_DGRAM)
one.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT: from an address that is another's
one.bind((source, 0))
for _ in range(3):
    for destination in destinations:
        one.sendto(b"x", (destination, int(port)))
"""


LOG_IN = """
import socket, sys
for address in sys.argv[1:]:
    one = socket.socket()
    one.settimeout(2)
    print(one.connect_ex((address, 22)))
"""
"""Prints for each address 0 where SSH's port accepts a connection, else the error's number."""


@pytest.fixture(scope="module")
def admin(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    """Three sites, up."""
    folder = tmp_path_factory.mktemp("security")
    text = (ROOT / "hosts.toml").read_text(encoding="utf-8") + BEIJING
    (folder / "hosts.toml").write_text(text, encoding="utf-8")
    admin = Admin(lab(load_inventory(folder / "hosts.toml"), HostOptions(packages=True)), folder, text)
    admin.inv("mesh.up", code=OK)
    return admin


# --- from outside -------------------------------------------------------------------------------------------------


def in_cloud(admin: Admin, site: str, command: str) -> str:
    """Run a command on a site's router and return what it printed."""
    inside = ["ip", "netns", "exec", admin.lab.names.router(site), "sh", "-c", command]
    return subprocess.run(inside, check=True, capture_output=True, text=True).stdout


@contextmanager
def groups_wide_open(admin: Admin) -> Iterator[None]:
    """While inside, the security groups let everything in that is sent to a public address."""
    handles = {}
    for site in admin.lab.inventory.sites:
        told = in_cloud(admin, site, "nft -e -a insert rule ip lab forward accept")
        handles[site] = told.split("# handle ")[1].split()[0]
    try:
        yield
    finally:
        for site, handle in handles.items():
            in_cloud(admin, site, f"nft delete rule ip lab forward handle {handle}")


def test_an_outsider_reaches_ssh_and_wireguard_even_where_the_security_groups_are_wide_open(admin: Admin) -> None:
    with groups_wide_open(admin):
        scans = {host: admin.start(["python3", "-c", SCAN, address]) for host, address in PUBLIC.items()}
        found = {host: scan.communicate(timeout=PATIENCE_S) for host, scan in scans.items()}
    assert {host: (out.split(), err) for host, (out, err) in found.items()} == {host: (["22"], "") for host in PUBLIC}
    for host in admin.hosts:
        bound = {line.split()[3] for line in admin.said(host, "ss -H -4 -l -u -n").splitlines()}
        assert {address for address in bound if not address.startswith("127.")} == {"0.0.0.0:51820"}, host


def test_an_outsider_reaches_no_private_address(admin: Admin) -> None:
    with groups_wide_open(admin):
        ended = admin.lab.run(["python3", "-c", LOG_IN, *ADDRESSES.values()], capture=True)
    answers = ended.stdout.split()
    assert len(answers) == len(ADDRESSES)
    assert "0" not in answers


# --- from inside --------------------------------------------------------------------------------------------------


@contextmanager
def watching(admin: Admin, *hosts: str) -> Iterator[dict[str, list[list[str]]]]:
    """While inside, watch what comes out of these hosts' tunnels; afterwards {host: (source, destination) pairs}."""
    found: dict[str, list[list[str]]] = {}
    watchers = {
        host: subprocess.Popen(
            admin.lab.host_command(host, ["python3", "-c", WATCH, str(PORT)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for host in hosts
    }
    for watcher in watchers.values():
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "watching\n"
    yield found
    time.sleep(0.5)  # what is on its way
    for host, watcher in watchers.items():
        found[host] = json.loads(watcher.communicate("end\n", timeout=PATIENCE_S)[0])


def send(admin: Admin, host: str, source: str, *destinations: str) -> None:
    """Let a host send to these hosts from any address, its own or not."""
    wanted = [ADDRESSES[name] for name in destinations]
    ended = admin.lab.host_run(host, ["python3", "-c", SEND, source, str(PORT), *wanted])
    assert ended.returncode == 0, ended.stderr


@contextmanager
def thief(admin: Admin, host: str, peer: str) -> Iterator[None]:
    """While inside, someone has root on the host: whatever is sent to PORT goes into the tunnel to a peer."""
    key = admin.said(peer, "wg show wg0 public-key")
    routes = " ".join(f"{address}/32" for address in ADDRESSES.values() if address != ADDRESSES[host])
    admin.said(host, f"wg set wg0 peer {key} allowed-ips 0.0.0.0/0; sysctl -qw net.ipv4.conf.all.rp_filter=0")
    admin.said(host, f"for route in {routes}; do ip route replace $route dev wg0 table 66; done")
    admin.said(host, f"ip rule add priority 66 dport {PORT} ipproto udp lookup 66")
    try:
        yield
    finally:
        admin.said(host, "ip rule del priority 66; ip route flush table 66")
        admin.inv("mesh.up", code=OK)


def test_a_stolen_leaf_key_sends_from_its_own_address_and_from_no_other(admin: Admin) -> None:
    with (
        thief(admin, "n3", "n1"),
        watching(admin, "n1", "n2", "s1", "b1") as seen,
    ):
        for forged in (ADDRESSES["n2"], ADDRESSES["b1"], "172.16.0.77"):
            send(admin, "n3", forged, "n1", "n2", "s1")
        send(admin, "n3", ADDRESSES["n3"], "n1", "n2", "s1", "b1")
    own = ADDRESSES["n3"]
    # n1 takes in what is n3's own, also what it then forwards; n2 refuses its own site's addresses from the tunnel.
    assert seen == {
        "n1": sorted([own, ADDRESSES[to]] for to in ("n1", "n2", "s1", "b1")),
        "n2": [],
        "s1": [[own, ADDRESSES["s1"]]],
        "b1": [[own, ADDRESSES["b1"]]],
    }


def test_a_forged_source_arrives_where_allowed_ips_hold_it(admin: Admin) -> None:
    """So it is AllowedIPs that keep it out above, and nothing on its way there."""
    key = admin.said("n3", "wg show wg0 public-key")
    with thief(admin, "n3", "n1"), watching(admin, "n1") as seen:
        admin.said("n1", f"wg set wg0 peer {key} allowed-ips {ADDRESSES['n3']}/32,172.16.0.77/32")
        send(admin, "n3", "172.16.0.77", "n1")
    assert seen == {"n1": [["172.16.0.77", ADDRESSES["n1"]]]}


def test_a_gateway_cannot_speak_for_another_site(admin: Admin) -> None:
    with (
        thief(admin, "s1", "n1"),
        watching(admin, "n1", "n2", "b1") as seen,
    ):
        for forged in (ADDRESSES["b1"], ADDRESSES["n2"]):
            send(admin, "s1", forged, "n1", "n2")
        send(admin, "s1", ADDRESSES["s1"], "n1", "n2")
    own = ADDRESSES["s1"]
    assert seen == {
        "n1": [[own, ADDRESSES["n1"]], [own, ADDRESSES["n2"]]],
        "n2": [[own, ADDRESSES["n2"]]],
        "b1": [],
    }


def test_a_member_that_was_removed_is_heard_by_nobody(admin: Admin) -> None:
    with watching(admin, "n1", "s1") as seen:
        send(admin, "n3", ADDRESSES["n3"], "s1")
    assert seen["s1"] == [[ADDRESSES["n3"], ADDRESSES["s1"]]]
    text = admin.file.read_text(encoding="utf-8")
    start = text.index("[hosts.n3]")
    without = admin.beside("without.toml", (text[start : text.index("[hosts.s1]")], ""))
    admin.inv("mesh.up", without, code=OK)
    try:
        with watching(admin, "n1", "s1") as seen:
            send(admin, "n3", ADDRESSES["n3"], "s1")
            key = admin.said("n1", "wg show wg0 public-key")
            admin.said("n3", f"wg set wg0 peer {key} remove; isthmus sync wg0")  # a fresh handshake
            send(admin, "n3", ADDRESSES["n3"], "s1")
        assert seen == {"n1": [], "s1": []}
        assert admin.said("n3", "wg show wg0 latest-handshakes").split()[1] == "0"
    finally:
        admin.inv("mesh.up", code=OK)
