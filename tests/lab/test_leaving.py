"""Hosts and sites that leave, and moves: nobody who stays loses a packet, nobody who left gets one through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from promises import FAILED, OK, USAGE, WAITING
from stream import echoing, streaming
from test_live import BEIJING
from workstation import ROOT, Admin

from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions, Lab

pytestmark = pytest.mark.lab

OURS = "ls -d /etc/isthmus /etc/wireguard/wg0.conf /usr/local/sbin/isthmus /var/lib/isthmus /sys/class/net/wg0"


@pytest.fixture(scope="module")
def admin(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    """Three sites, up; s1 answers streams. The clouds let the port through that the mesh will move to."""
    folder = tmp_path_factory.mktemp("leaving")
    text = (ROOT / "hosts.toml").read_text(encoding="utf-8") + BEIJING
    (folder / "hosts.toml").write_text(text, encoding="utf-8")
    options = HostOptions(packages=True, open_ports=("51821/udp",))
    admin = Admin(lab(load_inventory(folder / "hosts.toml"), options), folder, text)
    admin.inv("mesh.up", code=OK)
    with echoing(admin, "s1"):
        yield admin


@contextmanager
def undisturbed(admin: Admin, source: str = "n2") -> Iterator[None]:
    """While inside, 100 packets a second go from a host to s1 and back; afterwards none is missing."""
    with streaming(admin, source, "172.16.128.1") as report:
        yield
    assert report.sent > 50
    assert report.missing == [], f"of {report.sent} packets"


def without(admin: Admin, section: str, until: str) -> str:
    """Return a section of the inventory, to be replaced by nothing."""
    text = admin.file.read_text(encoding="utf-8")
    return text[text.index(section) : text.index(until)]


def heard(admin: Admin, source: str) -> int:
    """Return how many packets of a source s1 has got out of the mesh."""
    counted = admin.said("s1", f"iptables -L INPUT -v -x -n | awk '$7 == \"{source}\" {{ print $1 }}'")
    return int(counted)


def gets_nothing_through(admin: Admin, host: str, address: str) -> None:
    """A host that has left sends with all it has, by its running session and by a new handshake; s1 hears nothing."""
    before = heard(admin, address)
    admin.lab.host_run(host, "ping -c 5 -i 0.2 -W 1 172.16.128.1")
    admin.said(host, "systemctl restart wg-quick@wg0")
    admin.lab.host_run(host, "ping -c 5 -i 0.5 -W 1 172.16.128.1")
    assert heard(admin, address) == before
    assert admin.said(host, "wg show wg0 latest-handshakes | awk '$2 > 0'") == ""


# --- leaving ------------------------------------------------------------------------------------------------------


def test_the_key_of_a_leaf_that_has_left_gets_nothing_through(admin: Admin) -> None:
    admin.said("s1", "iptables -I INPUT -i wg0 -s 172.16.0.3; iptables -I INPUT -i wg0 -s 172.17.0.1")
    admin.said("n3", "ping -c 2 -W 5 172.16.128.1")
    assert heard(admin, "172.16.0.3") == 2
    old = admin.file.read_text(encoding="utf-8")
    admin.file.with_name("old.toml").write_text(old, encoding="utf-8")
    key = admin.said("n3", "wg show wg0 public-key")
    with undisturbed(admin):
        admin.beside(admin.file.name, (without(admin, "[hosts.n3]", "[hosts.s1]"), ""))
        admin.inv("mesh.up", code=OK)
    for host in ("n1", "n2", "s1", "b1"):
        assert key not in admin.said(host, "wg show wg0 dump; cat /etc/wireguard/wg0.conf")
    gets_nothing_through(admin, "n3", "172.16.0.3")


def test_it_is_cleaned_later_by_the_inventory_as_it_was(admin: Admin) -> None:
    old = admin.file.with_name("old.toml")
    admin.inv(f"mesh.up --prune {old} --only n1", code=USAGE)
    with undisturbed(admin):
        up = admin.inv(f"mesh.up --prune {old}", code=OK)
    assert "n3: has left; everything of ours was taken off" in up.stdout
    assert admin.lab.host_run("n3", OURS).stdout == ""
    again = admin.json(f"mesh.up --prune {old}", code=OK)
    assert (again["changed"], again["left"]) == ([], {"cleaned": [], "bare": ["n3"], "unreachable": {}, "failures": {}})


def test_a_site_that_has_left_while_it_was_off_is_trusted_no_more_and_cleaned_when_it_is_back(admin: Admin) -> None:
    before = heard(admin, "172.17.0.1")
    admin.said("b1", "ping -c 2 -W 5 172.16.128.1")
    assert heard(admin, "172.17.0.1") == before + 2
    old = admin.file.with_name("older.toml")
    old.write_text(admin.file.read_text(encoding="utf-8"), encoding="utf-8")
    admin.lab.stop("b1")
    with undisturbed(admin):
        admin.beside(admin.file.name, (BEIJING, ""))
        up = admin.inv(f"mesh.up --prune {old}", code=OK)
    assert "b1: has left and cannot be reached (" in up.stdout
    assert "; nobody trusts it any more, its files stay" in up.stdout
    admin.lab.start("b1")
    gets_nothing_through(admin, "b1", "172.17.0.1")
    assert "b1: has left; everything of ours was taken off" in admin.inv(f"mesh.up --prune {old}", code=OK).stdout
    assert admin.lab.host_run("b1", OURS).stdout == ""


# --- moving -------------------------------------------------------------------------------------------------------


def test_a_host_gets_another_address_when_it_has_it_and_not_before(admin: Admin) -> None:
    with undisturbed(admin):
        admin.beside(admin.file.name, ('"172.16.0.2"', '"172.16.0.22"'))
        refused = admin.inv("mesh.up", code=USAGE).stderr
        assert "hosts.n2.address: found" in refused
        assert "give it the new one first" in refused
    assert "172.16.0.2/32" in admin.said("n1", "wg show wg0 allowed-ips")
    with undisturbed(admin, "n1"):
        admin.lab = Lab(load_inventory(admin.file), admin.lab.names.name, admin.lab.options)
        admin.lab.up()  # n2's NIC gets the address, and n2 is restarted
        admin.inv("mesh.up", code=OK)
    admin.pings()
    admin.inv("mesh.plan", code=OK)
    assert "172.16.0.22/32" in admin.said("n1", "wg show wg0 allowed-ips")


def test_wider_networks_cost_no_packet(admin: Admin) -> None:
    with undisturbed(admin):
        for change in (("172.16.0.0/12", "172.16.0.0/13"), ("172.16.128.0/24", "172.16.128.0/22")):
            admin.beside(admin.file.name, change)
            admin.inv("mesh.plan", code=WAITING)
            admin.inv("mesh.up", code=OK)
    assert "172.16.128.0/22" in admin.said("n2", "ip route show proto 182")
    admin.inv("mesh.plan", code=OK)


def test_what_takes_two_steps_is_refused_and_nothing_is_lost(admin: Admin) -> None:
    moves = {"mesh.interface": ('"wg0"', '"wg1"'), "mesh.listen_port": ("51820", "51821")}
    with undisturbed(admin):
        for where, change in moves.items():
            new = admin.beside("new.toml", change)
            for line in ("mesh.plan", "mesh.up"):
                refused = admin.inv(line, new, code=USAGE)
                assert where in refused.stderr
                assert "`inv mesh.down` with the old hosts.toml, then `inv mesh.up`" in refused.stderr
    admin.inv("mesh.plan", code=OK)


def test_the_two_steps_lead_there(admin: Admin) -> None:
    new = admin.beside("new.toml", ('"wg0"', '"wg1"'), ("51820", "51821"))
    assert "has the mesh on wg0, not on wg1" in admin.inv("mesh.down", new, code=FAILED).stderr
    admin.inv("mesh.down", code=OK)
    admin.inv("mesh.up", new, code=OK)
    admin.pings(new)
    for host in ("n1", "n2", "s1"):
        assert admin.said(host, "wg show interfaces; wg show wg1 listen-port").split() == ["wg1", "51821"]
        assert admin.lab.host_run(host, "ls /etc/wireguard/wg0.conf").returncode != 0
