"""A gateway fails in every way it can, and the other takes charge by itself: how long nothing gets through.

`RUNS=10` runs each case so often and prints median and worst.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from promises import at_once, delivered, kept, said
from stream import Report, echoing, listening, streaming, talking
from workstation import ROOT, Admin, until

from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions

pytestmark = pytest.mark.lab

RUNS = int(os.environ.get("RUNS", "1"))
S2 = '\n[hosts.s2]\nsite = "shanghai"\naddress = "172.16.128.2"\n'
MOST_MS = 10_000
"""What the issue allows. Five seconds of silence decide, then followers are told within another."""
LOSSY_S = 20
WATCHERS = ("n2", "n3", "s1")


@pytest.fixture(scope="module")
def admin(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    """The article's cluster with n2 standing by in Nanjing and a leaf in Shanghai, up; both ends answer."""
    folder = tmp_path_factory.mktemp("failover")
    text = (ROOT / "hosts.toml").read_text(encoding="utf-8").replace(
        'gateways = ["n1"]', 'gateways = ["n1", "n2"]'
    ) + S2
    (folder / "hosts.toml").write_text(text, encoding="utf-8")
    admin = Admin(lab(load_inventory(folder / "hosts.toml"), HostOptions(packages=True)), folder, text)
    admin.inv("mesh.up", code=0)
    time.sleep(10)  # so long a watcher that has just started takes no charge: see README, "Limits"
    with echoing(admin, "s2"), echoing(admin, "n3"), listening(admin, "s2"):
        yield admin


# --- how n1 fails -------------------------------------------------------------------------------------------------


def stopped(admin: Admin) -> None:
    admin.lab.stop("n1", hard=True)


def started(admin: Admin) -> None:
    admin.lab.start("n1")


def run_on_n1(command: str) -> Callable[[Admin], None]:
    def run(admin: Admin) -> None:
        admin.said("n1", command)

    return run


def losing(percent: int) -> Callable[[Admin], None]:
    def lose(admin: Admin) -> None:
        admin.lab.lose("n1", percent)

    return lose


def rebooted(admin: Admin) -> None:
    admin.lab.reboot("n1")


FAILURES: dict[str, tuple[Callable[[Admin], None], Callable[[Admin], None]]] = {
    "n1 killed": (stopped, started),
    "forwarding off": (run_on_n1("sysctl -qw net.ipv4.ip_forward=0"), run_on_n1("sysctl -qw net.ipv4.ip_forward=1")),
    "wg0 down": (run_on_n1("systemctl stop wg-quick@wg0"), run_on_n1("systemctl start wg-quick@wg0")),
    "public link cut": (losing(100), losing(0)),
    "n1 rebooted": (rebooted, lambda admin: None),
}
"""How it begins, and how it ends."""


# --- what is seen -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """The packets of both directions."""

    out: Report
    back: Report

    @property
    def outage_ms(self) -> int:
        return max(self.out.outage_ms, self.back.outage_ms)


@contextmanager
def traffic(admin: Admin) -> Iterator[Seen]:
    """While inside, 100 packets a second go each way between leaves, and one TCP connection is kept."""
    with ExitStack() as stack:
        stack.enter_context(talking(admin, "n3", "172.16.128.2"))
        out = stack.enter_context(streaming(admin, "n3", "172.16.128.2"))
        back = stack.enter_context(streaming(admin, "s2", "172.16.0.3"))
        yield Seen(out, back)


def switches(admin: Admin, host: str = "n2") -> list[str]:
    """Return what a host has logged of who is in charge."""
    return admin.said(host, "journalctl -q -t isthmus -o cat").splitlines()


def in_charge(admin: Admin) -> dict[str, str]:
    """Return whom everybody who has a say goes by; nobody has noted anything yet where all is as hosts.toml says."""
    notes = {
        host: admin.said(host, "cat /run/isthmus/wg0/nanjing 2>/dev/null || echo - n1") for host in ("n2", "n3", "s1")
    }
    return {host: note.split()[1] for host, note in notes.items()}


def all_go_by(admin: Admin, gateway: str) -> bool:
    return set(in_charge(admin).values()) == {gateway}


def tell(text: str) -> None:
    """Say a number that was measured; pytest shows it with -s or -rP."""
    sys.stdout.write(text)


def measured(name: str, outages_ms: list[int]) -> None:
    worst = max(outages_ms)
    tell(
        f"\n{name}: nothing passed for {statistics.median(outages_ms):.0f} ms (median), {worst} ms (worst), {RUNS} runs"
    )
    assert worst <= MOST_MS, f"{name}: {outages_ms}"


def back_to_n1(admin: Admin) -> None:
    """Have n1 take charge again without waiting for a minute; everybody has moved then, and logged it."""

    def asked() -> bool:
        if all_go_by(admin, "n1"):
            # A note comes before its move, which waits for an even second; the log comes after it.
            last = [switches(admin, host)[-1:] for host in WATCHERS]
            return all(not line or line[0].startswith("nanjing: n1 is in charge: ") for line in last)
        admin.said("n2", "touch /run/isthmus/wg0.back")
        time.sleep(3)
        return False

    until(asked, lambda: f"n1 in charge again: {in_charge(admin)}, {switches(admin)}")


def assert_whole(admin: Admin) -> None:
    hosts = list(admin.hosts)
    pairs = {(one, other) for one in hosts for other in (*hosts, "mysql") if one != other}
    ping, path, plan = at_once(admin, "check.ping --count 1 --json", "check.path --json", "mesh.plan")
    assert delivered(ping) == pairs, said(ping)
    assert kept(path) == pairs, said(path)
    assert plan.returncode == 0, said(plan)


# --- tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAILURES)
def test_the_other_gateway_takes_charge(admin: Admin, name: str) -> None:
    fail, heal = FAILURES[name]
    outages = []
    for _ in range(RUNS):
        assert all_go_by(admin, "n1")
        before = {host: len(switches(admin, host)) for host in ("n2", "n3", "s1")}
        try:
            with traffic(admin) as seen:
                time.sleep(1)
                fail(admin)
                if name == "n1 rebooted":  # it may be back before anybody has missed it
                    time.sleep(10)
                else:
                    until(
                        lambda: all_go_by(admin, "n2"), lambda: f"n2 in charge: {in_charge(admin)}, {switches(admin)}"
                    )
                    time.sleep(2)
            outages.append(seen.outage_ms)
            tell(f"{outages[-1]} ")
            for host, number in before.items():
                assert len(switches(admin, host)) - number <= 1, switches(admin, host)
        finally:
            heal(admin)
            back_to_n1(admin)
    measured(name, outages)
    assert_whole(admin)


def test_lost_packets_make_nobody_move(admin: Admin) -> None:
    outages = []
    for _ in range(RUNS):
        before = switches(admin)
        with traffic(admin) as seen:
            admin.lab.lose("n1", 30)
            time.sleep(LOSSY_S)
            admin.lab.lose("n1", 0)
            time.sleep(3)
        outages.append(seen.outage_ms)
        tell(f"{outages[-1]} ")
        assert switches(admin) == before
        assert all_go_by(admin, "n1")
    measured("30 % of n1's packets lost", outages)


def test_where_the_other_site_is_dead_nobody_moves(admin: Admin) -> None:
    before = switches(admin)
    admin.lab.cut("shanghai")
    time.sleep(12)
    admin.lab.heal("shanghai")
    time.sleep(15)
    assert switches(admin) == before
    assert_whole(admin)


def test_the_first_takes_charge_again_after_a_minute_and_nothing_is_lost(admin: Admin) -> None:
    admin.said("n1", "sysctl -qw net.ipv4.ip_forward=0")
    until(lambda: all_go_by(admin, "n2"), "n2 in charge")
    assert_plan = admin.inv("mesh.plan")
    assert "net.ipv4.ip_forward" in assert_plan.stdout, said(assert_plan)
    assert "peer" not in assert_plan.stdout, said(assert_plan)
    status = admin.json("mesh.status")
    assert status["sites"]["nanjing"]["gateway"] == "n2", status["sites"]
    assert status["sites"]["nanjing"]["why"] == "n1 does not reach shanghai, n2 does"
    admin.inv("mesh.up", code=0)  # repairs n1 and leaves charge where it is
    assert all_go_by(admin, "n2")
    assert_whole(admin)
    with traffic(admin) as seen:
        until(lambda: all_go_by(admin, "n1"), "n1 in charge again")
        time.sleep(2)
    assert switches(admin)[-1] == "nanjing: n1 is in charge: it has been well for 60 s"
    tell(f"\nback to n1: {len(seen.out.missing)} and {len(seen.back.missing)} of {seen.out.sent} packets lost each way")
    assert seen.outage_ms < 1000
    assert_whole(admin)


def test_a_watcher_comes_back_whatever_ends_it(admin: Admin) -> None:
    for host in WATCHERS:
        for end in (
            "systemctl restart wg-quick@wg0",
            "pkill -KILL -x isthmus-watch",
            "systemctl stop isthmus-watch-wg0",
        ):
            admin.said(host, end)
            if "stop" in end:
                plan = admin.inv("mesh.plan", code=4)
                assert f"{host}: 1 change\n  unit isthmus-watch-wg0\n      -stopped\n      +running" in plan.stdout
                admin.inv("mesh.up", code=0)
            else:
                until(lambda host=host: active(admin, host), f"{host}'s watcher")  # type: ignore[misc]
    assert all_go_by(admin, "n1")
    assert_watched(admin)


# --- the undo timer -----------------------------------------------------------------------------------------------


def active(admin: Admin, host: str) -> bool:
    return admin.lab.host_run(host, "systemctl -q is-active isthmus-watch-wg0").returncode == 0


def assert_watched(admin: Admin) -> None:
    for host in WATCHERS:
        admin.said(host, "systemctl -q is-active isthmus-watch-wg0")
    plan = admin.inv("mesh.plan")
    assert plan.returncode == 0, said(plan)


def narrower(admin: Admin) -> Path:
    """Write an inventory that changes every host, and what n2 watches."""
    manual = ('gateways = ["n1", "n2"]', 'gateways = ["n1", "n2"]\nfailback = "manual"')
    return admin.beside("narrower.toml", manual, ("[mesh]\n", "[mesh]\nmtu = 1400\n"))


def test_a_change_is_undone_while_watchers_run_and_charge_moves(admin: Admin) -> None:
    patience = admin.patience("mesh.up")
    with admin.start_pausing(f"mesh.up --undo-after {patience + 30}", narrower(admin)) as run:
        admin.said("n1", "sysctl -qw net.ipv4.ip_forward=0")
        until(lambda: all_go_by(admin, "n2"), lambda: f"n2 in charge: {in_charge(admin)}")
        run.kill()
    admin.settle()  # n1 forwards again: that was part of its old state
    assert all_go_by(admin, "n2")
    assert_watched(admin)
    assert_whole(admin)
    back_to_n1(admin)
    assert_watched(admin)


def test_a_change_is_undone_on_hosts_that_are_rebooted_meanwhile(admin: Admin) -> None:
    patience = admin.patience("mesh.up")
    with admin.start_pausing(f"mesh.up --undo-after {patience + 30}", narrower(admin)) as run:
        admin.lab.stop("n2", "s1", hard=True)
        run.kill()
    admin.lab.start("n2", "s1")
    admin.settle()
    assert all_go_by(admin, "n1")
    assert_watched(admin)
    assert_whole(admin)


def test_an_undo_and_another_inventory_take_the_watchers_off(admin: Admin) -> None:
    alone = admin.beside("alone.toml", ('gateways = ["n1", "n2"]', 'gateways = ["n1"]'))
    files = "/run/isthmus /etc/isthmus/wg0.watch /usr/local/sbin/isthmus-watch"
    traces = f"ls {files}; iptables-save | grep WATCH; pgrep -x isthmus-watch"

    def left() -> dict[str, str]:
        return {host: admin.lab.host_run(host, f"({traces}) 2>/dev/null").stdout for host in admin.hosts}

    nothing = dict.fromkeys(admin.hosts, "")
    admin.inv("mesh.up", alone, code=0)
    assert left() == nothing
    with admin.start_pausing(f"mesh.up --undo-after {admin.patience('mesh.plan', alone)}") as run:
        assert left()["n2"] != ""
        run.kill()
    admin.settle()
    assert left() == nothing
    assert admin.inv("mesh.plan", alone).returncode == 0
    admin.inv("mesh.up", code=0)
    assert_watched(admin)
    admin.inv("mesh.down", code=0)
    assert left() == nothing
    admin.inv("mesh.up", code=0)
    assert_whole(admin)
