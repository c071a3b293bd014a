"""The command line of scripts/bench."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import rivals
from benchmarks.measure import BenchError
from benchmarks.table import Results
from isthmus.errors import IsthmusError

PARTS = ("compile", "noop", "first", "fleet", "kubernetes")


def main(arguments: Sequence[str]) -> int:
    """Measure the parts asked for; 0 done, 1 something to be measured failed, 2 the command line is wrong."""
    options = _parsed(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an interrupt: what was built is taken down
    results = Results()
    _machine(results)
    failed = False
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        for name, part in _parts(options, Path(folder)):
            failed |= not _done(name, part, results)
    for name, version in rivals.versions().items():
        results.put(f"version_{name}", version)
    if options.json:
        options.json.write_text(json.dumps(results.values, indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure Isthmus beside Ansible, pyinfra, wg-meshconf and plain OpenSSH, on this machine, now.",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers, by flat keys")
    parser.add_argument("--only", metavar="PART,…", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--full", action="store_true", help="also wg-meshconf with 1,000 hosts (a minute more)")
    options = parser.parse_args(arguments)
    options.only = [part.strip() for part in options.only.split(",") if part.strip()]
    if (unknown := [part for part in options.only if part not in PARTS]) or not options.only:
        parser.error(f"--only: found {', '.join(unknown) or 'nothing'}, expected some of {', '.join(PARTS)}")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"--json: found no folder {options.json.absolute().parent}, expected one that exists")
    if os.geteuid() != 0 and options.only != ["compile"]:
        parser.error("the lab needs root; without it: --only compile")
    return options


def _parts(options: argparse.Namespace, folder: Path) -> list[tuple[str, Callable[[Results], None]]]:
    from benchmarks.compiling import measure_compile, measure_meshes
    from benchmarks.fleet import measure_fleet
    from benchmarks.hosts import measure_hosts
    from benchmarks.kubernetes import measure_kubernetes

    of_hosts = tuple(part for part in ("noop", "first") if part in options.only)
    parts: list[tuple[str, Callable[[Results], None]]] = []
    if "compile" in options.only:
        parts.append(("compile", lambda results: measure_compile(results, folder)))
        parts.append(("compile", lambda results: measure_meshes(results, folder, full=options.full)))
    if of_hosts:
        parts.append((", ".join(of_hosts), lambda results: measure_hosts(results, folder, of_hosts)))
    if "fleet" in options.only:
        parts.append(("fleet", lambda results: measure_fleet(results, folder)))
    if "kubernetes" in options.only:
        parts.append(("kubernetes", lambda results: measure_kubernetes(results, folder)))
    return parts


def _done(name: str, part: Callable[[Results], None], results: Results) -> bool:
    """Measure one part; a part that fails says why, and the others go on."""
    print(f"measuring: {name}", file=sys.stderr, flush=True)
    try:
        part(results)
    except (BenchError, IsthmusError, subprocess.CalledProcessError) as error:
        print(f"scripts/bench: {name}: {error}", file=sys.stderr)
        return False
    return True


def _machine(results: Results) -> None:
    """Record what a reader needs to compare: size, kernel, Python, the state of the code."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0))
    results.put("machine_cores", cores)
    results.put("machine_memory_gb", memory)
    results.put("machine_kernel", platform.release())
    results.put("machine_python", platform.python_version())
    results.put("machine_load", os.getloadavg()[0])
    command = ("git", "-C", str(rivals.ROOT), "describe", "--always", "--dirty", "--abbrev=12")
    described = subprocess.run(command, capture_output=True, text=True, check=False)
    results.put("commit", described.stdout.strip() or "unknown")
    load = os.getloadavg()[0]
    busy = "; BUSY: do not quote these numbers" if load > cores / 2 else ""
    print(
        f"{cores} cores, {memory:.0f} GB, Linux {platform.release()}, Python {platform.python_version()}; "
        f"load {load:.1f} before the first measurement{busy}"
    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `scripts/bench | head`: nobody reads on; Python would complain again at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
