"""Takes a lab off this machine by its name alone, and finds what labs there are."""

from __future__ import annotations

import shutil
from pathlib import Path

from isthmus.lab import cgroups, cloud, machine
from isthmus.lab.layout import Names


def take_down(name: str) -> None:
    """Remove everything a lab of this name has on this machine: processes, namespaces, cgroups, disks, folders.

    Needs no inventory. Harmless when there is no such lab, or only a part of it. LabError unless we are root.
    """
    names = Names(name)
    machine.check_root()
    with machine.locked(names.lock):
        cloud.forget_plans(names)
        cgroups.end(name)
        machine.end_namespaces(machine.namespaces(names.prefix))
        for folder in Path("/run/systemd/nspawn/propagate").glob(f"{name}.*"):
            folder.rmdir()  # systemd-nspawn that is killed leaves it
        shutil.rmtree(names.run, ignore_errors=True)
        shutil.rmtree(names.roots, ignore_errors=True)
        names.lock.unlink(missing_ok=True)


def known_labs() -> tuple[str, ...]:
    """Return the names of the labs that have something on this machine."""
    folders = (Names("lab").run.parent, Names("lab").roots.parent)
    found = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()}
    return tuple(sorted(found))
