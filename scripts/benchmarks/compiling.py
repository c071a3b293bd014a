"""Part compile: inventory -> proven files of every host, at three sizes; beside it wg-meshconf's full mesh."""

from __future__ import annotations

import base64
import csv
import json
import os
import random
import shutil
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from benchmarks import rivals
from benchmarks.inventories import inventory_text
from benchmarks.measure import BenchError, Series, must
from benchmarks.table import Results, print_table

SIZES = ((100, 2), (1_000, 10), (10_000, 100))
"""(hosts, sites)."""
RUNS = 3
_COLUMNS = (
    *("Name", "Address", "Endpoint", "AllowedIPs", "ListenPort", "PersistentKeepalive", "FwMark", "PrivateKey", "DNS"),
    *("MTU", "Table", "PreUp", "PostUp", "PreDown", "PostDown", "SaveConfig"),
)
"""Of wg-meshconf's database."""
STEPS = ("load", "compile", "verify", "render")


def measure_compile(results: Results, folder: Path, sizes: tuple[tuple[int, int], ...] = SIZES) -> None:
    """Measure the steps at each size, (hosts, sites) ten times the one before, and print."""
    steps: dict[int, dict[str, float]] = {}
    processes: dict[int, Series] = {}
    rows = []
    for hosts, sites in sizes:
        path = folder / f"{hosts}.toml"
        path.write_text(inventory_text(hosts, sites), encoding="utf-8")
        said, series = _compile(path, hosts)
        steps[hosts], processes[hosts] = said, series
        work = _work(said)
        results.put(f"compile_{hosts}_s", work)
        results.put(f"compile_{hosts}_mb", said["peak_mb"])
        results.put(f"compile_{hosts}_output_mb", said["bytes"] / 1e6)
        results.put_series(f"compile_{hosts}_process", series)
        for step in STEPS:
            results.put(f"compile_{hosts}_{step}_s", said[f"{step}_s"])
        rows.append(
            (
                f"{hosts:,} hosts in {sites} sites",
                *(f"{said[f'{step}_s']:.3f} s" for step in STEPS),
                f"{work:.3f} s",
                f"{series.median:.2f} s",
                f"{said['peak_mb']:.0f} MB",
            )
        )
    works = [_work(steps[hosts]) for hosts, _ in sizes]
    growth = max(after / before for before, after in pairwise(works))
    results.put("compile_growth_10x", growth)
    how = (
        f"Ten times the hosts take at most {growth:.1f} times as long (compile + verify + render).\n"
        f"{RUNS} fresh processes each after a warm-up, the one of median time shown;\n"
        "load reads the TOML file; process is all of it with Python's start and imports; memory is the process' peak."
    )
    head = ("compile", *STEPS, "c + v + r", "process", "memory")
    print_table("compile: from hosts.toml to every file of every host, all promises proven", how, head, rows)


def _work(said: Mapping[str, float]) -> float:
    return said["compile_s"] + said["verify_s"] + said["render_s"]


def _compile(path: Path, hosts: int) -> tuple[dict[str, float], Series]:
    """Return what the run of median work said, and the series of whole processes."""
    series, runs = Series(), []
    for number in range(RUNS + 1):
        ended = must((sys.executable, "-m", "benchmarks.compile_once", str(path)), env=_python_path())
        said: dict[str, float] = json.loads(ended.output)
        if said["hosts"] != hosts or said["broken"]:
            raise BenchError(f"{path.name}: found {said}, expected {hosts} hosts and no broken promise")
        if number:  # the first is the warm-up
            series.seconds.append(ended.seconds)
            runs.append(said)
    return sorted(runs, key=_work)[RUNS // 2], series


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
        for key, what, command, out in (
            ("isthmus", "inv mesh.render", inv, ours),
            ("meshconf", "wg-meshconf genconfig", meshconf, theirs),
        ):
            series = Series()
            # A warm-up and three runs; one run where it takes the best part of a minute.
            for _ in range(1 if hosts > 300 and key == "meshconf" else 4):
                shutil.rmtree(out, ignore_errors=True)
                series.seconds.append(must(command, cwd=rivals.ROOT).seconds)
            series.seconds = series.seconds[1:] or series.seconds
            files = [path for path in out.rglob("*") if path.is_file()]
            confs = [path for path in files if path.suffix == ".conf" and path.name != "90-isthmus.conf"]
            if len(confs) != hosts:
                raise BenchError(f"{what}: found {len(confs)} wg-quick files, expected {hosts}")
            size = sum(path.stat().st_size for path in confs) / 1e6
            results.put_series(f"mesh_{hosts}_{key}", series)
            results.put(f"mesh_{hosts}_{key}_mb", size)
            rows.append((f"{hosts:,} hosts: {what}", f"{series.median:.2f} s", f"{size:.2f} MB", str(len(files))))
    how = (
        "Whole commands, files written; 2 sites for Isthmus (a peer for each leaf and site), a full mesh for\n"
        "wg-meshconf (a peer for each other host), which proves nothing. Keys: ours are made on the hosts later;\n"
        "its database comes with private keys, and it derives the public ones."
    )
    print_table("mesh: the whole command beside wg-meshconf", how, ("what", "median", "wg-quick files", "files"), rows)


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
