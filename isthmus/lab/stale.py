"""Images that nobody uses any more: their recipe has changed, or labs of that Debian are no longer built."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

from isthmus.lab import machine

KEPT_DAYS = 14
"""So long an image waits for the next lab; branches of one checkout may want it in turn."""


def lock_of(image: Path) -> Path:
    """Return the lock of an image's folder. Its date is that of the image's last use."""
    return image.with_name(f".{image.name}.lock")


def note_use(image: Path) -> None:
    """Note that a lab is built from the image; by whom holds its lock."""
    os.utime(lock_of(image))


def prune(cache: Path, runs: Path) -> tuple[str, ...]:
    """Remove the images in `cache` that no lab was built from for KEPT_DAYS, and return their names.

    Those stay that a lab in the folder `runs` was last switched on with, however long ago.
    """
    settings = [path.read_text(encoding="utf-8") for path in runs.glob("*/hosts/*/settings")]
    lowers = [re.search("^LOWER='?([^'\n]*)", text, re.MULTILINE) for text in settings]
    used = {Path(layer).name for lower in lowers if lower for layer in lower[1].split(":")}
    oldest = time.time() - KEPT_DAYS * 86400
    removed = []
    for image in sorted(cache.iterdir()):
        if image.name.startswith(".") or not image.is_dir() or image.name in used:
            continue
        lock = lock_of(image)
        if (lock if lock.exists() else image).stat().st_mtime > oldest:
            continue
        with machine.locked(lock):
            shutil.rmtree(image, ignore_errors=True)
            image.with_name(f"{image.name}.log").unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
        removed.append(image.name)
    return tuple(removed)
