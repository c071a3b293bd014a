"""A change that nobody confirms undoes itself: every host has the old network or the new one, whole."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from workstation import ROOT, Admin, until

from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions

pytestmark = pytest.mark.lab

REDIS = """
[resources.redis]
site    = "shanghai"
address = "172.16.128.51"
port    = 6379
"""

STATE = """
ip -4 -o address show wg0; ip -o link show wg0 | grep -o 'mtu [0-9]*'
ip -4 route show table all | grep wg0; ip -4 rule
iptables-save | grep -e '^-A' -e ISTHMUS | sed 's/ *\\[[0-9:]*\\]//'
wg show wg0 listen-port; wg show wg0 allowed-ips | sort; wg show wg0 persistent-keepalive | sort
cd / && find etc/wireguard etc/isthmus etc/sysctl.d usr/local/sbin -type f -not -name '*.key' | sort | xargs ls -l
cat etc/wireguard/wg0.conf etc/isthmus/* etc/sysctl.d/90-isthmus.conf
sysctl net.ipv4.ip_forward net.ipv4.conf.all.send_redirects net.ipv4.conf.default.send_redirects
systemctl is-enabled wg-quick@wg0; systemctl is-active wg-quick@wg0
"""
"""What a host's part of the network is, files and kernel, read without our program. Dates of files are left out."""


def state(admin: Admin, host: str) -> str:
    text = admin.lab.host_run(host, f"({STATE}) 2>/dev/null").stdout
    return re.sub(r"(root +root +\d+) \w+ +\d+ +[\d:]+ ", r"\1 ", text)


def states(admin: Admin) -> dict[str, str]:
    return {host: state(admin, host) for host in admin.hosts}


@dataclass
class Case:
    """A lab, two inventories that differ on every host, and what each looks like on the hosts."""

    admin: Admin
    old: Path
    new: Path
    old_states: dict[str, str]
    new_states: dict[str, str]
    patience: int
    """Seconds in which a run on this machine, as busy as it is, surely changes and confirms all hosts."""

    def bring(self, file: Path) -> None:
        """Bring the network to one of the two."""
        self.admin.inv("mesh.up", file, code=0)

    def hosts_with_old(self) -> list[str]:
        """Return the hosts with the old network; every other one must have the new network, whole, as our plan says."""
        now = states(self.admin)
        olds = [host for host in now if now[host] == self.old_states[host]]
        for host in now.keys() - set(olds):
            assert now[host] == self.new_states[host], f"{host} has neither network whole"
        waiting = {"old": self.admin.waiting(self.old), "new": self.admin.waiting(self.new)}
        assert {host: waiting["old" if host in olds else "new"][host] for host in now} == {host: [] for host in now}
        return olds


def inventories(folder: Path) -> tuple[Path, Path, Path]:
    """Write the article's inventory, one that changes files, MTU, peers, routes and firewall, and one for the lab."""
    old, new, both = (folder / f"{name}.toml" for name in ("old", "new", "both"))
    text = (ROOT / "hosts.toml").read_text(encoding="utf-8")
    old.write_text(text, encoding="utf-8")
    both.write_text(text + REDIS, encoding="utf-8")
    text = text.replace("[mesh]\n", "[mesh]\nmtu = 1400\n").replace('"172.16.128.0/24"', '"172.16.128.0/23"')
    new.write_text(text + REDIS, encoding="utf-8")
    return old, new, both


@pytest.fixture(scope="module")
def case(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("undo")
    old, new, both = inventories(folder)
    admin = Admin(lab(load_inventory(both), HostOptions(packages=True)), folder)
    admin.inv("mesh.up", new, code=0)
    new_states = states(admin)
    patience = admin.patience("mesh.up", old)
    old_states = states(admin)
    for host in admin.hosts:
        for what in ("etc/wireguard/wg0.conf", "mtu 14", "172.16"):
            assert what in old_states[host]
        assert old_states[host] != new_states[host]
    return Case(admin, old, new, old_states, new_states, patience)


@pytest.fixture
def old_network(case: Case) -> Iterator[Case]:
    """It starts with the old network; whatever the test did, the new one comes up afterwards."""
    case.bring(case.old)
    yield case
    case.admin.settle()
    case.bring(case.new)
    assert case.hosts_with_old() == []
    case.admin.pings(case.new)


# --- the order: save, arm, change, confirm ------------------------------------------------------------------------


def test_the_old_state_is_saved_and_the_timer_armed_before_anything_changes(old_network: Case) -> None:
    admin = old_network.admin
    # Arming is done by systemd-run: at that moment nothing may be changed yet, and the old files are in safety.
    notes = f"({STATE}) >/root/state 2>/dev/null; "
    notes += "cp -a /var/lib/isthmus/staged.*/old /root/old; "
    notes += "[ ! -e /var/lib/isthmus/transaction ] || echo a transaction without a timer >>/root/state"
    admin.said("n2", "mkdir /root/was; cd /; cp -a --parents etc/wireguard/wg0.conf etc/isthmus /root/was")
    with admin.planted("systemd-run", notes, "n2"):
        admin.inv("mesh.up", old_network.new, code=0)
    at_arming = re.sub(r"(root +root +\d+) \w+ +\d+ +[\d:]+ ", r"\1 ", admin.said("n2", "cat /root/state") + "\n")
    assert at_arming == old_network.old_states["n2"]
    assert state(admin, "n2") == old_network.new_states["n2"]
    for path in ("etc/wireguard/wg0.conf", "etc/isthmus/wg0.routes", "etc/isthmus/wg0.iptables"):
        admin.said("n2", f"cmp /root/old/{path} /root/was/{path}")
    assert admin.said("n2", "ls /root/old/usr/local/sbin") == "isthmus"


def test_a_host_that_cannot_arm_its_timer_is_not_changed(old_network: Case) -> None:
    admin = old_network.admin
    with admin.planted("systemd-run", "echo no timers today >&2; exit 1", "n2"):
        result = admin.inv("mesh.up", old_network.new, code=1)
    assert re.search("^n2: .*no timers today", result.stderr, re.MULTILINE)
    assert not admin.unsettled()
    assert old_network.hosts_with_old() == ["n2"]


def test_only_a_fresh_connection_confirms(old_network: Case) -> None:
    admin = old_network.admin
    logs = {host: admin.mark(host) for host in admin.hosts}
    with admin.start_pausing("mesh.up", old_network.new) as run:
        for host in admin.hosts:
            assert logs[host]().count("Accepted publickey") == 1
            admin.said(host, "test -d /var/lib/isthmus/transaction; systemctl -q is-active isthmus-undo.timer")
        run.send_signal(signal.SIGCONT)
        _, stderr = run.communicate()
    assert run.returncode == 0, stderr
    # the last round of pings needs no new one
    assert {host: log().count("Accepted publickey") for host, log in logs.items()} == dict.fromkeys(logs, 2)
    assert not admin.unsettled()


def test_a_host_whose_own_check_fails_puts_the_old_state_back_at_once(old_network: Case) -> None:
    admin = old_network.admin
    with admin.planted("ip", 'case "$*" in "link set mtu 1400 dev wg0") exit 0 ;; esac', "n2"):
        result = admin.inv("mesh.up --undo-after 600", old_network.new, code=1)
    assert "n2: the change did not take, the old state was put back; still differing: interface wg0 mtu" in (
        result.stderr.splitlines()
    )
    assert not admin.unsettled()
    assert old_network.hosts_with_old() == ["n2"]


# --- the network breaks in the middle -----------------------------------------------------------------------------

MTUS = ((1400, "I INPUT 1"), (1420, "D INPUT"))


def test_a_change_that_cuts_the_admin_off_everywhere_leaves_the_old_network_whole(old_network: Case) -> None:
    admin = old_network.admin
    # With the new network nobody gets in any more, with the old one everybody does.
    cut = "-p tcp --dport 22 -j DROP"
    new, old = (f'"link set mtu {mtu} dev wg0") iptables -{verb} {cut} ;;' for mtu, verb in MTUS)
    with admin.planted("ip", f'case "$*" in {new} {old} esac', *admin.hosts):
        result = admin.inv(f"mesh.up --undo-after {old_network.patience}", old_network.new, code=1)
        admin.settle()
    for host in admin.hosts:
        # the connection breaks during the change, does not come about after it, or, on a slow machine, after the undo
        ways = "apply: .* if the change was begun, it is undone|not reachable after the change|the change was undone"
        line = rf"^{host}: ({ways})"
        assert re.search(line, result.stderr, re.MULTILINE), result.stderr
    admin.inv("mesh.plan", old_network.old, code=0)
    assert old_network.hosts_with_old() == list(admin.hosts)
    admin.pings(old_network.old)


def test_hosts_that_cannot_be_reached_anew_go_back_and_the_others_stay(old_network: Case) -> None:
    admin = old_network.admin
    with admin.start_pausing(f"mesh.up --undo-after {old_network.patience}", old_network.new) as run:
        # A connection that is there lives on; a new one does not come about: a firewall's usual mistake.
        admin.said("n2", "iptables -I INPUT 1 -p tcp --dport 22 --syn -j REJECT")
        admin.lab.cut("s1")
        run.send_signal(signal.SIGCONT)
        _, stderr = run.communicate()
    assert run.returncode == 1
    for host in ("n2", "s1"):
        assert re.search(
            rf"^{host}: not reachable after the change \(.*\); undoes it within \d+ s$", stderr, re.MULTILINE
        ), stderr
    admin.settle()
    admin.said("n2", "iptables -D INPUT -p tcp --dport 22 --syn -j REJECT")
    admin.lab.heal("s1")
    assert old_network.hosts_with_old() == ["n2", "s1"]


def test_a_host_that_loses_power_before_it_was_confirmed_is_undone_after_its_start(old_network: Case) -> None:
    admin = old_network.admin
    with admin.start_pausing(f"mesh.up --undo-after {old_network.patience}", old_network.new) as run:
        admin.lab.stop("n2", "s1", hard=True)
        run.kill()
    admin.lab.start("n2", "s1")
    admin.settle()
    assert old_network.hosts_with_old() == list(admin.hosts)
    for host in ("n2", "s1"):
        assert "undone: the run of" in admin.said(host, "journalctl -q -b -o cat -t isthmus")


# --- the run is killed --------------------------------------------------------------------------------------------

MOMENTS = 10


class Clock:
    """When a run of mesh.up says what, in seconds from its first line."""

    def __init__(self, admin: Admin, file: Path, undo_after: int = 5) -> None:
        self.process = admin.start(admin.command(f"mesh.up --undo-after {undo_after}", file))
        self.lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append((time.monotonic(), line))

    def last_confirmed(self) -> float:
        """Let the run end, which must be well, and return when its last host was confirmed."""
        assert self._end() == 0
        return max(at for at, line in self.lines if line.endswith(": confirmed\n")) - self.lines[0][0]

    def kill(self, after: float) -> None:
        """Kill the run so long after its first line."""
        until(lambda: self.lines or self.process.poll() is not None, "a first line")
        while self.process.poll() is None and time.monotonic() < self.lines[0][0] + after:
            time.sleep(0.005)
        self.process.kill()
        self._end()

    def _end(self) -> int:
        with self.process:
            self._reader.join()
        return self.process.returncode


def test_a_run_killed_at_any_moment_leaves_the_old_network_or_the_new(case: Case) -> None:
    admin = case.admin
    case.bring(case.old)
    whole = Clock(admin, case.new, 60).last_confirmed()
    armed = 0
    for moment in range(MOMENTS):
        # There and back, from wherever the last kill left each host.
        Clock(admin, (case.old, case.new)[moment % 2]).kill(whole * moment / (MOMENTS - 1))
        armed += len(admin.unsettled()) > 0
        admin.settle()
        case.hosts_with_old()
    assert armed, "no kill came while a host waited for confirmation"
    case.bring(case.new)
    assert case.hosts_with_old() == []
    admin.pings(case.new)


def test_a_first_run_killed_at_any_moment_leaves_a_bare_host_or_the_network(case: Case) -> None:
    admin = case.admin
    admin.inv("mesh.down --forget-keys", case.old, code=0)
    bare = states(admin)
    whole = Clock(admin, case.old, 60).last_confirmed()
    # its public keys are others now, so are the files: they are the old ones only with these keys
    outcomes = []
    for moment in range(MOMENTS):
        admin.inv("mesh.down", case.old, code=0)
        assert states(admin) == bare
        Clock(admin, case.old).kill(whole * moment / (MOMENTS - 1))
        armed = bool(admin.unsettled())
        admin.settle()
        now = states(admin)
        waiting = admin.waiting(case.old)
        for host in admin.hosts:
            assert now[host] == bare[host] or waiting[host] == [], f"{host} is neither bare nor whole"
        outcomes.append((armed, sum(now[host] == bare[host] for host in admin.hosts)))
    assert any(armed for armed, _ in outcomes), "no kill came while a host waited for confirmation"
    case.bring(case.old)
    admin.pings(case.old)
