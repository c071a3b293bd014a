"""What goes wrong at one host is one clear line about that host; the others are finished."""

from __future__ import annotations

import fcntl
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from workstation import Admin, until

from isthmus.lab import HostOptions

pytestmark = pytest.mark.lab

_mtus = count(1300)


@pytest.fixture(scope="module")
def admin(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    """The article's mesh, up."""
    admin = Admin(lab(options=HostOptions(packages=True)), tmp_path_factory.mktemp("failures"))
    for host in admin.hosts:
        # so that sshd tells of every attempt to log in, and of what comes before one
        admin.said(host, "echo LogLevel DEBUG1 >/etc/ssh/sshd_config.d/log.conf; systemctl reload ssh")
    admin.inv("mesh.up", code=0)
    return admin


@pytest.fixture(scope="module")
def patience(admin: Admin) -> int:
    admin.with_mtu(next(_mtus))
    return admin.patience("mesh.up")


@pytest.fixture
def wish(admin: Admin) -> Iterator[Callable[[], list[str]]]:
    """There is something to change on every host; the value tells where it was done. Afterwards all is whole."""
    mtu = next(_mtus)
    admin.with_mtu(mtu)
    yield lambda: admin.with_running_mtu(mtu)
    admin.inv("mesh.up", code=0)
    assert admin.with_running_mtu(mtu) == list(admin.hosts)


# --- host keys ----------------------------------------------------------------------------------------------------


@pytest.fixture
def known_hosts(admin: Admin) -> Iterator[Path]:
    """The admin's ~/.ssh/known_hosts, to be spoiled; the project's own is beside hosts.toml."""
    path = admin.lab.names.ssh / "known_hosts"
    text = path.read_text(encoding="ascii")
    yield path
    path.write_text(text, encoding="ascii")
    admin.file.with_name("known_hosts").unlink(missing_ok=True)


def spoil(known_hosts: Path, address: str, other: str | None = None) -> None:
    """Remove a host's lines (`NAME,ADDRESS,… TYPE KEY`), or record the keys of another host in their place."""
    lines = known_hosts.read_text(encoding="ascii").splitlines(keepends=True)
    (names,) = {line.split()[0] for line in lines if address in line.split()[0].split(",")}
    kept = [line for line in lines if not line.startswith(f"{names} ")]
    keys = [line.partition(" ")[2] for line in kept if other in line.split()[0].split(",")]
    known_hosts.write_text("".join(kept + [f"{names} {key}" for key in keys]), encoding="ascii")


def fingerprint(admin: Admin, host: str) -> str:
    return admin.said(host, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]


def test_unknown_and_changed_host_keys_are_refused_before_anything_is_sent(
    admin: Admin, wish: Callable[[], list[str]], known_hosts: Path
) -> None:
    spoil(known_hosts, "203.0.113.2")
    spoil(known_hosts, "203.0.113.129", other="203.0.113.1")
    spoil(known_hosts, "172.16.0.3", other="203.0.113.1")  # n3, asked through n1
    n1, n2, n3, s1 = (fingerprint(admin, host) for host in ("n1", "n2", "n3", "s1"))
    logs = {host: admin.mark(host) for host in admin.hosts}

    result = admin.inv("mesh.up", code=1)
    lines = {line.partition(":")[0]: line for line in result.stderr.splitlines() if "host key" in line}
    assert f"n2: the host key of 203.0.113.2 is not known: {n2}" in lines["n2"]
    assert "`inv ssh.trust`" in lines["n2"]
    for host, address, found in (("s1", "203.0.113.129", s1), ("n3", "172.16.0.3", n3)):
        assert f"{host}: the host key of {address} HAS CHANGED" in lines[host]
        assert f"recorded {n1}" in lines[host]
        assert f"found {found}" in lines[host]
    assert wish() == ["n1"]
    for host in ("n2", "n3", "s1"):
        log = logs[host]()
        assert "Connection from" in log  # it was asked for its key
        assert "userauth-request" not in log
        assert "Accepted" not in log
    assert "userauth-request" in logs["n1"]()

    found = admin.json("mesh.plan", code=1)["failures"]
    assert {host: (failure["error"], failure["known"], failure["found"]) for host, failure in found.items()} == {
        "n2": ("HostKeyError", None, n2),
        "n3": ("HostKeyError", n1, n3),
        "s1": ("HostKeyError", n1, s1),
    }


def test_trust_shows_asks_and_records_and_then_the_mesh_comes_up(
    admin: Admin, wish: Callable[[], list[str]], known_hosts: Path
) -> None:
    project = admin.file.with_name("known_hosts")
    spoil(known_hosts, "203.0.113.2")
    spoil(known_hosts, "203.0.113.129", other="203.0.113.1")
    n1, n2, s1 = (fingerprint(admin, host) for host in ("n1", "n2", "s1"))

    unasked = admin.inv("ssh.trust", code=1)  # nobody is there to say yes
    assert f"n2  203.0.113.2  ssh-ed25519  {n2}" in unasked.stdout
    assert "n2: its key was not recorded" in unasked.stderr
    assert f"s1: shows {s1}, recorded is {n1}" in unasked.stderr
    assert not project.exists()

    said = admin.inv("ssh.trust --yes", code=1)
    assert "recorded: n2; known before: n1, n3" in said.stdout
    assert f"s1: shows {s1}, recorded is {n1}" in said.stderr
    assert project.read_text(encoding="ascii").count("\n") == 1
    admin.inv("mesh.up", code=1)
    assert wish() == ["n1", "n2", "n3"]

    assert "recorded: s1" in admin.inv("ssh.trust --yes --replace", code=0).stdout
    admin.inv("mesh.up", code=0)
    assert wish() == ["n1", "n2", "n3", "s1"]


def test_a_gateway_whose_key_is_unknown_is_named_by_the_hosts_behind_it(
    admin: Admin, wish: Callable[[], list[str]], known_hosts: Path
) -> None:
    spoil(known_hosts, "203.0.113.1")
    n1 = fingerprint(admin, "n1")
    failures = admin.json("mesh.up", code=1)["failures"]
    assert (failures["n1"]["error"], failures["n1"]["found"]) == ("HostKeyError", n1)
    assert (failures["n3"]["error"], failures["n3"]["gateway"]) == ("UnreachableError", "n1")
    assert wish() == ["n2", "s1"]
    assert "recorded: n1; known before: n2, s1, n3" in admin.inv("ssh.trust --yes", code=0).stdout


# --- hosts that are dead or hang ----------------------------------------------------------------------------------


def test_a_dead_leaf_keeps_its_place_and_works_when_it_is_back(admin: Admin, wish: Callable[[], list[str]]) -> None:
    key = admin.said("n3", "wg show wg0 public-key")
    admin.lab.stop("n3")
    result = admin.inv("mesh.up", code=1)
    failure = result.stderr.splitlines()[-1]
    assert failure == "n3: n1 answers, 172.16.0.3:22 behind it does not within 20 s" or re.fullmatch(
        r"n3: n1 answers, 172.16.0.3:22 behind it does not: .*", failure
    )
    assert wish() == ["n1", "n2", "s1"]
    assert key in admin.said("n1", "wg show wg0 allowed-ips")
    assert key in admin.said("n1", "cat /etc/wireguard/wg0.conf")
    admin.lab.start("n3")
    # nobody has done anything yet, and it is in the mesh
    until(lambda: admin.lab.host_run("n3", "ping -c 1 -W 1 172.16.128.1").returncode == 0, "n3 to reach s1")
    admin.said("s1", "ping -c 3 -W 5 172.16.0.3")


def test_a_dead_gateway_is_told_apart_from_the_dead_hosts_behind_it(
    admin: Admin, wish: Callable[[], list[str]]
) -> None:
    admin.lab.stop("n1")
    failures = admin.json("mesh.up", code=1)["failures"]
    assert wish() == ["n2", "s1"]
    admin.lab.start("n1")
    reason = failures["n1"]["message"]
    assert re.search(r"203\.0\.113\.1:22 (within 20 s|cannot be reached)", reason)
    assert failures == {
        "n1": {"error": "UnreachableError", "message": reason},
        "n3": {"error": "UnreachableError", "message": f"not reached: its gateway n1: {reason}", "gateway": "n1"},
    }


@contextmanager
def hanging_sshd(admin: Admin, host: str) -> Iterator[None]:
    """Its sshd does nothing: the kernel takes connections for it."""
    pid = admin.said(host, "systemctl show -p MainPID --value ssh")
    admin.said(host, f"kill -STOP {pid}")
    yield
    admin.said(host, f"kill -CONT {pid}")


@contextmanager
def full_disk(admin: Admin, host: str) -> Iterator[None]:
    """8 kB are free where transactions are kept."""
    admin.said(host, "mount -t tmpfs -o size=8k tmpfs /var/lib/isthmus")
    yield
    admin.said(host, "umount /var/lib/isthmus")


@contextmanager
def another_system(admin: Admin, host: str) -> Iterator[None]:
    admin.said(host, "cp --remove-destination /etc/os-release /root/was; sed -i 's/^ID=.*/ID=alpine/' /root/was")
    admin.said(host, "mount --bind /root/was /etc/os-release")
    yield
    admin.said(host, "umount /etc/os-release")


def test_every_trouble_is_a_line_of_its_own_host_and_the_rest_is_finished(
    admin: Admin, wish: Callable[[], list[str]]
) -> None:
    with hanging_sshd(admin, "n2"), full_disk(admin, "n3"), another_system(admin, "s1"):
        result = admin.inv("mesh.up", code=1)
        found = wish()
    assert "n1: 1 changed" in result.stdout or re.search(r"^n1: \d changed$", result.stdout, re.MULTILINE)
    assert found == ["n1"]
    lines = result.stderr.splitlines()
    assert "n2: 203.0.113.2:22 takes connections, but no SSH server answers within 20 s" in lines
    assert any(re.match(r"n3: .*No space left on device", line) for line in lines), result.stderr
    assert any(re.match(r"s1: runs alpine 12; supported are debian 11, debian 12, debian 13", line) for line in lines)


def test_a_disk_that_fills_up_in_the_middle_leaves_the_old_state(admin: Admin, wish: Callable[[], list[str]]) -> None:
    files = "cat /etc/wireguard/wg0.conf /etc/isthmus/* /usr/local/sbin/isthmus | sha256sum; ls /etc/wireguard"
    before = admin.said("n2", files)
    admin.said("n2", "cp -a /etc/wireguard /root/full; mount -t tmpfs -o size=8k,mode=700 tmpfs /etc/wireguard")
    admin.said("n2", "cp -a /root/full/. /etc/wireguard/; rm -rf /root/full")
    result = admin.inv("mesh.up", code=1)
    after = admin.said("n2", files)
    admin.said("n2", "umount /etc/wireguard")
    assert re.search("^n2: .*No space left on device.*the old state was put back", result.stderr, re.MULTILINE)
    assert wish() == ["n1", "n3", "s1"]
    assert after == before


def test_an_interface_that_does_not_start_says_why(admin: Admin, wish: Callable[[], list[str]]) -> None:
    admin.said("n2", "systemctl stop wg-quick@wg0")
    with admin.planted("iptables-restore", "echo RULE_APPEND failed for no reason >&2; exit 4", "n2"):
        result = admin.inv("mesh.up", code=1)
    line = "^n2: apply: .*RULE_APPEND failed for no reason; the old state was put back$"
    assert re.search(line, result.stderr, re.MULTILINE), result.stderr
    assert wish() == ["n1", "n3", "s1"]


def test_a_host_that_hangs_during_its_change_does_not_cost_the_others_theirs(
    admin: Admin, patience: int, wish: Callable[[], list[str]]
) -> None:
    with admin.planted("ip", 'case "$*" in "link set mtu"*) exec sleep 1000 ;; esac', "n2"):
        result = admin.inv(f"mesh.up --undo-after {patience}", code=1)
        found = wish()
    line = rf"^n2: apply: not done within .*; if the change was begun, it is undone within {patience} s$"
    assert re.search(line, result.stderr, re.MULTILINE), result.stderr
    assert found == ["n1", "n3", "s1"]


@contextmanager
def dpkg_lock(admin: Admin, host: str) -> Iterator[None]:
    """Somebody else's apt is at work: the lock's file is the host's own, seen from outside."""
    leader = admin.lab._guest(host).leader()
    with Path(f"/proc/{leader}/root/var/lib/dpkg/lock-frontend").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def test_a_package_manager_that_is_busy_for_20_seconds_is_waited_for(
    admin: Admin, wish: Callable[[], list[str]]
) -> None:
    admin.said("n2", "dpkg --purge iputils-ping")
    with dpkg_lock(admin, "n2"):
        taken = time.monotonic()
        run = admin.start(admin.command("mesh.up"))
        until(lambda: admin.lab.host_run("n2", "pgrep -x apt-get").returncode == 0, "apt-get to start")
        until(lambda: time.monotonic() > taken + 20, "20 s")
        assert run.poll() is None
        assert admin.lab.host_run("n2", "command -v ping").returncode != 0
    stdout, stderr = run.communicate()
    assert run.returncode == 0, stderr
    assert "the mesh is up and every pair reaches each other" in stdout
    assert wish() == list(admin.hosts)
    admin.said("n2", "ping -c 1 172.16.0.1")
