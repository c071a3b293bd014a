"""Labs for tests, one line each.

    def test_ping(lab):
        n2 = lab().host_run("n2", "ping -c 1 172.16.0.3")

`lab()` is the article's cluster (./hosts.toml), up, with bare hosts. It and every other lab is shared by the tests of
one module that ask for the same, and taken down after the module's last test. See `Labs.__call__` for what can be
asked. A machine where the lab cannot run fails these tests: it does not skip them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from disks import unmount

from isthmus.errors import LabError
from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions, Lab, LabOptions, known_labs, take_down
from isthmus.lab.machine import check_machine
from isthmus.model import Inventory

_numbers = count(1)


class Labs:
    """Hands out labs that are up, and takes them down."""

    def __init__(self, article: Inventory) -> None:
        self._article = article
        self._made: list[tuple[tuple[Inventory, LabOptions, str], Lab]] = []

    def __call__(
        self, inventory: Inventory | None = None, options: LabOptions | HostOptions | None = None, key: str = ""
    ) -> Lab:
        """Return a lab that is up: the same one for the same wish within a module.

        `inventory` is the article's unless given; `options` are for all hosts if they are HostOptions. A test that
        spoils its lab for others asks for one of its own by a `key` that nobody else uses.
        """
        if isinstance(options, HostOptions):
            options = LabOptions(options)
        wish = (inventory or self._article, options or LabOptions(), key)
        for made, lab in self._made:
            if made == wish:
                return lab
        lab = self.plan(wish[0], wish[1])
        self._made.append((wish, lab))
        lab.up()
        return lab

    def plan(self, inventory: Inventory | None = None, options: LabOptions | None = None) -> Lab:
        """Return a lab of its own that is not up; it is taken down after the module all the same."""
        lab = Lab(inventory or self._article, f"t{os.getpid()}-{next(_numbers)}", options)
        self._made.append(((lab.inventory, lab.options, lab.names.name), lab))
        return lab

    def down(self) -> None:
        """Take all labs down."""
        for name in {lab.names.name for _, lab in self._made}:
            take_down(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a bundle where there is none, each test by its name; the mark's arguments name further ones."""
    for item in items:
        marker = item.get_closest_marker("bundle")
        for variable in ("ISTHMUS_BUNDLE", *marker.args) if marker else ():
            if not os.environ.get(variable):
                item.add_marker(pytest.mark.skip(reason=f"{item.name}: {variable} names no Kubernetes bundle"))


@pytest.fixture(scope="session")
def article() -> Inventory:
    """The article's cluster: n1, n2 and n3 in Nanjing, s1 and mysql in Shanghai."""
    return load_inventory(Path(__file__).parents[2] / "hosts.toml")


@pytest.fixture(scope="session")
def _machine() -> None:
    """Fail where the lab cannot run; take down what test runs left behind that were killed."""
    try:
        check_machine()
    except LabError as error:
        pytest.fail(f"the lab tests cannot run here: {error}", pytrace=False)
    for name in known_labs():
        match = re.fullmatch(r"t(\d+)-\d+", name)
        if match and not Path("/proc", match[1]).exists():
            take_down(name)
            unmount(name)


@pytest.fixture(scope="module")
def lab(article: Inventory, _machine: None) -> Iterator[Labs]:
    """The factory of labs; see `Labs.__call__`."""
    labs = Labs(article)
    try:
        yield labs
    finally:
        labs.down()
