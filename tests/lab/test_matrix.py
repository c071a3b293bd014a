"""The mesh keeps its promises whatever clouds do to packets and however a host's NIC is set up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from promises import assert_mesh_up_keeps_every_promise, built
from workstation import Admin

from isthmus.lab import HostOptions, LabOptions

pytestmark = pytest.mark.lab

COMBINATIONS = {
    f"anti-spoofing {'on' if anti_spoofing else 'off'}, rp_filter {rp_filter}, metric {metric}, {nic}": HostOptions(
        anti_spoofing=anti_spoofing, rp_filter=rp_filter, metric=metric, nic=nic, packages=True
    )
    for anti_spoofing, rp_filter, metric, nic in product((True, False), (1, 2), (0, 100), ("eth0", "ens5"))
}


@pytest.fixture
def admin(lab: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Admin]:
    with built(lab, tmp_path, LabOptions(request.param)) as admin:
        yield admin


@pytest.mark.parametrize("admin", COMBINATIONS.values(), ids=COMBINATIONS, indirect=True)
def test_the_mesh_keeps_every_promise_with(admin: Admin) -> None:
    assert_mesh_up_keeps_every_promise(admin)
