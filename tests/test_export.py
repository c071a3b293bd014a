"""Every file of every host on the workstation: exactly the golden set, and nobody else's file is touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_golden import CASES, GOLDEN

from isthmus.errors import BrokenPromiseError, UsageError
from isthmus.export import export
from isthmus.inventory import load_inventory
from isthmus.model import Inventory


@pytest.fixture
def article() -> Inventory:
    return load_inventory(GOLDEN / "article/hosts.toml")


def files_below(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_an_export_is_the_golden_set(case: str, tmp_path: Path) -> None:
    expected = files_below(GOLDEN / case / "expected")
    assert export(load_inventory(GOLDEN / case / "hosts.toml"), tmp_path / "out" / "deep") == len(expected)
    assert files_below(tmp_path / "out" / "deep") == expected


def test_files_have_the_modes_they_get_on_hosts(article: Inventory, tmp_path: Path) -> None:
    export(article, tmp_path)
    modes = {
        path: oct((tmp_path / "n1" / path).stat().st_mode & 0o777)
        for path in ("etc/wireguard/wg0.conf", "usr/local/sbin/isthmus", "etc/isthmus/wg0.routes")
    }
    assert list(modes.values()) == ["0o600", "0o755", "0o644"]


def test_what_an_earlier_export_left_is_removed_and_nothing_else(article: Inventory, tmp_path: Path) -> None:
    export(article, tmp_path)
    foreign = {
        "README": "mine",
        "n3/etc/wireguard/notes": "mine",
        "n3/etc/isthmus/wg0.routes.orig": "# not isthmus: written by Isthmus",
        "old/usr/local/sbin/isthmus": "#!/bin/sh\n# mine, of the same name\n",
        "n2/usr/local/sbin/other": "#!/bin/sh\n# Written by Isthmus, they say\n",
        ".git/config": "[core]",
    }
    for path, text in foreign.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "n3/etc/isthmus/image").write_bytes(b"\xff\xfe\x00")
    hosts = {name: host for name, host in article.hosts.items() if name != "n3"}
    smaller = Inventory(article.source, replace(article.mesh, interface="mesh0"), article.ssh, article.sites, hosts)
    count = export(smaller, tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    ours = found - set(foreign) - {"n3/etc/isthmus/image"}
    assert set(foreign) <= found
    assert (tmp_path / "n3/etc/isthmus/image").read_bytes() == b"\xff\xfe\x00"
    assert len(ours) == count == 4 + 5 + 5
    assert not [path for path in ours if path.startswith("n3/") or "wg0" in path]


def test_a_second_export_changes_no_file(article: Inventory, tmp_path: Path) -> None:
    export(article, tmp_path)
    before = files_below(tmp_path)
    export(article, tmp_path)
    assert files_below(tmp_path) == before


def test_a_folder_that_cannot_be_written_is_an_error_with_its_name(article: Inventory, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=rf"^--out: cannot write {tmp_path}/file"):
        export(article, tmp_path / "file")


def test_a_network_that_keeps_no_promise_is_not_written(
    article: Inventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isthmus.compile import compile_mesh

    def without_rules(inventory: Inventory):  # type: ignore[no-untyped-def]
        return {name: replace(config, rules=()) for name, config in compile_mesh(inventory).items()}

    monkeypatch.setattr("isthmus.export.compile_mesh", without_rules)
    with pytest.raises(BrokenPromiseError):
        export(article, tmp_path / "out")
    assert not (tmp_path / "out").exists()
