"""Gateways whose public addresses are DNS names, behind which the addresses change."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest
from promises import assert_whole, said
from workstation import ROOT, Admin, until

from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions, Lab

pytestmark = pytest.mark.lab

NAMES = (("203.0.113.1", "n1.example.com"), ("203.0.113.129", "s1.example.com"))


@pytest.fixture(scope="module")
def admin(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    """The article's cluster with DNS names for both gateways, up."""
    folder = tmp_path_factory.mktemp("names")
    text = (ROOT / "hosts.toml").read_text(encoding="utf-8")
    for address, name in NAMES:
        text = text.replace(f'"{address}"', f'"{name}"')
    (folder / "hosts.toml").write_text(text, encoding="utf-8")
    admin = Admin(lab(load_inventory(folder / "hosts.toml"), HostOptions(packages=True)), folder, text)
    admin.inv("mesh.up", code=0)
    return admin


def endpoint(admin: Admin, host: str, other: str) -> str:
    """Return where a host has another, as it runs."""
    (peer,) = (peer for peer in admin.json("mesh.status")["hosts"][host]["peers"] if peer["host"] == other)
    return str(peer["endpoint"])


def move(admin: Admin, *addresses: str) -> None:
    """Give n1 and s1 other public addresses; the names follow."""
    names = (name for _, name in NAMES)
    there = dict(zip(names, map(IPv4Address, addresses), strict=True))
    admin.lab = Lab(load_inventory(admin.file), admin.lab.names.name, admin.lab.options, there)
    admin.lab.up()


def test_names_are_as_good_as_addresses(admin: Admin) -> None:
    assert_whole(admin)
    assert endpoint(admin, "n1", "s1") == "192.0.2.2:51820"
    assert admin.said("n2", "ls /etc/systemd/system/isthmus-names.service 2>/dev/null || echo none") == "none"
    ports = admin.inv("check.ports", code=0)
    assert "s1.example.com" in ports.stdout, said(ports)
    admin.inv("check.mtu", code=0)


def test_a_host_without_dns_starts_with_the_last_address_and_at_once(admin: Admin) -> None:
    for host in ("n1", "s1"):
        admin.said(host, "cp /etc/hosts /root/hosts; sed -i /example.com/d /etc/hosts")
    admin.lab.reboot("n1", "s1")
    units = "systemctl is-active wg-quick@wg0 isthmus-names"
    until(lambda: admin.lab.host_run("n1", units).stdout == "active\nactive\n", "the mesh to start")
    assert endpoint(admin, "n1", "s1") == "192.0.2.2:51820"
    assert_whole(admin)
    for host in ("n1", "s1"):
        admin.said(host, "cp /root/hosts /etc/hosts")


def test_tunnels_come_back_by_themselves_when_both_ends_have_moved(admin: Admin) -> None:
    """With one end moved WireGuard follows by itself: the other is spoken to from the new place."""
    move(admin, "192.0.2.101", "192.0.2.102")
    assert admin.lab.host_run("n2", "ping -c 1 -W 1 172.16.128.1").returncode != 0
    reached = lambda: admin.lab.host_run("n2", "ping -c 1 -W 1 172.16.128.1").returncode == 0  # noqa: E731
    until(reached, "the tunnel to come back")  # STALE_S after the last handshake
    assert endpoint(admin, "n1", "s1") == "192.0.2.102:51820"
    assert "s1.example.com is 192.0.2.102 now" in admin.said("n1", "journalctl -q -t isthmus -o cat")
    assert_whole(admin)


def test_the_unit_goes_with_the_mesh_and_is_missed_when_it_is_stopped(admin: Admin) -> None:
    admin.said("s1", "systemctl stop isthmus-names")
    assert "unit isthmus-names.service" in admin.inv("mesh.plan", code=4).stdout
    admin.inv("mesh.up", code=0)
    assert admin.said("s1", "systemctl is-active isthmus-names") == "active"
    admin.inv("mesh.down", code=0)
    left = "ls /etc/systemd/system/isthmus-names.service 2>/dev/null; systemctl is-active isthmus-names; true"
    assert admin.said("s1", left) == "inactive"
