"""The mesh keeps its promises on whatever hosts: Docker's, old and new Debians, behind sudo, with jumbo frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from promises import ADDRESSES, ARTICLE, assert_mesh_up_keeps_every_promise, built
from workstation import Admin

from isthmus.lab import HostOptions, LabOptions

pytestmark = pytest.mark.lab

READY = HostOptions(packages=True)
PASSWORD = "correct horse 'battery' $taple"


def suites(packages: bool, **by_host: str) -> LabOptions:
    """Return hosts of these Debian releases, on which apt has to install the packages or not."""
    hosts = {host: HostOptions(suite=suite, packages=packages) for host, suite in by_host.items()}
    return LabOptions(READY, hosts=hosts)


@pytest.fixture
def labs(lab: Any, tmp_path: Path) -> Iterator[Any]:
    """A function that builds a lab of its own for the test."""
    with ExitStack() as stack:
        yield lambda options, text=ARTICLE: stack.enter_context(built(lab, tmp_path, options, text))


def test_docker_on_every_host_is_neither_in_the_way_nor_disturbed(labs: Any) -> None:
    admin = labs(LabOptions(HostOptions(docker=True, packages=True)))
    before = {host: firewall_and_routes(admin, host) for host in ADDRESSES}
    assert all("-P FORWARD DROP" in lines for lines in before.values())
    assert_mesh_up_keeps_every_promise(admin)
    for host in ADDRESSES:
        after = firewall_and_routes(admin, host)
        assert [line for line in before[host] if line not in after] == [], host
        # 172.17.0.0/16 is inside the mesh's supernet
        assert "dev docker0" in admin.said(host, "ip route get 172.17.0.2"), host


def firewall_and_routes(admin: Admin, host: str) -> list[str]:
    return admin.said(host, "iptables -S; iptables -t nat -S; ip route; ip rule").splitlines()


@pytest.mark.parametrize(
    ("releases", "packages"),
    [
        ({"n1": "bookworm", "n2": "bullseye", "n3": "trixie", "s1": "trixie"}, False),
        ({"n1": "bullseye", "n2": "trixie", "n3": "bookworm", "s1": "bullseye"}, True),
    ],
    ids=["one leaf old, the other and a gateway new, nothing installed", "gateways old, a leaf new"],
)
def test_debian_11_12_and_13_make_one_mesh(labs: Any, releases: dict[str, str], packages: bool) -> None:
    admin = labs(suites(packages, **releases))
    found = {host: admin.said(host, ". /etc/os-release; echo $VERSION_CODENAME") for host in ADDRESSES}
    assert found == releases
    assert_mesh_up_keeps_every_promise(admin)


def test_a_user_who_may_use_sudo_is_as_good_as_root(labs: Any) -> None:
    # Bare hosts: what apt does is done by sudo too.
    admin = labs(LabOptions(), ARTICLE.replace('user = "root"', 'user = "debian"'))
    assert_mesh_up_keeps_every_promise(admin)


def test_a_user_whose_sudo_asks_for_a_password_is_too(labs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = HostOptions(packages=True, sudo_password=PASSWORD)
    admin = labs(LabOptions(options), ARTICLE.replace('user = "root"', 'user = "debian"'))
    without = admin.inv("mesh.up", code=1)
    assert set(ADDRESSES) == {line.partition(":")[0] for line in without.stderr.splitlines() if "password" in line}
    monkeypatch.setenv("INVOKE_SUDO_PASSWORD", PASSWORD)
    assert_mesh_up_keeps_every_promise(admin)
    debug = admin.inv("mesh.plan --debug", code=0)
    assert PASSWORD not in debug.stdout + debug.stderr


def test_a_host_without_a_public_address_is_reached_through_its_gateway_alone(labs: Any) -> None:
    text = ARTICLE.replace('public  = "203.0.113.2"', "")
    assert text != ARTICLE
    admin = labs(LabOptions(READY), text)
    assert_mesh_up_keeps_every_promise(admin)
    for host in ("n2", "n3"):
        # whoever logged in there came from n1
        assert set(admin.said(host, LOGINS).split()) == {"172.16.0.1"}


LOGINS = r"journalctl -q -u ssh -o cat | sed -n 's/^Accepted publickey for root from \([0-9.]*\) .*/\1/p'"


@pytest.mark.parametrize("site", ["nanjing", "shanghai"])
def test_jumbo_frames_in_one_site_do_not_get_stuck_on_the_way_to_the_other(labs: Any, site: str) -> None:
    admin = labs(LabOptions(READY, sites={site: HostOptions(mtu=8500, packages=True)}))
    assert_mesh_up_keeps_every_promise(admin)
