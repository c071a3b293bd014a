"""`inv k8s.bundle`: packages and images onto the workstation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from invoke import task

from isthmus.commands.shared import FILE, JSON, OK, command, print_json, read_inventory, say_failures
from isthmus.errors import InventoryError, Problem, UsageError


@task(
    help={
        **FILE,
        **JSON,
        "output": "the folder (default: that of the inventory's bundle, or of its source)",
        "source": "upstream or aliyun (default: the inventory's, or upstream)",
        "architecture": "of the hosts: amd64 or arm64",
        "debian": "the oldest Debian of the hosts: 11, 12 or 13",
    }
)
@command
def bundle(
    c: Any,
    file: str | None = None,
    output: str | None = None,
    source: str | None = None,
    architecture: str = "amd64",
    debian: str = "12",
    json: bool = False,
) -> int:
    """Fetch packages and images for the inventory's Kubernetes version into a folder; what is there already is kept."""
    from isthmus.cluster.sourcing import SOON_DAYS, key_days, offer_of
    from isthmus.cluster.survey import bundle_folder
    from isthmus.kubernetes.cluster import cluster_of
    from isthmus.kubernetes.sources import ARCHITECTURES, DEBIANS, SOURCES
    from isthmus.progress import shown_progress
    from isthmus.report.cluster import bundle_json, bundle_words
    from isthmus.sources.making import make_bundle

    inventory = read_inventory(file)
    cluster = cluster_of(inventory)
    if output == "":
        raise UsageError("--output: found nothing, expected the path of a folder")
    asked = inventory.kubernetes
    chosen = _one_of("source", source or (asked.source if asked else None) or "upstream", tuple(SOURCES))
    _one_of("architecture", architecture, ARCHITECTURES)
    _one_of("debian", debian, tuple(DEBIANS))
    if output is None and (asked is None or not (asked.bundle or asked.source)):
        problem = Problem("kubernetes", "neither source nor bundle", "one of them, or --output DIR")
        raise InventoryError(inventory.source, (problem,))
    folder = Path(output).expanduser() if output else bundle_folder(inventory)
    with shown_progress("k8s.bundle", plain=not json) as progress:
        progress(chosen, "reading what it has")
        offer = offer_of(chosen, cluster.version, debian, architecture)
        made = make_bundle(offer, folder, progress)
    if json:
        print_json(bundle_json(made, folder))
    else:
        print(bundle_words(made, folder))
    ending = [(host, days) for host, days in key_days(offer) if days < SOON_DAYS]
    say_failures({}, tuple(f"the key of {host} ends in {days} days" for host, days in ending))
    return OK


def _one_of(flag: str, found: str, known: tuple[str, ...]) -> str:
    if found not in known:
        raise UsageError(f"--{flag}: found {found or 'nothing'}, expected one of {', '.join(known)}")
    return found
