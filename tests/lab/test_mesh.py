"""The main job from the command line: four bare hosts in two clouds become one network, and stay it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from promises import (
    ADDRESSES,
    FAILED,
    OK,
    PAIRS,
    WAITING,
    assert_whole,
    at_once,
    delivered,
    kept,
    resource_saw,
    said,
    strangers_met,
    true_sources,
)
from workstation import ROOT, Admin, until

pytestmark = pytest.mark.lab


@dataclass(frozen=True)
class FirstUp:
    """Four bare hosts, what was found there, and what the first commands said."""

    admin: Admin
    tools: dict[str, str]
    plan: subprocess.CompletedProcess[str]
    status: subprocess.CompletedProcess[str]
    up: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def first(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> FirstUp:
    admin = Admin(lab(), tmp_path_factory.mktemp("mesh"))
    look = "for tool in wg wg-quick iptables; do command -v $tool || true; done"
    tools = {host: admin.said(host, look) for host in ADDRESSES}
    plan, status = at_once(admin, "mesh.plan --json", "mesh.status --json")
    return FirstUp(admin, tools, plan, status, admin.inv("mesh.up"))


@pytest.fixture(scope="module")
def mesh(first: FirstUp) -> Admin:
    assert first.up.returncode == OK, said(first.up)
    return first.admin


# --- from bare hosts ----------------------------------------------------------------------------------------------


def test_bare_hosts_become_a_mesh_in_one_command(first: FirstUp) -> None:
    assert first.tools == {"n1": "", "n2": "", "n3": "", "s1": ""}
    assert first.up.returncode == OK, said(first.up)
    assert "4 hosts: the mesh is up and every pair reaches each other" in first.up.stdout


def test_before_the_first_up_everything_waits_and_nothing_runs(first: FirstUp) -> None:
    assert first.plan.returncode == WAITING, said(first.plan)
    for host, changes in json.loads(first.plan.stdout)["hosts"].items():
        names = {(change["kind"], change["name"]) for change in changes}
        assert {("package", "wireguard-tools"), ("package", "iptables"), ("package", "iputils-ping")} <= names, host
        assert {("key", "/etc/wireguard/wg0.key"), ("file", "/etc/wireguard/wg0.conf")} <= names, host
    assert first.status.returncode == FAILED
    running = [host for host, status in json.loads(first.status.stdout)["hosts"].items() if status["up"]]
    assert running == []


def test_keys_were_made_on_the_hosts_for_root_alone_and_all_differ(mesh: Admin) -> None:
    assert {mesh.said(host, "stat -c '%a %u' /etc/wireguard/wg0.key") for host in ADDRESSES} == {"600 0"}
    keys = {host: mesh.said(host, "wg pubkey </etc/wireguard/wg0.key") for host in ADDRESSES}
    assert len(set(keys.values())) == 4
    assert {host: mesh.said(host, "wg show wg0 public-key") for host in ADDRESSES} == keys


# --- everybody reaches everybody ----------------------------------------------------------------------------------


def test_every_member_reaches_every_member_and_the_resource(mesh: Admin) -> None:
    ping = mesh.inv("check.ping --json")
    assert ping.returncode == OK, said(ping)
    assert len(json.loads(ping.stdout)["pairs"]) == 16
    assert delivered(ping) == PAIRS
    assert all(pair["rtt_ms"] >= 0 for pair in json.loads(ping.stdout)["pairs"])


def test_every_packet_takes_the_promised_path(mesh: Admin) -> None:
    path = mesh.inv("check.path --json")
    assert path.returncode == OK, said(path)
    assert kept(path) == PAIRS
    by_pair = {(pair["source"], pair["destination"]): pair["path"] for pair in json.loads(path.stdout)["pairs"]}
    assert by_pair["n2", "n3"] == "n2 --> n3"
    assert by_pair["n3", "s1"] == "n3 ==> n1 =internet=> s1"
    assert by_pair["s1", "n2"] == "s1 =internet=> n1 ==> n2"


def test_every_member_sees_the_others_true_addresses(mesh: Admin) -> None:
    seen = strangers_met(mesh)
    assert "172.16.0.2" in seen["s1"]
    assert "172.16.128.1" in seen["n2"]
    assert seen == true_sources()


def test_the_resource_sees_its_sites_gateway_whoever_comes(mesh: Admin) -> None:
    assert resource_saw(mesh) == {"172.16.128.1"}


# --- what the clouds bill -----------------------------------------------------------------------------------------


def send(mesh: Admin, source: str, destination: str, megabytes: int) -> Any:
    """Return what `inv lab.send --json` says, run beside the lab as its user does."""
    line = f"lab.send --source {source} --destination {destination} --megabytes {megabytes} --json"
    argv = mesh.command(f"{line} --name {mesh.lab.names.name}")
    inv = Path(sys.executable).with_name(argv[0])
    ended = subprocess.run([inv, *argv[1:]], check=False, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == OK, said(ended)
    return json.loads(ended.stdout)["uplinks"]


def test_traffic_inside_a_site_costs_nothing(mesh: Admin) -> None:
    nanjing = send(mesh, "n2", "n3", 50)["nanjing"]
    assert nanjing["sent_bytes"] + nanjing["received_bytes"] < 100_000


def test_traffic_between_sites_crosses_the_internet_once(mesh: Admin) -> None:
    uplinks = send(mesh, "n3", "s1", 5)
    assert 5_000_000 < uplinks["nanjing"]["sent_bytes"] < 6_500_000
    assert 5_000_000 < uplinks["shanghai"]["received_bytes"] < 6_500_000
    assert uplinks["nanjing"]["received_bytes"] < 1_000_000
    assert uplinks["shanghai"]["sent_bytes"] < 1_000_000


# --- a second run, and files for review ---------------------------------------------------------------------------

TRACES = """
stat -c '%n %i %z' /etc/wireguard/* /etc/isthmus/* /usr/local/sbin/isthmus
wg show wg0 allowed-ips | sort
cat /sys/class/net/wg0/ifindex
systemctl show -p ActiveEnterTimestamp wg-quick@wg0
"""


def test_the_second_run_changes_nothing_and_says_so(mesh: Admin) -> None:
    before = {host: mesh.said(host, TRACES) for host in ADDRESSES}
    plan, status = at_once(mesh, "mesh.plan", "mesh.status --json")
    assert plan.returncode == OK, said(plan)
    assert plan.stdout.strip() == "n1, n2, n3, s1: nothing to do"
    up = mesh.inv("mesh.up")
    assert up.returncode == OK, said(up)
    assert up.stdout.splitlines()[-1] == "4 hosts: nothing to do"
    assert {host: mesh.said(host, TRACES) for host in ADDRESSES} == before
    assert status.returncode == OK, said(status)
    assert all(
        one["up"] and one["enabled"] and one["drift"] == [] for one in json.loads(status.stdout)["hosts"].values()
    )


def test_rendered_files_are_those_on_the_hosts_but_for_the_keys(mesh: Admin, tmp_path: Path) -> None:
    render = mesh.inv(f"mesh.render --out {tmp_path}/out")
    assert render.returncode == OK, said(render)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 4 * 4 + 2
    keys = {host: mesh.said(host, "wg show wg0 public-key") for host in ADDRESSES}
    for path in files:
        host, _, place = path.relative_to(tmp_path / "out").as_posix().partition("/")
        text = path.read_text(encoding="utf-8")
        for other, key in keys.items():
            text = text.replace(f"KEY-{other}\n", f"{key}\n")
        assert "KEY-" not in text
        assert mesh.lab.host_run(host, ["cat", f"/{place}"]).stdout == text, path


# --- after a power failure ----------------------------------------------------------------------------------------


def test_all_hosts_reboot_at_once_and_the_mesh_is_back_by_itself(mesh: Admin) -> None:
    # Someone else's file that comes after ours, and says the opposite, must not stop a gateway at the next boot.
    mesh.said("n1", "echo net.ipv4.ip_forward = 0 >/etc/sysctl.d/99-other.conf")
    boots = {host: mesh.said(host, "cat /proc/sys/kernel/random/boot_id") for host in ADDRESSES}
    mesh.lab.reboot(*ADDRESSES)
    assert not set(boots.values()) & {mesh.said(host, "cat /proc/sys/kernel/random/boot_id") for host in ADDRESSES}
    until(lambda: mesh.inv("check.ping --count 1").returncode == OK, "the mesh to be back")
    assert_whole(mesh)
