"""Two `inv mesh.up` at once: one works and the other waits for it; no host and no mesh is left half changed."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from promises import OK, assert_whole
from workstation import Admin

pytestmark = pytest.mark.lab

_mtus = count(1300)


@pytest.fixture(scope="module")
def admin(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    """Four bare hosts, without packages, and nobody has been there yet."""
    return Admin(lab(), tmp_path_factory.mktemp("two"))


@pytest.fixture
def wish(admin: Admin) -> Iterator[Callable[[], list[str]]]:
    """There is something to change on every host; the value tells where it was done. Afterwards all is whole."""
    mtu = next(_mtus)
    admin.with_mtu(mtu)
    yield lambda: admin.with_running_mtu(mtu)
    admin.inv("mesh.up", code=OK)
    assert admin.with_running_mtu(mtu) == list(admin.hosts)


def both(admin: Admin, *files: Path) -> None:
    """Run mesh.up with both inventories at once; both end well and leave no transaction."""
    runs = [admin.start(admin.command("mesh.up", file)) for file in files]
    ends = [(*run.communicate(), run.returncode) for run in runs]
    for stdout, stderr, code in ends:
        assert "Traceback" not in stdout + stderr, stderr
        assert code == OK, f"{stdout}{stderr}"
    assert not admin.unsettled()


def test_two_first_runs_on_bare_hosts_make_one_mesh(admin: Admin) -> None:
    both(admin, admin.file, admin.file)
    keys = {
        host: admin.said(host, "cat /etc/wireguard/wg0.key | wg pubkey; wg show wg0 public-key") for host in admin.hosts
    }
    assert all(len(set(both.split())) == 1 for both in keys.values()), keys
    assert admin.inv("mesh.up", code=OK).stdout.splitlines()[-1] == "4 hosts: nothing to do"
    assert_whole(admin)


def test_of_two_runs_with_the_same_wish_one_does_it_and_the_other_finds_it_done(
    admin: Admin, wish: Callable[[], list[str]]
) -> None:
    both(admin, admin.file, admin.file)
    assert wish() == list(admin.hosts)
    assert admin.inv("mesh.up", code=OK).stdout.splitlines()[-1] == "4 hosts: nothing to do"


def test_of_two_runs_with_different_wishes_one_is_done_everywhere_after_the_other(
    admin: Admin, wish: Callable[[], list[str]]
) -> None:
    for _ in range(3):
        mtus = next(_mtus), next(_mtus)
        files = [admin.beside(f"mtu{mtu}.toml", ("[mesh]\nmtu", f"[mesh]\nmtu = {mtu} #")) for mtu in mtus]
        both(admin, *files)
        (last,) = [mtu for mtu in mtus if admin.with_running_mtu(mtu)]
        assert admin.with_running_mtu(last) == list(admin.hosts)
        again = admin.inv("mesh.up", files[mtus.index(last)], code=OK)
        assert again.stdout.splitlines()[-1] == "4 hosts: nothing to do"
    admin.pings()


def test_a_run_waits_for_another_that_is_stuck_until_that_is_undone(
    admin: Admin, wish: Callable[[], list[str]]
) -> None:
    with admin.start_pausing("mesh.up --undo-after 20") as stuck:
        second = admin.inv("mesh.up", code=OK)
        assert wish() == list(admin.hosts)
        stuck.send_signal(signal.SIGCONT)
        _, stderr = stuck.communicate()
    for host in admin.hosts:
        assert re.search(
            rf"^{host}: held by an unconfirmed run of \S+ \(\w+\); waiting for it", second.stderr, re.MULTILINE
        )
        assert re.search(rf"^{host}: .*the change was undone before it was confirmed", stderr, re.MULTILINE), stderr
    assert stuck.returncode == 1
    assert wish() == list(admin.hosts)
