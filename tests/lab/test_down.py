"""Hosts full of what others put there: unchanged while the mesh is up, and as before after mesh.down."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from promises import ADDRESSES, FAILED, OK, assert_whole, at_once, said
from workstation import Admin

from isthmus.lab import HostOptions

pytestmark = pytest.mark.lab

OTHERS = r"""
set -eu
ip route add 192.0.2.0/24 via 172.16.0.250 dev eth0 onlink proto static
ip route add blackhole 10.66.0.0/16
ip route add 10.77.0.0/16 dev eth0 table 5182
ip route add 172.16.5.0/24 dev eth0 metric 7 proto 99
ip rule add from 10.1.1.1 lookup 100 priority 5182
ip rule add fwmark 0x7 lookup 5182 priority 5183
iptables-restore <<'RULES'
*filter
:INPUT DROP
:FORWARD DROP
:OTHER - [0:0]
:ISTHMUS - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp --dport 22 -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A INPUT -j OTHER
-A FORWARD -s 10.1.0.0/16 -j OTHER
-A OTHER -p tcp --dport 8080 -m comment --comment "isthmus of somebody else" -j ACCEPT
-A ISTHMUS -j RETURN
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -s 10.1.0.0/16 -o eth0 -j MASQUERADE
COMMIT
*mangle
:FORWARD ACCEPT [0:0]
-A FORWARD -o eth7 -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1200
COMMIT
RULES
printf 'net.ipv4.%s = 0\n' ip_forward conf.all.send_redirects conf.all.accept_redirects >/etc/sysctl.d/99-other.conf
sysctl -qp /etc/sysctl.d/99-other.conf
sysctl -qw net.ipv4.conf.eth0.forwarding=1
mkdir -p /usr/local/sbin /etc/isthmus-of-another
echo '#!/bin/sh' >/usr/local/sbin/other
umask 077
printf '[Interface]\nAddress = 10.9.9.9/24\nListenPort = 4999\nPrivateKey = ' >/etc/wireguard/wg9.conf
wg genkey >>/etc/wireguard/wg9.conf
systemctl -q enable --now wg-quick@wg9
"""
"""Routes, rules, chains, sysctls, files and an interface, as near to ours as others' can be."""

FILES = "find /etc /usr/local $(ls -d /var/lib/*isthmus* || true) ! -path /etc/wireguard/wg0.key"
INVENTORY = {
    "files": f"{FILES} -printf '%y %m %U:%G %l %p\n'",
    "contents": f"{FILES} -type f -exec sha256sum {{}} +",
    "routes": "ip -4 route show table all",
    "rules": "ip -4 rule",
    "addresses": "ip -4 -o address | sed 's/ valid_lft.*//'",
    "links": "ls /sys/class/net",
    "firewall": "iptables-save | sed 's/ \\[[0-9:]*\\]//; /^#/d'",
    "sysctls": "sysctl -a --pattern '^net[.]ipv4[.](ip_forward|conf[.])'",
    "enabled": "systemctl list-unit-files --no-legend --state=enabled",
    "running": "systemctl list-units --no-legend --plain --all 'wg-quick@*' '*isthmus*' | cut -d ' ' -f 1-",
}
"""By what a host is known, and how to ask for it."""


def seen(admin: Admin, host: str) -> dict[str, list[str]]:
    """Return all that INVENTORY asks of a host, line by line; where order means nothing, sorted."""
    script = "".join(f"echo '@@ {what}'; {command}; " for what, command in INVENTORY.items())
    sections = (section.split("\n") for section in admin.said(host, script).split("@@ ")[1:])
    found = {what: [line.strip() for line in lines] for what, *lines in sections}
    return {what: lines if what in ("rules", "firewall") else sorted(lines) for what, lines in found.items()}


@pytest.fixture(scope="module")
def admin(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    admin = Admin(lab(options=HostOptions(packages=True)), tmp_path_factory.mktemp("down"))
    for host in ADDRESSES:
        admin.said(host, OTHERS)
    return admin


@pytest.fixture(scope="module")
def before(admin: Admin) -> dict[str, dict[str, list[str]]]:
    """What the hosts were when we came."""
    return {host: seen(admin, host) for host in ADDRESSES}


def test_a_host_with_somebody_elses_wg0_is_told_of_and_left_alone(admin: Admin, before: Any) -> None:
    key = admin.said("n3", "umask 077; wg genkey | tee /root/key")
    admin.said("n3", f"umask 077; printf '[Interface]\nPrivateKey = {key}\n' >/etc/wireguard/wg0.conf")
    as_was = seen(admin, "n3")
    for line in ("mesh.up", "mesh.down"):
        ended = admin.inv(line, code=FAILED)
        assert "n3: /etc/wireguard/wg0.conf was not written by Isthmus" in ended.stderr
        assert key not in ended.stdout + ended.stderr
        assert seen(admin, "n3") == as_was
        others = {
            host: json.loads(admin.inv("mesh.status --json").stdout)["hosts"][host]["up"] for host in ("n1", "n2", "s1")
        }
        assert set(others.values()) == {line == "mesh.up"}, line
    admin.said("n3", "rm /etc/wireguard/wg0.conf /root/key")
    assert admin.lab.host_run("n3", "test -e /etc/wireguard/wg0.key").returncode == 1


def test_what_others_put_on_a_host_is_unchanged_while_the_mesh_is_up(admin: Admin, before: Any) -> None:
    admin.inv("mesh.up", code=OK)
    assert_whole(admin)
    for host in ADDRESSES:
        now = seen(admin, host)
        for what, lines in before[host].items():
            if what != "sysctls":
                assert [line for line in now[what] if line in lines] == lines, f"{host}: {what}"
        sysctls = set(before[host]["sysctls"]) - set(now["sysctls"])
        if host in ("n1", "s1"):
            # what the kernel does when a host becomes a router
            sysctls -= {
                line for line in sysctls if line.endswith(("forward = 0", "forwarding = 0", "send_redirects = 1"))
            }
        assert sysctls == set(), host


def test_after_mesh_down_a_host_is_as_before(admin: Admin, before: Any) -> None:
    keys = {
        host: admin.said(host, "sha256sum </etc/wireguard/wg0.key; stat -c %a /etc/wireguard/wg0.key")
        for host in ADDRESSES
    }
    down = admin.inv("mesh.down", code=OK)
    assert down.stdout == "taken off: n1, n2, n3, s1\n"
    for host in ADDRESSES:
        assert seen(admin, host) == before[host], host
    assert keys == {
        host: admin.said(host, "sha256sum </etc/wireguard/wg0.key; stat -c %a /etc/wireguard/wg0.key")
        for host in ADDRESSES
    }
    again = admin.inv("mesh.down", code=OK)
    assert again.stdout == "taken off: nothing, nothing of ours was there\n"


def test_a_mesh_that_was_taken_off_comes_up_again_with_its_keys(admin: Admin) -> None:
    keys = {host: admin.said(host, "wg pubkey </etc/wireguard/wg0.key") for host in ADDRESSES}
    admin.inv("mesh.up", code=OK)
    assert_whole(admin)
    assert {host: admin.said(host, "wg show wg0 public-key") for host in ADDRESSES} == keys


def test_a_leaf_alone_is_taken_off_and_comes_back(admin: Admin) -> None:
    admin.inv("mesh.down --only n2", code=OK)
    plan, path = at_once(admin, "mesh.plan --json", "check.ping --only n1,n3,s1 --count 1 --json")
    assert {host for host, changes in json.loads(plan.stdout)["hosts"].items() if changes} == {"n2"}, said(plan)
    lost = {(pair["source"], pair["destination"]) for pair in json.loads(path.stdout)["pairs"] if not pair["delivered"]}
    assert lost == {("s1", "n2")}
    admin.inv("mesh.up", code=OK)
    assert_whole(admin)


@pytest.mark.parametrize("part", [0.4, 0.6, 0.8, 0.95])
def test_a_mesh_down_that_is_killed_is_finished_by_the_next_one(admin: Admin, before: Any, part: float) -> None:
    admin.inv("mesh.up", code=OK)
    began = time.monotonic()
    admin.inv("mesh.down", code=OK)
    whole = time.monotonic() - began
    admin.inv("mesh.up", code=OK)
    with admin.start(admin.command("mesh.down")) as process:
        time.sleep(whole * part)
        process.kill()
    admin.inv("mesh.down", code=OK)
    for host in ADDRESSES:
        assert seen(admin, host) == before[host], host
    admin.inv("mesh.up", code=OK)


def test_keys_are_forgotten_when_asked_and_new_ones_made(admin: Admin, before: Any) -> None:
    keys = {admin.said(host, "wg show wg0 public-key") for host in ADDRESSES}
    admin.inv("mesh.down --forget-keys", code=OK)
    for host in ADDRESSES:
        assert admin.lab.host_run(host, "test -e /etc/wireguard/wg0.key").returncode == 1
        assert seen(admin, host) == before[host], host
    admin.inv("mesh.up", code=OK)
    assert_whole(admin)
    assert not keys & {admin.said(host, "wg show wg0 public-key") for host in ADDRESSES}
