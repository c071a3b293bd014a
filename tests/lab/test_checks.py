"""check.mtu, check.ports and check.all against clouds that were made too narrow or closed a port."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import pytest
from promises import ADDRESSES, FAILED, OK
from workstation import Admin

from isthmus.lab import HostOptions
from isthmus.lab.layout import UPLINK, interface

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def admin(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    """The article's mesh, up."""
    admin = Admin(lab(options=HostOptions(packages=True)), tmp_path_factory.mktemp("checks"))
    admin.inv("mesh.up", code=OK)
    return admin


def cloud(admin: Admin, site: str, command: str) -> str:
    """Run a command on a site's router and return what it printed."""
    inside = ["ip", "netns", "exec", admin.lab.names.router(site), "sh", "-c", command]
    return subprocess.run(inside, check=True, capture_output=True, text=True).stdout


@contextmanager
def narrowed(admin: Admin, site: str, mtu: int) -> Iterator[None]:
    """While inside, a site's link to the internet carries packets of `mtu` bytes, as PPPoE's 1492."""

    def carry(size: int) -> None:
        internet, names = admin.lab.names.internet, interface("u", site)
        subprocess.run(["ip", "-n", internet, "link", "set", names, "mtu", str(size)], check=True)
        cloud(admin, site, f"ip link set {UPLINK} mtu {size}")

    carry(mtu)
    try:
        yield
    finally:
        carry(1500)
        for host in admin.hosts:  # what they learned of the path holds for ten minutes
            admin.said(host, "ip route flush cache")


@contextmanager
def closed(admin: Admin, host: str, protocol: str, port: int) -> Iterator[None]:
    """While inside, a host's security group admits no new flow to this port; open flows go on, as in clouds."""
    site = admin.lab.inventory.hosts[host].site
    match = f"ct state new ip daddr {ADDRESSES[host]} {protocol} dport {port} drop"
    told = cloud(admin, site, f"nft -e -a insert rule ip lab forward {match}")
    handle = told.split("# handle ")[1].split()[0]
    try:
        yield
    finally:
        cloud(admin, site, f"nft delete rule ip lab forward handle {handle}")


def not_open(report: Any) -> list[tuple[str, str, str, str]]:
    """Return what `check.ports --json` did not find open."""
    return [
        (port["host"], f"{port['port']}/{port['protocol']}", port["source"], port["state"])
        for port in report["ports"]
        if port["state"] != "open"
    ]


# --- mtu ----------------------------------------------------------------------------------------------------------


def test_every_pair_carries_the_meshs_mtu_and_not_one_byte_more(admin: Admin) -> None:
    report = admin.json("check.mtu", code=OK)
    assert {pair["found"] for pair in report["pairs"]} == {1420}
    assert len(report["pairs"]) == 12
    assert {(t["source"], t["destination"], t["found"]) for t in report["tunnels"]} == {
        (a, b, 1500) for x, y in (("n1", "n2"), ("n1", "n3"), ("n1", "s1")) for a, b in ((x, y), (y, x))
    }
    admin.said("n1", "ip link set wg0 mtu 1421")
    admin.said("s1", "ip link set wg0 mtu 1421")
    more = admin.json("check.mtu", code=FAILED)["pairs"]
    admin.inv("mesh.up", code=OK)
    # Leaves' own wg0 has the right one, but takes in whatever comes: packets are only measured on their way out.
    wider = {(pair["source"], pair["destination"]) for pair in more if not pair["kept"]}
    assert wider == {("n1", "s1"), ("s1", "n1"), ("s1", "n2"), ("s1", "n3")}


def test_a_path_of_1492_bytes_is_found_and_1412_proposed_and_right(admin: Admin) -> None:
    with narrowed(admin, "shanghai", 1492):
        report = admin.json("check.mtu", code=FAILED)
        assert report["proposal"] == 1412
        narrow = [(t["source"], t["destination"], t["found"]) for t in report["tunnels"] if not t["kept"]]
        assert narrow == [("n1", "s1", 1492), ("s1", "n1", 1492)]
        admin.with_mtu(1412)
        try:
            admin.inv("mesh.up", code=OK)
            report = admin.json("check.mtu", code=OK)
            assert {pair["found"] for pair in report["pairs"]} == {1412}
        finally:
            admin.with_mtu(1420)
            admin.inv("mesh.up", code=OK)


def test_where_full_packets_would_have_to_be_cut_in_two_it_is_found_to_the_byte(admin: Admin) -> None:
    with narrowed(admin, "nanjing", 1403):
        report = admin.json("check.mtu", code=FAILED)
    assert {t["found"] for t in report["tunnels"] if "s1" in (t["source"], t["destination"])} == {1403}
    assert report["proposal"] == 1323


# --- ports --------------------------------------------------------------------------------------------------------


def test_every_port_that_must_be_open_is_open(admin: Admin) -> None:
    report = admin.json("check.ports", code=OK)
    assert (len(report["ports"]), not_open(report)) == (24, [])


def test_a_closed_port_is_named_though_the_tunnel_holds_its_flow_open(admin: Admin) -> None:
    with closed(admin, "s1", "udp", 51820):
        admin.pings()
        found = admin.inv("check.ports", code=FAILED).stdout.splitlines()
    assert found[-1] == (
        "s1 (203.0.113.129): 51820/udp is closed to n1 (203.0.113.1): no datagram arrives; "
        "it is for WireGuard from nanjing; carries all that its hosts say to those of shanghai"
    )
    assert [line for line in found[1:-2] if " open" not in line] == [], "and no other is"
    assert len(found[1:-2]) == 23


def test_a_leafs_own_firewall_closes_a_port_too(admin: Admin) -> None:
    """Ahead of our own rule, as an administrator's hand may put it."""
    admin.said("n3", "iptables -I INPUT -p udp --dport 51820 -j DROP")
    try:
        assert not_open(admin.json("check.ports", code=FAILED)) == [("n3", "51820/udp", "n1", "closed")]
    finally:
        admin.said("n3", "iptables -D INPUT -p udp --dport 51820 -j DROP")


def test_ports_of_kubernetes_are_tried_before_there_is_any(admin: Admin) -> None:
    """A kubelet's and flannel's; and that nothing listens there yet is no closed port."""
    closing = ("-p tcp --dport 10250", "-p udp --dport 8472")
    for what in closing:
        admin.said("n3", f"iptables -I INPUT {what} -s 172.16.0.2 -j DROP")
    try:
        report = admin.json("check.ports", code=FAILED)
    finally:
        for what in closing:
            admin.said("n3", f"iptables -D INPUT {what} -s 172.16.0.2 -j DROP")
    assert not_open(report) == [("n3", "10250/tcp", "n2", "closed"), ("n3", "8472/udp", "n2", "closed")]
    api = [port for port in report["ports"] if port["port"] == 6443]
    assert [(port["source"], port["reason"]) for port in api] == [
        (source, "nothing listens there yet") for source in ("n2", "n3")
    ]


def test_a_closed_ssh_port_is_named_and_what_cannot_be_tried_without_it_is_told(admin: Admin) -> None:
    with closed(admin, "n2", "tcp", 22):
        report = admin.json("check.ports", code=FAILED)
    by_state: dict[str, list[tuple[str, str, str]]] = {}
    for host, port, source, state in not_open(report):
        by_state.setdefault(state, []).append((host, port, source))
    assert by_state["closed"] == [("n2", "22/tcp", "the workstation")]
    expected = [(p["host"], f"{p['port']}/{p['protocol']}", p["source"]) for p in report["ports"]]
    assert by_state["untested"] == [rule for rule in expected if "n2" in (rule[0], rule[2]) and rule[1] != "22/tcp"]
    assert report["failures"] == {}, "it is named already"


def test_ports_are_tried_without_a_mesh_and_nothing_of_it_stays_on_the_hosts(admin: Admin) -> None:
    admin.inv("mesh.down", code=OK)
    assert not_open(admin.json("check.ports", code=OK)) == []
    with closed(admin, "n1", "udp", 51820):
        assert not_open(admin.json("check.ports", code=FAILED)) == [("n1", "51820/udp", "s1", "closed")]
    assert [host for host in admin.hosts if admin.lab.host_run(host, "pgrep perl").stdout] == []
    admin.inv("mesh.up", code=OK)


# --- all ----------------------------------------------------------------------------------------------------------


def test_all_checks_pass_on_a_mesh_that_is_well_and_one_fault_fails_them(admin: Admin) -> None:
    file = admin.file.with_name("checks.xml")
    assert admin.json(f"check.all --junit {file}", code=OK)["passed"]
    suites = ElementTree.parse(file).getroot()
    assert (suites.attrib["tests"], suites.attrib["failures"], suites.attrib["skipped"]) == ("74", "0", "0")
    with closed(admin, "n1", "udp", 51820):
        assert "n1 (203.0.113.1): 51820/udp is closed to s1" in admin.inv("check.all", code=FAILED).stdout
