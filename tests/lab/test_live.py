"""The mesh changes while it carries traffic: who is not concerned loses no packet, and no interface is restarted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from stream import echoing, streaming
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
    with echoing(admin, "s1"):
        yield admin


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
    with streaming(admin, "n2", "172.16.128.1") as report:
        yield
    assert report.sent > 100
    assert report.missing == [], f"of {report.sent} packets"
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
