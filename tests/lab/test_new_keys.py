"""Keys of all hosts are made anew while packets pass; what fails half-way leaves every host its old key."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import pytest
from promises import assert_whole, said
from stream import echoing, streaming
from workstation import PATIENCE_S, Admin

from isthmus.lab import HostOptions

pytestmark = pytest.mark.lab

RUNS = int(os.environ.get("ISTHMUS_RUNS", "1"))
"""How often what is measured is done."""
STREAM_S = 21
"""2,000 packets and some, 100 a second."""
MOST_LOST = 1
"""Of those, there and back."""


@pytest.fixture(scope="module")
def admin(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    """The article's cluster, up."""
    admin = Admin(lab(options=HostOptions(packages=True)), tmp_path_factory.mktemp("rotation"))
    admin.inv("mesh.up", code=0)
    return admin


def keys(admin: Admin) -> dict[str, str]:
    """Return the public keys by host; the file and the interface must agree, and nothing be left of another key."""
    for host in admin.hosts:
        assert admin.said(host, "ls -A /etc/wireguard") == "wg0.conf\nwg0.key"
        assert admin.said(host, "ls -A /var/lib/isthmus") in ("", "sysctls.before")
        assert admin.said(host, "stat -c '%a %U' /etc/wireguard/wg0.key") == "600 root"
        admin.said(host, '[ "$(wg pubkey </etc/wireguard/wg0.key)" = "$(wg show wg0 public-key)" ]')
    return {host: admin.said(host, "wg show wg0 public-key") for host in admin.hosts}


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    return {host for host, key in before.items() if after[host] != key}


def test_all_keys_are_rotated_while_packets_pass(admin: Admin) -> None:
    lost = []
    with echoing(admin, "s1"), echoing(admin, "n2"):
        for _ in range(RUNS):
            before, began = keys(admin), time.monotonic()
            with (
                streaming(admin, "n3", "172.16.128.1") as there,
                streaming(admin, "s1", "172.16.0.2") as back,
            ):
                done = admin.inv("mesh.rotate-keys", code=0)
                time.sleep(max(0, began + STREAM_S - time.monotonic()))
            assert done.stdout.splitlines()[-1] == f"new keys: {', '.join(admin.hosts)}", said(done)
            assert changed(before, keys(admin)) == set(admin.hosts)
            assert min(there.sent, back.sent) >= 1900
            lost.append((len(there.missing), len(back.missing)))
            sys.stdout.write(f"lost {lost[-1]} of {there.sent} and {back.sent}\n")
    assert_whole(admin)
    assert max(max(pair) for pair in lost) <= MOST_LOST, lost


def test_only_one_hosts_key_is_rotated_while_packets_pass(admin: Admin) -> None:
    before = keys(admin)
    with echoing(admin, "s1"), streaming(admin, "n3", "172.16.128.1") as report:
        done = admin.inv("mesh.rotate-keys --only n1", code=0)
    assert changed(before, keys(admin)) == {"n1"}, said(done)
    assert len(report.missing) <= MOST_LOST, report
    assert_whole(admin)


def test_preshared_keys_come_are_rotated_and_go_while_packets_pass(admin: Admin) -> None:
    text = admin.file.read_text(encoding="utf-8")
    shared = "wg show wg0 preshared-keys | grep -v none | cut -f 2 | sha256sum; ls /etc/wireguard/wg0.psk"
    lost: list[int] = []

    def done(line: str, inventory: str) -> str:
        admin.file.write_text(inventory, encoding="utf-8")
        with streaming(admin, "n3", "172.16.128.1") as report:
            admin.inv(line, code=0)
        lost.append(len(report.missing))
        admin.inv("mesh.plan", code=0)
        sums = {admin.said(host, f"{shared} 2>/dev/null || true").split()[0] for host in ("n1", "s1")}
        assert len(sums) == 1, "the ends do not have the same key"
        return sums.pop()

    with echoing(admin, "s1"):
        none = done("mesh.up", text)
        first = done("mesh.up", text.replace("[mesh]\n", "[mesh]\npreshared_keys = true\n"))
        second = done("mesh.rotate-keys", admin.file.read_text(encoding="utf-8"))
        assert len({none, first, second}) == 3
    admin.said("n1", "wg genpsk >/etc/wireguard/wg0.psk/s1; isthmus sync wg0")  # the ends differ
    assert "key preshared with n1" in admin.inv("mesh.plan", code=4).stdout
    admin.inv("mesh.up", code=0)
    admin.lab.reboot("n1", "s1")  # a session lives on with the keys it was made with: only new ones prove them equal
    admin.said("n2", f"ping -c 1 -w {PATIENCE_S} 172.16.128.1")
    assert_whole(admin)
    with echoing(admin, "s1"):
        assert done("mesh.up", text) == none
    assert max(lost) <= MOST_LOST, lost


def test_when_one_host_fails_at_the_moment_all_have_their_old_keys_back(admin: Admin) -> None:
    before = keys(admin)
    with admin.planted("wg", 'case "$*" in "set wg0 private-key"*) exit 1 ;; esac', "s1"):
        failed = admin.inv("mesh.rotate-keys", code=1)
    assert "new keys: none, every host keeps its key" in failed.stdout, said(failed)
    assert [line for line in failed.stderr.splitlines() if line.startswith("s1: ")], said(failed)
    assert keys(admin) == before
    assert_whole(admin)


def test_a_run_that_is_killed_between_the_moment_and_the_confirmation_is_undone(admin: Admin) -> None:
    before = keys(admin)
    process = admin.start_pausing("mesh.rotate-keys")
    process.kill()
    process.communicate()
    now = {host: admin.said(host, "wg show wg0 public-key") for host in admin.hosts}
    assert changed(before, now) == set(admin.hosts)
    for host in admin.hosts:  # in the middle of it: it has the new key, and the timer too
        admin.said(host, "systemctl -q is-active isthmus-undo.timer")
    admin.settle()
    assert keys(admin) == before
    assert_whole(admin)


def test_a_host_that_is_off_keeps_its_key_and_nothing_breaks(admin: Admin) -> None:
    before = keys(admin)
    admin.lab.stop("s1")
    done = admin.inv("mesh.rotate-keys", code=1)
    assert "new keys: n2, n3" in done.stdout, said(done)
    assert "n1: keeps its key: its peer s1 could not be told the new one" in done.stderr, said(done)
    admin.lab.start("s1")
    assert changed(before, keys(admin)) == {"n2", "n3"}
    assert_whole(admin)
