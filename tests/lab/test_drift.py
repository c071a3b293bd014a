"""Whatever somebody changes by hand on a host is seen, named and put right by the next mesh.up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from promises import FAILED, OK, PAIRS, WAITING, assert_whole, at_once, delivered, said
from workstation import Admin

from isthmus.lab import HostOptions

pytestmark = pytest.mark.lab

PEER = "$(sed -n '/^# {}$/,/^$/s/^PublicKey = //p' /etc/wireguard/wg0.conf)"
"""A shell word that gives a peer's public key, as the host's file has it."""

DRIFTS: dict[str, tuple[str, str, str, str]] = {
    "a peer removed with wg set": ("n1", f"wg set wg0 peer {PEER.format('n2')} remove", "peer", "n2"),
    "a peer's networks changed": (
        "n3",
        f"wg set wg0 peer {PEER.format('n1')} allowed-ips 172.16.128.0/24",
        "peer",
        "n1",
    ),
    "a stranger added as a peer": (
        "s1",
        "wg set wg0 peer AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE= allowed-ips 10.9.9.9/32",
        "peer",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=",
    ),
    "a leaf's route deleted": (
        "n2",
        "ip route del 172.16.128.0/24 dev wg0",
        "route",
        "172.16.128.0/24 dev wg0 proto 182 src 172.16.0.2",
    ),
    "a route of the way back deleted": (
        "n1",
        "ip route del 172.16.0.2/32 table 5182",
        "route",
        "172.16.0.2/32 dev wg0 table 5182 proto 182",
    ),
    "the rule deleted": ("n1", "ip rule del priority 5182", "rule", "iif wg0 lookup 5182 priority 5182 protocol 182"),
    "wg0.conf edited": (
        "s1",
        "sed -i 's/^MTU = 1420/MTU = 1280/' /etc/wireguard/wg0.conf",
        "file",
        "/etc/wireguard/wg0.conf",
    ),
    "wg0.conf deleted": ("n2", "rm /etc/wireguard/wg0.conf", "file", "/etc/wireguard/wg0.conf"),
    "wg0.conf readable by all": ("n3", "chmod 644 /etc/wireguard/wg0.conf", "file", "/etc/wireguard/wg0.conf"),
    "the program edited": ("n2", "echo '# mine' >>/usr/local/sbin/isthmus", "file", "/usr/local/sbin/isthmus"),
    "our chain flushed": ("n1", "iptables -F ISTHMUS-FORWARD", "firewall", "filter ISTHMUS-FORWARD"),
    "the jump to our chain deleted": ("s1", "iptables -D INPUT -j ISTHMUS-INPUT", "firewall", "filter ISTHMUS-INPUT"),
    "the service stopped": ("n3", "systemctl stop wg-quick@wg0", "interface", "wg0"),
    "the gateway's service stopped": ("n1", "systemctl stop wg-quick@wg0", "interface", "wg0"),
    "the service disabled": ("n2", "systemctl disable wg-quick@wg0", "unit", "wg-quick@wg0"),
    "the interface deleted": ("n2", "ip link del wg0", "interface", "wg0"),
    "the interface set down": ("n3", "ip link set wg0 down", "interface", "wg0"),
    "the MTU changed": ("n3", "ip link set mtu 1300 dev wg0", "interface", "wg0 mtu"),
    "the address deleted": ("s1", "ip address del 172.16.128.1/32 dev wg0", "interface", "wg0 address"),
    "forwarding switched off": ("s1", "sysctl -qw net.ipv4.ip_forward=0", "sysctl", "net.ipv4.ip_forward"),
    "the key readable by all": ("s1", "chmod 644 /etc/wireguard/wg0.key", "key", "/etc/wireguard/wg0.key"),
    "the key lost": ("n3", "rm /etc/wireguard/wg0.key", "key", "/etc/wireguard/wg0.key"),
}
"""What was done: host, command, and the kind and name of a change that must be planned there."""


@pytest.fixture(scope="module")
def mesh(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    admin = Admin(lab(options=HostOptions(packages=True)), tmp_path_factory.mktemp("drift"))
    admin.inv("mesh.up", code=OK)
    return admin


@pytest.mark.parametrize(("host", "command", "kind", "name"), DRIFTS.values(), ids=DRIFTS)
def test_what_was_changed_by_hand_is_seen_named_and_repaired(
    mesh: Admin, host: str, command: str, kind: str, name: str
) -> None:
    mesh.said(host, command)
    status, plan = at_once(mesh, "mesh.status --json", "mesh.plan --json")
    assert status.returncode == FAILED, said(status)
    assert plan.returncode == WAITING, said(plan)
    planned = json.loads(plan.stdout)["hosts"]
    assert (kind, name) in {(change["kind"], change["name"]) for change in planned[host]}
    assert json.loads(status.stdout)["hosts"][host]["drift"] == planned[host]
    assert {other for other, changes in planned.items() if changes} == {host}
    mesh.inv("mesh.up", code=OK)
    ping, plan = at_once(mesh, "check.ping --count 1 --json", "mesh.plan")
    assert delivered(ping) == PAIRS, said(ping)
    assert plan.returncode == OK, said(plan)


def test_after_all_that_the_mesh_is_whole_and_the_status_clean(mesh: Admin) -> None:
    assert_whole(mesh)
    mesh.inv("mesh.status", code=OK)
