"""Compiles, verifies and renders one inventory in a process of its own; prints what each step took, as JSON."""

from __future__ import annotations

import json
import re
import sys
import time
from itertools import pairwise
from pathlib import Path


def main(path: str) -> None:
    """Measure one inventory file; times in seconds, memory in 10^6 B. Imports are no part of a step's time."""
    from isthmus.compile import compile_mesh
    from isthmus.garbage import collect_rarely
    from isthmus.inventory import load_inventory
    from isthmus.render import render_mesh
    from isthmus.verify import machines_of, verify

    collect_rarely()  # as `inv` does
    marks = [time.perf_counter()]
    inventory = load_inventory(path)
    marks.append(time.perf_counter())
    configs = compile_mesh(inventory)
    marks.append(time.perf_counter())
    broken = verify(machines_of(configs, inventory), inventory)
    marks.append(time.perf_counter())
    files = render_mesh(configs, {}, placeholders=True)
    marks.append(time.perf_counter())
    load, compiled, verified, rendered = (after - before for before, after in pairwise(marks))
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    said = {
        "hosts": len(files),
        "broken": len(broken),
        "load_s": load,
        "compile_s": compiled,
        "verify_s": verified,
        "render_s": rendered,
        "peak_mb": int(peak[1]) * 1024 / 1e6 if peak else 0.0,
        "bytes": sum(len(file.text) for rendered_host in files.values() for file in rendered_host.values()),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1])
