"""Whatever somebody changes by hand on a host is seen, named and put right by the next mesh.up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from promises import ADDRESSES, FAILED, OK, PAIRS, WAITING, assert_whole, at_once, delivered, said
from workstation import Admin

from isthmus.lab import HostOptions

pytestmark = pytest.mark.lab


@dataclass(frozen=True)
class Drift:
    """Something done by hand on a host, and the change that must be planned there for it."""

    host: str
    command: str
    kind: str
    name: str


CONF = "/etc/wireguard/wg0.conf"
KEY = "/etc/wireguard/wg0.key"
STRANGER = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE="
WAY_BACK = "172.16.0.2/32 dev wg0 table 5182 proto 182"


def peer(host: str) -> str:
    """Return a shell word that is a peer's public key, as the host's file has it."""
    return f"$(sed -n '/^# {host}$/,/^$/s/^PublicKey = //p' {CONF})"


DRIFTS = {
    "peers": (
        Drift("n1", f"wg set wg0 peer {peer('n2')} remove", "peer", "n2"),
        Drift("n2", f"wg genpsk >/run/psk; wg set wg0 peer {peer('n1')} preshared-key /run/psk", "peer", "n1"),
        Drift("n3", f"wg set wg0 peer {peer('n1')} allowed-ips 172.16.128.0/24", "peer", "n1"),
        Drift("s1", f"wg set wg0 peer {STRANGER} allowed-ips 10.9.9.9/32", "peer", STRANGER),
        Drift("s1", f"wg set wg0 peer {peer('n1')} persistent-keepalive 0", "peer", "n1"),
    ),
    "routes and rules": (
        Drift("n1", "ip rule del priority 5182", "rule", "iif wg0 lookup 5182 priority 5182 protocol 182"),
        Drift("n1", "ip route del 172.16.0.2/32 table 5182", "route", WAY_BACK),
        Drift(
            "n2", "ip route del 172.16.128.0/24 dev wg0", "route", "172.16.128.0/24 dev wg0 proto 182 src 172.16.0.2"
        ),
        Drift("n3", "ip route add 172.16.9.0/24 dev wg0 proto 182", "route", "172.16.9.0/24 dev wg0 proto 182"),
        Drift("s1", "ip route flush dev wg0", "route", "172.16.0.0/24 dev wg0 proto 182 src 172.16.128.1"),
    ),
    "the WireGuard file": (
        Drift("n1", f"sed -i '/^Endpoint = 172.16.0.2:/d' {CONF}", "file", CONF),
        Drift("n2", f"rm {CONF}", "file", CONF),
        Drift("n3", f"chmod 644 {CONF}", "file", CONF),
        Drift("s1", f"sed -i 's/^MTU = 1420/MTU = 1280/' {CONF}", "file", CONF),
    ),
    "the other files": (
        Drift("n1", ": >/etc/isthmus/wg0.iptables", "file", "/etc/isthmus/wg0.iptables"),
        Drift("n2", "echo '# mine' >>/usr/local/sbin/isthmus", "file", "/usr/local/sbin/isthmus"),
        Drift("n3", "rm -r /etc/isthmus", "file", "/etc/isthmus/wg0.routes"),
        Drift("s1", "rm /etc/sysctl.d/90-isthmus.conf", "file", "/etc/sysctl.d/90-isthmus.conf"),
        Drift("s1", "chmod 644 /usr/local/sbin/isthmus", "file", "/usr/local/sbin/isthmus"),
    ),
    "firewall and forwarding": (
        Drift("n1", "iptables -F ISTHMUS-FORWARD", "firewall", "filter ISTHMUS-FORWARD"),
        Drift("n1", "iptables -P FORWARD DROP; sysctl -qw net.ipv4.ip_forward=0", "sysctl", "net.ipv4.ip_forward"),
        Drift("n2", "iptables -A ISTHMUS-INPUT -p tcp -j ACCEPT", "firewall", "filter ISTHMUS-INPUT"),
        Drift("n3", "iptables -D INPUT -j ISTHMUS-INPUT", "firewall", "filter ISTHMUS-INPUT"),
        Drift("s1", "iptables -t nat -F", "firewall", "nat ISTHMUS-POSTROUTING"),
    ),
    "the service": (
        Drift("n1", "systemctl stop wg-quick@wg0", "interface", "wg0"),
        Drift("n2", "systemctl disable wg-quick@wg0", "unit", "wg-quick@wg0"),
        Drift("n3", "systemctl stop wg-quick@wg0", "interface", "wg0"),
        Drift("s1", "ip link del wg0", "interface", "wg0"),
    ),
    "the interface": (
        Drift("n1", "wg set wg0 listen-port 4444", "interface", "wg0 listen-port"),
        Drift("n2", "ip link set mtu 1300 dev wg0", "interface", "wg0 mtu"),
        Drift("n3", "ip link set wg0 down", "interface", "wg0"),
        Drift("s1", "ip address del 172.16.128.1/32 dev wg0", "interface", "wg0 address"),
    ),
    "keys": (
        Drift("n1", f"chmod 644 {KEY}", "key", KEY),
        Drift("n2", "wg genkey >/run/key; wg set wg0 private-key /run/key", "interface", "wg0 key"),
        Drift("n3", f"rm {KEY}", "key", KEY),
        Drift("s1", f"chmod 644 {KEY}", "key", KEY),
    ),
}
"""Every host has something of each, so that eight runs are enough."""


@pytest.fixture(scope="module")
def mesh(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    admin = Admin(lab(options=HostOptions(packages=True)), tmp_path_factory.mktemp("drift"))
    admin.inv("mesh.up", code=OK)
    return admin


@pytest.mark.parametrize("drifts", DRIFTS.values(), ids=DRIFTS)
def test_what_was_changed_by_hand_is_seen_named_and_repaired(mesh: Admin, drifts: tuple[Drift, ...]) -> None:
    for drift in drifts:
        mesh.said(drift.host, drift.command)
    status, plan = at_once(mesh, "mesh.status --json", "mesh.plan --json")
    assert status.returncode == FAILED, said(status)
    assert plan.returncode == WAITING, said(plan)
    planned = json.loads(plan.stdout)["hosts"]
    for drift in drifts:
        assert (drift.kind, drift.name) in {(change["kind"], change["name"]) for change in planned[drift.host]}, drift
    for host in ADDRESSES:
        assert json.loads(status.stdout)["hosts"][host]["drift"] == planned[host]
    mesh.inv("mesh.up", code=OK)
    ping, plan = at_once(mesh, "check.ping --count 1 --json", "mesh.plan")
    assert delivered(ping) == PAIRS, said(ping)
    assert plan.returncode == OK, said(plan)


def test_what_was_changed_on_one_host_is_no_concern_of_the_others(mesh: Admin) -> None:
    mesh.said("n2", "systemctl stop wg-quick@wg0")
    plan = mesh.inv("mesh.plan --json", code=WAITING)
    assert {host for host, changes in json.loads(plan.stdout)["hosts"].items() if changes} == {"n2"}
    up = mesh.inv("mesh.up", code=OK)
    lines = [line for line in up.stdout.splitlines() if "nothing to do" in line]
    assert lines == ["n1: nothing to do", "n3: nothing to do", "s1: nothing to do"]


def test_after_all_that_the_mesh_is_whole_and_the_status_clean(mesh: Admin) -> None:
    assert_whole(mesh)
    mesh.inv("mesh.status", code=OK)
    assert {mesh.said(host, f"stat -c %a {KEY} {CONF}") for host in ADDRESSES} == {"600\n600"}
