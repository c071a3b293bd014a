"""A site with two gateways: one in charge, one that stands by, and what becomes of the others when one is dead."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from promises import OK, at_once, delivered, kept, said
from stream import echoing, streaming
from workstation import PATIENCE_S, ROOT, Admin

from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions

pytestmark = pytest.mark.lab

N1_IN_CHARGE, N2_IN_CHARGE = 'gateways = ["n1", "n2"]', 'gateways = ["n2", "n1"]'
S2 = '\n[hosts.s2]\nsite = "shanghai"\naddress = "172.16.128.2"\n'
MOST_LOST = 50
"""Of 100 packets a second there and back while another gateway takes charge, on a machine that many share."""


@pytest.fixture(scope="module")
def admin(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    """The article's cluster with n2 standing by in Nanjing and a leaf in Shanghai, up."""
    folder = tmp_path_factory.mktemp("gateways")
    text = (ROOT / "hosts.toml").read_text(encoding="utf-8").replace('gateways = ["n1"]', N1_IN_CHARGE) + S2
    (folder / "hosts.toml").write_text(text, encoding="utf-8")
    admin = Admin(lab(load_inventory(folder / "hosts.toml"), HostOptions(packages=True)), folder, text)
    admin.inv("mesh.up", code=0)
    return admin


def put_in_charge(admin: Admin, gateways: str) -> None:
    text = admin.file.read_text(encoding="utf-8")
    admin.file.write_text(text.replace(N1_IN_CHARGE, gateways).replace(N2_IN_CHARGE, gateways), encoding="utf-8")


def changed_by(up: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.partition(":")[0] for line in up.stdout.splitlines() if line.endswith(" changed")]


def assert_whole(admin: Admin, without: str | None = None) -> None:
    """Everybody reaches everybody, by the promised path and with nothing left to do; but for a host that is dead."""
    hosts = [host for host in admin.hosts if host != without]
    pairs = {(one, other) for one in hosts for other in (*hosts, "mysql") if one != other}
    ping, path, plan = at_once(admin, "check.ping --count 1 --json", "check.path --json", "mesh.plan")
    assert delivered(ping) == pairs, said(ping)
    assert kept(path) == pairs, said(path)
    assert {ping.returncode, path.returncode, plan.returncode} == {OK if without is None else 1}, said(plan)
    if without is None:
        assert "nothing to do" in plan.stdout, said(plan)


def test_with_a_gateway_that_stands_by_everybody_reaches_everybody(admin: Admin) -> None:
    assert_whole(admin)


def test_pings_that_a_group_drops_inside_a_site_are_named(admin: Admin) -> None:
    """Without them nobody would learn that the second gateway takes charge."""
    assert all(port["state"] == "open" for port in admin.json("check.ports", code=OK)["ports"])
    admin.said("n2", "iptables -I INPUT -p icmp --icmp-type echo-request -s 172.16.0.3 -j DROP")
    try:
        report = admin.json("check.ports", code=1)
    finally:
        admin.said("n2", "iptables -D INPUT -p icmp --icmp-type echo-request -s 172.16.0.3 -j DROP")
    closed = [port for port in report["ports"] if port["state"] != "open"]
    assert [(port["host"], port["source"], port["protocol"], port["port"]) for port in closed] == [
        ("n2", "n3", "icmp", None)
    ]


def test_another_gateway_takes_charge_while_packets_pass(admin: Admin) -> None:
    with echoing(admin, "s1"):
        for gateways in (N2_IN_CHARGE, N1_IN_CHARGE):
            put_in_charge(admin, gateways)
            with streaming(admin, "n3", "172.16.128.1") as report:
                up = admin.inv("mesh.up", code=0)
            assert changed_by(up) == ["n1", "n2", "n3", "s1"], said(up)
            assert report.sent > 100
            assert len(report.missing) < MOST_LOST, f"{report.missing} of {report.sent} packets"
            assert_whole(admin)


def test_a_gateway_is_drained_switched_off_and_put_back_while_packets_pass(admin: Admin) -> None:
    put_in_charge(admin, N1_IN_CHARGE)
    with echoing(admin, "s1"):
        with streaming(admin, "n3", "172.16.128.1") as report:
            drained = admin.inv("mesh.drain n1", code=0)
            admin.lab.stop("n1")
        assert "n1 is drained: n2 is in charge of nanjing" in drained.stderr, said(drained)
        assert len(report.missing) < MOST_LOST, f"{report.missing} of {report.sent} packets"
        admin.lab.start("n1")
        assert_whole(admin)  # the plan knows it too
        with streaming(admin, "n3", "172.16.128.1") as report:
            admin.inv("mesh.undrain n1", code=0)
        assert len(report.missing) < MOST_LOST, f"{report.missing} of {report.sent} packets"
    assert "drained" not in admin.inv("mesh.status", code=0).stderr
    assert_whole(admin)


def test_one_line_and_mesh_up_replace_a_gateway_that_is_dead(admin: Admin) -> None:
    admin.lab.stop("n1")
    assert admin.lab.host_run("n3", "ping -c 1 -W 1 172.16.128.1").returncode != 0
    admin.said("n2", f"ping -c 1 -W {PATIENCE_S} 172.16.128.1")  # who stands by needs nobody
    put_in_charge(admin, N2_IN_CHARGE)
    up = admin.inv("mesh.up", code=1)
    assert changed_by(up) == ["n2", "n3", "s1"], said(up)
    assert_whole(admin, without="n1")
    again = admin.inv("mesh.up", code=1)
    assert again.stdout.splitlines() == [f"{host}: nothing to do" for host in admin.hosts if host != "n1"], said(again)
    assert again.stderr.splitlines()[-1].startswith("n1: "), said(again)
    admin.lab.start("n1")
    up = admin.inv("mesh.up", code=0)
    assert changed_by(up) == ["n1"], said(up)  # it is now the one that watches
    assert_whole(admin)
