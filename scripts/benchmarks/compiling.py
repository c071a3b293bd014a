"""Part compile: inventory -> proven files of every host, at three sizes; beside it wg-meshconf's full mesh."""

from __future__ import annotations

import base64
import csv
import json
import os
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks import rivals
from benchmarks.inventories import inventory_text
from benchmarks.measure import BenchError, Ended, Series, interleave, must
from benchmarks.table import Results, print_table

SIZES = ((100, 2), (1_000, 10), (10_000, 100))
"""(hosts, sites)."""
RUNS = 5
MESH_RUNS = 3
_NAMES = {"isthmus": "inv mesh.render", "meshconf": "wg-meshconf genconfig"}
_COLUMNS = (
    *("Name", "Address", "Endpoint", "AllowedIPs", "ListenPort", "PersistentKeepalive", "FwMark", "PrivateKey", "DNS"),
    *("MTU", "Table", "PreUp", "PostUp", "PreDown", "PostDown", "SaveConfig"),
)
"""Of wg-meshconf's database."""
STEPS = ("load", "compile", "verify", "render")


def measure_compile(results: Results, folder: Path, sizes: tuple[tuple[int, int], ...] = SIZES) -> None:
    """Measure the steps at each size, (hosts, sites) ten times the one before, and print."""
    runs: dict[int, list[dict[str, float]]] = {hosts: [] for hosts, _ in sizes}
    ways = {}
    for hosts, sites in sizes:
        path = folder / f"{hosts}.toml"
        path.write_text(inventory_text(hosts, sites), encoding="utf-8")
        ways[str(hosts)] = partial(_compile, path, hosts, runs[hosts])
    processes = interleave(ways, RUNS)
    rows = []
    for hosts, sites in sizes:
        said = sorted(runs[hosts][1:], key=_work)[RUNS // 2]  # the first was the warm-up
        series = processes[str(hosts)]
        results.put(f"compile_{hosts}_s", _work(said))
        results.put(f"compile_{hosts}_mb", said["peak_mb"])
        results.put(f"compile_{hosts}_output_mb", said["bytes"] / 1e6)
        results.put_series(f"compile_{hosts}_process", series)
        for step in STEPS:
            results.put(f"compile_{hosts}_{step}_s", said[f"{step}_s"])
        rows.append(
            (
                f"{hosts:,} hosts in {sites} sites",
                *(f"{said[f'{step}_s']:.3f} s" for step in STEPS),
                f"{_work(said):.3f} s",
                f"{series.median:.2f} s",
                f"{said['peak_mb']:.0f} MB",
            )
        )
    works = [Series([_work(said) for said in runs[hosts][1:]]) for hosts, _ in sizes]
    growth = max(larger.ratio(smaller) for smaller, larger in pairwise(works))
    results.put("compile_growth_10x", growth)
    how = (
        f"Ten times the hosts take at most {growth:.1f} times as long (compile + verify + render). "
        f"{RUNS} rounds of fresh processes after a warm-up, the one of median c + v + r shown; load reads the "
        "TOML file; process is all of it with Python's start and imports; memory is the process' peak."
    )
    head = ("compile", *STEPS, "c + v + r", "process", "memory")
    print_table("compile: from hosts.toml to every file of every host, all promises proven", how, head, rows)


def _work(said: Mapping[str, float]) -> float:
    return said["compile_s"] + said["verify_s"] + said["render_s"]


def _compile(path: Path, hosts: int, runs: list[dict[str, float]]) -> Ended:
    """Compile once in a process of its own; what it says of its steps goes into `runs`."""
    ended = must((sys.executable, "-m", "benchmarks.compile_once", str(path)), env=_python_path())
    said: dict[str, float] = json.loads(ended.output)
    if said["hosts"] != hosts or said["broken"]:
        raise BenchError(f"{path.name}: found {said}, expected {hosts} hosts and no broken promise")
    runs.append(said)
    return ended


def _python_path() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{rivals.ROOT / 'scripts'}:{rivals.ROOT}"}


# --- the whole command, beside wg-meshconf's ----------------------------------------------------------------------


def measure_meshes(results: Results, folder: Path, *, full: bool) -> None:
    """Measure `inv mesh.render` and `wg-meshconf genconfig` to files on disk, and print; `full` adds 1,000 hosts."""
    programs = rivals.installed()
    rows = []
    for hosts in (100, 300, 1_000) if full else (100, 300):
        toml, database = folder / f"mesh-{hosts}.toml", folder / f"{hosts}.csv"
        toml.write_text(inventory_text(hosts, 2), encoding="utf-8")
        _write_database(database, hosts)
        ours, theirs = folder / f"ours-{hosts}", folder / f"theirs-{hosts}"
        inv = (sys.executable, "-m", "invoke", "mesh.render", "--out", str(ours), "--file", str(toml))
        meshconf = (str(programs / "wg-meshconf"), "-d", str(database), "genconfig", "-o", str(theirs))
        ways = {"isthmus": partial(_afresh, inv, ours), "meshconf": partial(_afresh, meshconf, theirs)}
        # Where wg-meshconf takes the best part of a minute, once has to do.
        series = interleave(ways, MESH_RUNS if hosts < 1_000 else 1, warm_up=hosts < 1_000)
        for key, out in (("isthmus", ours), ("meshconf", theirs)):
            files = [path for path in out.rglob("*") if path.is_file()]
            confs = [path for path in files if path.suffix == ".conf" and path.name != "90-isthmus.conf"]
            if len(confs) != hosts:
                raise BenchError(f"{_NAMES[key]}: found {len(confs)} wg-quick files, expected {hosts}")
            size = sum(path.stat().st_size for path in confs) / 1e6
            results.put_series(f"mesh_{hosts}_{key}", series[key])
            results.put(f"mesh_{hosts}_{key}_mb", size)
            seconds = f"{series[key].median:.2f} s"
            rows.append((f"{hosts:,} hosts: {_NAMES[key]}", seconds, f"{size:.2f} MB", str(len(files))))
        results.put(f"mesh_{hosts}_vs_meshconf", series["isthmus"].ratio(series["meshconf"]))
    how = (
        "Whole commands, files written; 2 sites for Isthmus (a peer for each leaf and site), a full mesh for "
        "wg-meshconf (a peer for each other host), which proves nothing. Keys: ours are made on the hosts later; "
        "its database comes with private keys, and it derives the public ones."
    )
    print_table("mesh: the whole command beside wg-meshconf", how, ("what", "median", "wg-quick files", "files"), rows)


def _afresh(command: Sequence[str], out: Path) -> Ended:
    """Run a command that writes the folder `out`, which is not there yet."""
    shutil.rmtree(out, ignore_errors=True)
    return must(command, cwd=rivals.ROOT)


def _write_database(path: Path, hosts: int) -> None:
    """Write wg-meshconf's database of a full mesh, as `hosts` times `addpeer` would."""
    keys = random.Random(hosts)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        for number in range(1, hosts + 1):
            address = f"10.1.{number >> 8}.{number & 255}"
            private = base64.b64encode(keys.randbytes(32)).decode()
            row = {"Name": f"h{number}", "Address": f"{address}/32", "Endpoint": address, "ListenPort": 51820}
            writer.writerow({**row, "PrivateKey": private})
