"""Part kubernetes: `inv k8s.bootstrap` of three bare hosts phase by phase, again, and of a host that is added.

All run on the admin workstation of a lab of the repository's own hosts.toml, from the bundle that ISTHMUS_BUNDLE names.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import rivals
from benchmarks.measure import BenchError, Ended, Series, must
from benchmarks.table import SECONDS, Results, print_table, seconds_row
from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions, Lab, LabOptions

NAME = "bench-k8s"
"""Of the lab."""
BUNDLE = "ISTHMUS_BUNDLE"
FIRST = ("n1", "n2", "s1")
ADDED = "n3"
NOOP_ROUNDS = 3


def measure_kubernetes(results: Results, folder: Path) -> None:
    """Build the lab, bring the mesh up, measure, print, take the lab down; without a bundle say that it is skipped."""
    bundle = os.environ.get(BUNDLE)
    if not bundle:
        print(f"\nkubernetes: skipped: {BUNDLE} names no Kubernetes bundle", flush=True)
        return
    file = folder / "kubernetes.toml"
    text = (rivals.ROOT / "hosts.toml").read_text(encoding="utf-8")
    file.write_text(f'{text}bundle = "{Path(bundle).resolve()}"\n', encoding="utf-8")
    lab = Lab(load_inventory(file), NAME, LabOptions(default=HostOptions(packages=True, kubernetes=True)))
    lab.down()
    try:
        lab.up()
        _inv(lab, file, "mesh.up")
        _measure(results, lab, file)
    finally:
        lab.down()


def _measure(results: Results, lab: Lab, file: Path) -> None:
    only = ",".join(FIRST)
    first, phases = _bootstrap(lab, file, only, changed=True)
    noop = Series([_bootstrap(lab, file, only, changed=False)[0].seconds for _ in range(NOOP_ROUNDS)])
    added, phases_of_added = _bootstrap(lab, file, ADDED, changed=True)
    results.put("kubernetes_first_s", first.seconds)
    results.put("kubernetes_first_mb", first.peak_mb)
    results.put_series("kubernetes_noop", noop)
    results.put("kubernetes_noop_vs_first", noop.median / first.seconds)
    results.put("kubernetes_added_s", added.seconds)
    results.put("kubernetes_added_vs_first", added.seconds / first.seconds)
    rows = []
    for title, seconds in phases.items():
        key = f"kubernetes_first_{re.sub('[^a-z]+', '_', title.lower())}"
        results.put(f"{key}_s", seconds)
        results.put(f"{key}_share", seconds / first.seconds)
        of_added = f"{phases_of_added[title]:.1f} s" if title in phases_of_added else ""
        rows.append((title, f"{seconds:.1f} s", f"{100 * seconds / first.seconds:.0f} %", of_added))
    rest, rest_of_added = (
        ended.seconds - sum(of.values()) for ended, of in ((first, phases), (added, phases_of_added))
    )
    share = f"{100 * rest / first.seconds:.0f} %"
    rows.append(("connect, compare sums, look again", f"{rest:.1f} s", share, f"{rest_of_added:.1f} s"))
    rows.append(("all of it", f"{first.seconds:.1f} s", "100 %", f"{added.seconds:.1f} s"))
    how = (
        f"One run each, whole processes; a bundle of {_megabytes(file):.0f} MB. {ADDED} alone takes "
        f"{added.seconds / first.seconds:.2f} of the first run's time, another run {noop.median / first.seconds:.3f}. "
        "Hosts and workstation share this machine's cores and disk: on machines of their own the hosts work beside "
        "each other, and sending takes what the line takes."
    )
    head = ("phase", ", ".join(FIRST), "share", f"{ADDED} added")
    print_table("kubernetes: k8s.bootstrap of three bare hosts on the mesh", how, head, rows)
    print_table("kubernetes: k8s.bootstrap again", "Nothing to do.", SECONDS, [seconds_row("inv k8s.bootstrap", noop)])


def _megabytes(file: Path) -> float:
    """Return the size of the bundle that an inventory names."""
    kubernetes = load_inventory(file).kubernetes
    assert kubernetes is not None
    assert kubernetes.bundle is not None
    return sum(path.stat().st_size for path in Path(kubernetes.bundle).glob("*/*.[dt][ea][br]")) / 1e6


def _bootstrap(lab: Lab, file: Path, only: str, *, changed: bool) -> tuple[Ended, Mapping[str, float]]:
    """Run it for some hosts; BenchError where it had nothing to do but should, or the other way round."""
    ended = _inv(lab, file, "k8s.bootstrap", "--json", "--only", only)
    report: dict[str, Any] = json.loads(ended.output[ended.output.index("{\n") :])  # after what it said on its way
    if bool(report["changed"]) is not changed:
        raise BenchError(f"k8s.bootstrap --only {only}: changed {', '.join(report['changed']) or 'nothing'}")
    seconds: Mapping[str, float] = report["seconds"]
    return ended, seconds


def _inv(lab: Lab, file: Path, task: str, *flags: str) -> Ended:
    command = (sys.executable, "-m", "invoke", task, *flags, "--file", str(file))
    env = {key: value for key, value in os.environ.items() if key not in ("ISTHMUS_HOSTS", "PYTHONPATH")}
    return must(lab.admin_command(command), env=env, cwd=rivals.ROOT, called=" ".join(command))
