"""Every file of every host of every case in golden/, and the tools on a host that read them.

A case is a folder: hosts.toml, which begins with a picture, and expected/<host>/<path on the host>. After a wanted
change run `UPDATE_GOLDEN=1 pytest tests/test_golden.py`, then READ THE DIFF: what is wrong now would be expected then.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from isthmus.compile import compile_mesh
from isthmus.inventory import load_inventory
from isthmus.model import HostConfig
from isthmus.render import FILES, PROGRAM, File, render_mesh

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/hosts.toml"))
INTERFACE_OF_ANOTHER_CASE = {"other_settings": "isthmus_mesh-15"}

in_every_case = pytest.mark.parametrize("case", CASES)


def compiled(case: str) -> dict[str, HostConfig]:
    return compile_mesh(load_inventory(GOLDEN / case / "hosts.toml"))


def interface(case: str) -> str:
    return INTERFACE_OF_ANOTHER_CASE.get(case, "wg0")


# --- the texts ----------------------------------------------------------------------------------------------------


@in_every_case
def test_the_files_of_every_host_are_the_expected_ones_and_no_others(case: str) -> None:
    rendered = {
        f"{host}{path}": file.text
        for host, files in render_mesh(compiled(case), {}, placeholders=True).items()
        for path, file in files.items()
    }
    folder = GOLDEN / case / "expected"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        rewrite(folder, rendered)
    expected = {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()
    }
    assert sorted(rendered) == sorted(expected)
    for path, text in rendered.items():
        assert text == expected[path], path


def rewrite(folder: Path, rendered: Mapping[str, str]) -> None:
    """Write the expectation anew. The program is the same everywhere: a link, or each change to it were fifty."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in rendered.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(PROGRAM):
            path.symlink_to(os.path.relpath(f"{FILES}{PROGRAM}", path.parent))
        else:
            path.write_text(text, encoding="utf-8")


def test_the_articles_case_is_the_repositorys_own_inventory() -> None:
    assert (GOLDEN / "article/hosts.toml").read_text() == (GOLDEN.parent.parent / "hosts.toml").read_text()


@in_every_case
def test_a_case_begins_with_a_picture_and_has_no_key(case: str) -> None:
    lines = (GOLDEN / case / "hosts.toml").read_text(encoding="utf-8").splitlines()
    assert [line[:1] for line in lines[:3]] == ["#"] * 3
    for path in (GOLDEN / case / "expected").rglob("*.conf"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not line.startswith(("PrivateKey", "PresharedKey")), path
            assert not line.startswith("PublicKey") or line.startswith("PublicKey = KEY-"), path


# --- the tools that read them -------------------------------------------------------------------------------------


def run(tool: str, script: str, *, alone: bool = False) -> str:
    """Run a shell script that needs a tool, `alone` in a network of its own, and return what it prints.

    The tools are part of what is tested: a machine without them fails, it does not skip.
    """
    if shutil.which(tool) is None:
        pytest.fail(f"{tool} is missing on this machine: apt install wireguard-tools iptables iproute2")
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", *rights, *(["--net"] if alone else [])] if alone or rights else []
    done = subprocess.run(
        [*command, "sh", "-euc", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}"
    return done.stdout


def made_up_keys(hosts: Mapping[str, HostConfig]) -> dict[str, str]:
    """Return something of a WireGuard key's form for every host."""
    return {host: base64.b64encode(hashlib.sha256(host.encode()).digest()).decode() for host in hosts}


def written(case: str, folder: Path) -> dict[str, dict[str, File]]:
    """Write every file of a case, with keys, below folder/<host>; return them."""
    configs = compiled(case)
    rendered = render_mesh(configs, made_up_keys(configs))
    for host, files in rendered.items():
        for path, file in files.items():
            target = folder / host / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file.text, encoding="utf-8")
            target.chmod(file.mode)
    return rendered


@in_every_case
def test_wg_quick_strips_every_file_to_what_wireguard_takes(case: str, tmp_path: Path) -> None:
    for host, files in written(case, tmp_path).items():
        path = f"/etc/wireguard/{interface(case)}.conf"
        stripped = run("wg-quick", f"wg-quick strip {tmp_path / host}{path}")
        for_wg_quick = ("Address", "MTU", "Table", "PostUp", "PreDown")
        lines = [line for line in files[path].text.splitlines() if not line.startswith(for_wg_quick)]
        assert [line for line in stripped.splitlines() if line] == [line for line in lines if line]
        # wg reads the whole file before it looks for the interface, so this is its parser's word, not the kernel's.
        (tmp_path / "stripped").write_text(stripped)
        answer = run("wg", f"wg setconf no-such-if {tmp_path}/stripped 2>&1 || true", alone=True)
        assert answer.startswith("Unable to modify interface"), answer


@in_every_case
def test_iptables_restore_takes_every_file_twice_and_iptables_save_prints_the_same_lines(
    case: str, tmp_path: Path
) -> None:
    for host, files in written(case, tmp_path).items():
        path = f"/etc/isthmus/{interface(case)}.iptables"
        restore = f"iptables-restore --noflush {tmp_path / host}{path}"
        saved = run("iptables-restore", f"{restore}; {restore}; iptables-save 2>/dev/null", alone=True)
        assert our_lines(saved) == our_lines(files[path].text)


def our_lines(text: str) -> dict[str, list[str]]:
    """Return {table: our lines} of an iptables-save text."""
    tables: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("*"):
            lines = tables.setdefault(line, [])
        elif "ISTHMUS" in line:
            lines.append(line)
    return {table: lines for table, lines in tables.items() if lines}


@in_every_case
def test_ip_takes_every_routes_file_and_shows_the_compiled_routes_and_rules(case: str, tmp_path: Path) -> None:
    written(case, tmp_path)
    device = interface(case)
    for host, config in compiled(case).items():
        script = f"""
            ip link add {device} type veth peer name far-end
            ip link set far-end up
            ip address add {config.address}/32 dev {device}
            ip link set {device} up
            ip -4 -batch {shlex.quote(f"{tmp_path}/{host}/etc/isthmus/{device}.routes")}
            ip -json -4 route show table all proto 182
            echo
            ip -json -4 rule show
        """
        routes, rules = map(json.loads, filter(None, run("ip", script, alone=True).splitlines()))
        found = [(r["dst"], r["dev"], r.get("table", "main"), r.get("prefsrc")) for r in routes]
        own = str(config.address)
        assert sorted(found) == sorted(
            (str(route.destination).removesuffix("/32"), device, "main", own)
            if route.table == 254
            else (str(route.destination).removesuffix("/32"), device, "5182", None)
            for route in config.routes
        )
        ours = [(r["iif"], r["table"], r["priority"]) for r in rules if r.get("protocol") == "182"]
        assert ours == [(rule.iif, "5182", 5182) for rule in config.rules]
