"""The bundle of an inventory with a `source`: kept in a folder beside it, made and made whole from the source."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from isthmus.cluster.delivery import check_files
from isthmus.errors import InventoryError, SourceError
from isthmus.kubernetes.bundle import Bundle, parse_bundle
from isthmus.kubernetes.checks import Finding
from isthmus.kubernetes.cluster import Cluster
from isthmus.kubernetes.sources import SOURCES
from isthmus.sources.making import Offer, make_bundle, probe_images, read_offer
from isthmus.survey import Progress, silent

ARCHITECTURE, DEBIAN = "amd64", "12"
"""What a source is asked for unless `k8s.bundle` says otherwise. containerd.io of Debian 12 runs on 13, too."""
SOON_DAYS = 30


def offer_of(source: str, version: str, debian: str = DEBIAN, architecture: str = ARCHITECTURE) -> Offer:
    """Return what a source has now."""
    return read_offer(SOURCES[source], version, debian, architecture, datetime.now(timezone.utc))


def kept_bundle(folder: Path, cluster: Cluster) -> Bundle | None:
    """Return the bundle that an earlier run has left in a folder; None when there is none for this cluster."""
    path = folder / "bundle.toml"
    try:
        return parse_bundle(path.read_text(encoding="utf-8"), str(path), cluster)
    except (OSError, UnicodeDecodeError, InventoryError):
        return None


def planned_bundle(source: str, folder: Path, cluster: Cluster) -> Bundle:
    """Return the bundle that hosts are to have: the one that is kept, else what the source has now.

    So a new patch release changes nothing by itself: `k8s.bundle` looks for it.
    """
    return kept_bundle(folder, cluster) or offer_of(source, cluster.version).bundle()


def whole_bundle(source: str, folder: Path, cluster: Cluster, wanted: Bundle, progress: Progress = silent) -> Bundle:
    """Return a bundle whose files are all there; what is missing of it is fetched."""
    if (kept := kept_bundle(folder, cluster)) and is_whole(folder, kept):
        return kept
    return make_bundle(offer_of(source, wanted.kubernetes), folder, progress)


def is_whole(folder: Path, bundle: Bundle) -> bool:
    """Return whether every file of a bundle is there."""
    try:
        check_files(folder, (*bundle.debs, *bundle.images))
    except InventoryError:
        return False
    return True


def source_findings(source: str, folder: Path, cluster: Cluster) -> Iterator[Finding]:
    """Yield what is wrong with a source: no error where a whole bundle is kept, since that does without."""
    kept = kept_bundle(folder, cluster)
    needed = kept is None or not is_whole(folder, kept)
    try:
        offer = offer_of(source, cluster.version)
    except SourceError as error:
        yield Finding(source, needed, "packages", str(error))
        return
    for host, days in key_days(offer):
        if days < SOON_DAYS:
            yield Finding(source, False, "key", f"that of {host} ends in {days} days; it is fetched anew each time")
    for wrong in probe_images(offer).values():
        yield Finding(source, needed, "images", wrong)


def key_days(offer: Offer) -> Iterator[tuple[str, int]]:
    """Yield (repository, for how many days its key lasts) of the keys that end."""
    now = datetime.now(timezone.utc)
    for index in offer.indexes:
        if index.key_ends is not None:
            yield index.host, (index.key_ends - now).days
