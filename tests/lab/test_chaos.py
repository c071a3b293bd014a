"""Random operations on a mesh, with `inv mesh.up` after each ten: always well, and nobody else's things are touched.

CHAOS_SEED=7 CHAOS_OPERATIONS=200 .venv/bin/pytest -s -m lab tests/lab/test_chaos.py

Without CHAOS_SEED it is always the same seed: a red build says that a change broke something, not that luck changed.
Whoever looks for new faults gives other seeds; each is printed, with all that was done, so it can be given again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import disks
import others
import pytest
from chaos import Chaos, Wish
from promises import OK, at_once, said
from workstation import Admin

from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions, LabOptions

pytestmark = pytest.mark.lab

SEED = int(os.environ.get("CHAOS_SEED", "73984"))
OPERATIONS = int(os.environ.get("CHAOS_OPERATIONS", "15"))
EACH = 10


@pytest.fixture(scope="module")
def admin(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    """The article's cluster and what may come to it, up; small disks; hosts full of somebody else's things."""
    folder = tmp_path_factory.mktemp("chaos")
    (folder / "clouds.toml").write_text(Wish().clouds(), encoding="utf-8")
    twin = lab.plan(load_inventory(folder / "clouds.toml"), LabOptions(HostOptions(packages=True)))
    with disks.small_disks(twin):
        twin.up()
        admin = Admin(twin, folder, Wish().text())
        others.install(admin)
        yield admin


def test_after_whatever_happened_one_run_makes_all_well(admin: Admin) -> None:
    before = others.seen(admin)
    admin.inv("mesh.up", code=OK)
    chaos = Chaos(admin, SEED)
    chaos.say(f"\nCHAOS_SEED={SEED} CHAOS_OPERATIONS={OPERATIONS}\n")
    drawn = list(chaos.draw(OPERATIONS))
    for start in range(0, OPERATIONS, EACH):
        for operation in drawn[start : start + EACH]:
            chaos.do(operation)
        chaos.heal()
        assert_well(admin)
        assert not (new := others.changed(before, others.seen(admin))), "\n".join(new)
        chaos.say("    all is well\n")
    everybody = admin.file.with_name("clouds.toml")
    everybody.write_text(chaos.wish.clouds(), encoding="utf-8")
    admin.inv("mesh.down", everybody, code=OK)
    assert not (new := others.changed(before, others.seen(admin))), "\n".join(new)
    assert others.left(admin) == []


def assert_well(admin: Admin) -> None:
    """One run ends well; then everybody reaches everybody by the promised path, and nothing is left to do."""
    up = admin.inv("mesh.up")
    assert up.returncode == OK, said(up)
    ping, path, plan = at_once(admin, "check.ping", "check.path", "mesh.plan")
    for ended in (ping, path, plan):
        assert ended.returncode == OK, f"{said(up)}\n{said(ended)}"
    assert "nothing to do" in plan.stdout, said(plan)
