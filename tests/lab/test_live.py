"""The mesh changes while it carries traffic: who is not concerned loses no packet, and no interface is restarted."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from workstation import ROOT, Admin, until

from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions, Lab

pytestmark = pytest.mark.lab

BEIJING = """
[sites.beijing]
subnet   = "172.17.0.0/24"
gateways = ["b1"]

[hosts.b1]
site    = "beijing"
address = "172.17.0.1"
public  = "203.0.113.65"
"""

ECHO = """
import socket
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("", 9999))
while True:
    data, sender = server.recvfrom(100)
    server.sendto(data, sender)
"""

STREAM = """
import json, select, socket, sys, time
peer = socket.socket(type=socket.SOCK_DGRAM)
peer.connect((sys.argv[1], 9999))
missing, sent, due, last = {}, 0, time.monotonic(), None
print("streaming", flush=True)
while True:
    listened = [peer, sys.stdin] if last is None else [peer]
    ready, _, _ = select.select(listened, [], [], max(0, due - time.monotonic()))
    if peer in ready:
        missing.pop(int(peer.recv(100)), None)
    if sys.stdin in ready:
        last = time.monotonic()  # nothing more is sent; what is on its way may still come
    if last is None and time.monotonic() >= due:
        missing[sent] = True
        peer.send(str(sent).encode())
        sent, due = sent + 1, max(due + 0.01, time.monotonic() - 0.05)
    elif last is not None:
        due = time.monotonic() + 0.05
        if not missing or time.monotonic() > last + 10:
            break
print(json.dumps({"sent": sent, "missing": list(missing)}))
"""
"""Sends 100 numbered packets a second until its input ends, and says which did not come back."""


@pytest.fixture(scope="module")
def admin(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    """Three sites, up, and on the hosts that stay what flannel makes on wg0."""
    folder = tmp_path_factory.mktemp("live")
    text = (ROOT / "hosts.toml").read_text(encoding="utf-8") + BEIJING
    (folder / "hosts.toml").write_text(text, encoding="utf-8")
    admin = Admin(lab(load_inventory(folder / "hosts.toml"), HostOptions(packages=True)), folder, text)
    admin.inv("mesh.up", code=0)
    for host in ("n1", "n2", "s1", "b1"):
        admin.said(host, "ip link add flannel.1 type vxlan id 1 dev wg0 dstport 8472 nolearning")
        admin.said(host, "ip address add 10.244.0.0/32 dev flannel.1; ip link set flannel.1 up")
    with subprocess.Popen(admin.lab.host_command("s1", ["python3", "-c", ECHO])) as echo:
        yield admin
        admin.said("s1", "pkill -f '[s]erver.sendto'")
        echo.wait()


def links(admin: Admin) -> dict[str, list[tuple[str, int]]]:
    """Return the mesh interface and what stands on it, by host: names and numbers (a new interface has a new one)."""
    found = {}
    for host in ("n1", "n2", "s1", "b1"):
        shown = json.loads(admin.said(host, "ip -j link show"))
        found[host] = sorted((link["ifname"], link["ifindex"]) for link in shown if link["ifname"] != "lo")
    return found


@contextmanager
def undisturbed(admin: Admin) -> Iterator[None]:
    """While inside, 100 packets a second go from n2 to s1 and back; afterwards none is missing, no interface is new."""
    before = links(admin)
    for host in before:
        assert {"wg0", "flannel.1"} < {name for name, _ in before[host]}
    command = admin.lab.host_command("n2", ["python3", "-c", STREAM, "172.16.128.1"])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stream:
        assert stream.stdout is not None
        assert stream.stdout.readline() == "streaming\n"
        yield
        report = json.loads(stream.communicate()[0])
    assert report["sent"] > 100
    assert report["missing"] == [], f"of {report['sent']} packets"
    assert links(admin) == before


def change(admin: Admin, *replacements: tuple[str, str], more: str = "") -> None:
    """Change the inventory, let the clouds follow, bring the mesh up; then it is whole and has nothing left to do."""
    admin.beside(admin.file.name, *replacements, more=more)
    admin.lab = Lab(load_inventory(admin.file), admin.lab.names.name, admin.lab.options)
    admin.lab.up()
    admin.inv("mesh.up", code=0)
    admin.pings()
    admin.inv("mesh.plan", code=0)


def test_a_host_is_added(admin: Admin) -> None:
    with undisturbed(admin):
        change(admin, more='[hosts.n4]\nsite = "nanjing"\naddress = "172.16.0.4"\n')
    assert "172.16.0.4/32" in admin.said("n1", "wg show wg0 allowed-ips")


def test_a_public_address_changes(admin: Admin) -> None:
    for host in ("n1", "s1"):
        assert "203.0.113.65:51820" in admin.said(host, "wg show wg0 endpoints")
    with undisturbed(admin):
        change(admin, ("203.0.113.65", "203.0.113.66"))
    for host in ("n1", "s1"):
        assert "203.0.113.66:51820" in admin.said(host, "wg show wg0 endpoints")
        assert "203.0.113.66:51820" in admin.said(host, "cat /etc/wireguard/wg0.conf")


def test_a_leaf_is_removed(admin: Admin) -> None:
    assert "172.16.0.3/32" in admin.said("n1", "wg show wg0 allowed-ips")
    with undisturbed(admin):
        text = admin.file.read_text(encoding="utf-8")
        start = text.index("[hosts.n3]")
        change(admin, (text[start : text.index("[hosts.s1]")], ""))
    assert "n3" not in admin.hosts
    assert "172.16.0.3/32" not in admin.said("n1", "wg show wg0 allowed-ips; ip route show table 5182")


def test_a_site_is_added(admin: Admin) -> None:
    site = '[sites.guangzhou]\nsubnet = "172.18.0.0/24"\ngateways = ["g1"]\n'
    host = '[hosts.g1]\nsite = "guangzhou"\naddress = "172.18.0.1"\npublic = "203.0.113.193"\n'
    with undisturbed(admin):
        change(admin, more=site + host)
    for there in ("n1", "n2", "s1", "b1"):
        assert "172.18.0.0/24" in admin.said(there, "ip route show proto 182")


def test_a_resource_is_added(admin: Admin) -> None:
    before = len(admin.lab.resource_peers("mysql"))
    with undisturbed(admin):
        change(admin, more='[resources.redis]\nsite = "shanghai"\naddress = "172.16.128.51"\nport = 6379\n')
    assert "172.16.128.51/32" in admin.said("s1", "iptables-save -t nat")
    assert before < len(admin.lab.resource_peers("mysql"))
    assert {str(client.address) for client in admin.lab.resource_peers("redis")} == {"172.16.128.1"}


def test_the_stream_notices_a_restart(admin: Admin) -> None:
    with pytest.raises(AssertionError, match=r"of \d+ packets"), undisturbed(admin):  # noqa: PT012
        admin.said("n1", "systemctl restart wg-quick@wg0")
        until(lambda: admin.lab.host_run("n2", "ping -c 1 -W 1 172.16.128.1").returncode == 0, "n2 to reach s1")
