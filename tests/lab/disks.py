"""Small disks for a lab's hosts, so that they can be full as disks are full: what is there stays, nothing new fits."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workstation import Admin

from isthmus.lab import Lab, take_down
from isthmus.lab.layout import Names

DISK_MB = 96
"""A host of the lab writes about 10 MB in its life; the rest of its disk is the image, below it."""


@contextmanager
def small_disks(lab: Lab) -> Iterator[None]:
    """While inside, the disks of the lab's hosts are small; the lab is up only inside, and gone at the end."""
    try:
        for host in lab.inventory.hosts:
            folder = lab.names.host_root(host)
            folder.mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "disk", folder], check=True)
        yield
    finally:
        lab.down()
        unmount(lab.names.name)


def unmount(name: str) -> None:
    """Take off the small disks that a lab of this name has, after it was taken down."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    for target in (line.split()[4] for line in mounts):
        if target.startswith(f"{Names(name).roots}/"):
            subprocess.run(["umount", target], check=True)
    take_down(name)


def fill(admin: Admin, host: str, left_kb: int) -> None:
    """Fill a host's disk up to so many kB."""
    admin.lab.host_run(host, "cat /dev/zero >>/filler 2>/dev/null")
    admin.said(host, f"truncate -s -{left_kb}K /filler")


def free(admin: Admin, host: str) -> None:
    """Undo `fill`."""
    admin.said(host, "rm -f /filler")
