"""A cgroup of its own for every host, in every hierarchy: by it a host's processes are found, counted and ended.

Without it all hosts of systemd-nspawn's --keep-unit share one. Where cgroup v1 is mounted (alone or as a hybrid) the
cgroups are made below our own, so that limits set on us hold for the lab; on a machine with cgroup v2 alone below the
root, since a session's own cgroup may not hand down its controllers while processes are in it (man 7 cgroups, "no
internal processes").
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from isthmus.errors import LabError

_FOLDER = "isthmus-lab"


@dataclass(frozen=True)
class Hierarchy:
    """A mounted cgroup hierarchy, and the folder in it below which we make ours."""

    mount: Path
    own: Path
    unified: bool


def hierarchies() -> tuple[Hierarchy, ...]:
    """Return this machine's hierarchies; the unified one, if any, first."""
    own = dict(_own_cgroups())
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, super_options = after.split()[:3]
        if kind in ("cgroup", "cgroup2"):
            mounts.append((kind == "cgroup2", Path(before.split()[4]), super_options.split(",")))
    found = []
    for unified, mount, options in mounts:
        path = "/" if len(mounts) == 1 else _path_in(own, unified, options)
        below = mount / path.lstrip("/")
        found.append(Hierarchy(mount, below if below.is_dir() else mount, unified))
    if not found:
        raise LabError("no cgroup hierarchy is mounted; systemd cannot run in the lab's hosts")
    return tuple(sorted(found, key=lambda hierarchy: not hierarchy.unified))


def has_v1() -> bool:
    """Return whether cgroup v1 is mounted here, alone or beside v2."""
    return not all(hierarchy.unified for hierarchy in hierarchies())


def make(lab: str, unit: str, leaf: str | None = None) -> tuple[Path, ...]:
    """Make the cgroup of one unit (a host, a resource) of a lab in every hierarchy and return the folders.

    No process may be in a unit's own cgroup, only in one below it: with `leaf` such a one is made and returned.
    """
    made = []
    for hierarchy in hierarchies():
        path = hierarchy.own
        _hand_down(path, hierarchy)
        for name in (_FOLDER, lab, unit):
            path = path / name
            path.mkdir(exist_ok=True)
            _hand_down(path, hierarchy)
        if leaf:
            path = path / leaf
            path.mkdir(exist_ok=True)
        made.append(path)
    return tuple(made)


def processes(lab: str, unit: str | None = None) -> set[int]:
    """Return the processes of a lab, or of one unit of it, wherever they were started from."""
    found: set[int] = set()
    for folder in _find(hierarchies()[:1], lab, unit):
        for path, _, _ in os.walk(folder):
            with suppress(OSError):  # removed meanwhile
                found.update(int(line) for line in Path(path, "cgroup.procs").read_text(encoding="ascii").split())
    return found - {0}


def end(lab: str, unit: str | None = None, seconds: float = 30) -> None:
    """Kill the processes of a lab or unit and remove their cgroups; LabError if something outlives that."""
    deadline = time.monotonic() + seconds
    while living := processes(lab, unit):
        for pid in living:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise LabError(f"lab {lab}: processes survive SIGKILL: {sorted(living)}")
        time.sleep(0.01)
    while folders := _find(hierarchies(), lab, unit):
        for folder in folders:
            _remove(folder)
        if time.monotonic() > deadline:
            raise LabError(f"lab {lab}: the cgroup {folders[0]} cannot be removed")
    for hierarchy in hierarchies():
        with suppress(OSError):  # another lab is in it
            (hierarchy.own / _FOLDER).rmdir()


def _find(where: tuple[Hierarchy, ...], lab: str, unit: str | None) -> list[Path]:
    """Return a lab's or unit's folders; searched for, since a lab may have been started from another cgroup."""
    found = []
    for hierarchy in where:
        for parent, names, _ in os.walk(hierarchy.mount):
            if _FOLDER in names:
                names.remove(_FOLDER)
                path = Path(parent, _FOLDER, lab, *([unit] if unit else []))
                if path.is_dir():
                    found.append(path)
    return found


def _remove(folder: Path) -> None:
    for parent, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # a process that is just ending still holds it; our caller comes again
            Path(parent).rmdir()


def _hand_down(path: Path, hierarchy: Hierarchy) -> None:
    """Let children of the cgroup use what it has itself."""
    if hierarchy.unified:
        with suppress(OSError):
            controllers = (path / "cgroup.controllers").read_text(encoding="ascii").split()
            for controller in controllers:
                with suppress(OSError):
                    (path / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")
    elif (path / "cpuset.cpus").exists():
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not (path / name).read_text(encoding="ascii").strip():
                (path / name).write_text((path.parent / name).read_text(encoding="ascii"), encoding="ascii")
        if path.name == _FOLDER or _FOLDER in path.parts:
            (path / "cgroup.clone_children").write_text("1", encoding="ascii")


def _own_cgroups() -> list[tuple[str, str]]:
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    return [(controllers, path) for _, controllers, path in (line.split(":", 2) for line in lines)]


def _path_in(own: dict[str, str], unified: bool, options: list[str]) -> str:
    if unified:
        return own.get("", "/")
    for controllers, path in own.items():
        if controllers and set(controllers.split(",")) <= set(options):
            return path
    return "/"
