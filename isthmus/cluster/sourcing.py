"""An inventory's `source`: which versions are taken from it, and how their files come to the hosts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from isthmus.cluster.delivery import PACKED, PLAIN, Files, check_files
from isthmus.cluster.fetching import fetch_by_hosts
from isthmus.errors import InventoryError, SourceError
from isthmus.kubernetes.bundle import Bundle, BundleFile, Image, parse_bundle
from isthmus.kubernetes.checks import Finding
from isthmus.kubernetes.cluster import Cluster
from isthmus.kubernetes.sources import SOURCES
from isthmus.model import Inventory
from isthmus.remote import Fleet
from isthmus.sources.making import (
    Download,
    Offer,
    find_downloads,
    keep_bundle,
    make_bundle,
    probe_images,
    read_offer,
)
from isthmus.survey import Progress

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
        return parse_bundle(path.read_text(encoding="utf-8"), str(path), cluster, whole=False)
    except (OSError, UnicodeDecodeError, InventoryError):
        return None


def planned_bundle(source: str, folder: Path, cluster: Cluster) -> Bundle:
    """Return the bundle that hosts are to have: the one that is kept, else what the source has now.

    So a new patch release changes nothing by itself: `k8s.bundle` looks for it.
    """
    return kept_bundle(folder, cluster) or offer_of(source, cluster.version).bundle


class Supply:
    """Brings the files of a bundle from a source: hosts fetch them, or this workstation where they cannot."""

    def __init__(self, source: str, folder: Path, cluster: Cluster, bundle: Bundle) -> None:
        self.source = source
        self.folder = folder
        self.cluster = cluster
        self.bundle = bundle
        self._offer: Offer | None = None
        self._downloads: dict[str, Download] = {}

    def find(self, files: Iterable[BundleFile]) -> None:
        """Find out where these files are; SourceError, before anything is touched, for one that nobody has."""
        self._offer = offer_of(self.source, self.bundle.kubernetes).pinned(self.bundle)
        self._downloads = find_downloads(self._offer, {file.path for file in files})

    def room(self, files: Iterable[BundleFile]) -> int:
        """Return how many bytes these files take on a host, as archives and unpacked."""
        return sum(self._downloads[file.path].size * (PACKED if isinstance(file, Image) else PLAIN) for file in files)

    def fetch(
        self, fleet: Fleet, inventory: Inventory, needed: Files, progress: Progress
    ) -> tuple[Files, dict[str, str]]:
        """Have the hosts fetch what they need; return that with its sums, and {site: the host that has it}.

        What a site cannot fetch is in this workstation's folder afterwards.
        """
        fetched = fetch_by_hosts(fleet, inventory, needed, self._downloads, progress)
        sites = {inventory.hosts[name].site for name, files in needed.items() if files}
        if sites - fetched.holders.keys():
            self.have_here(progress, "hosts cannot fetch from it: the workstation does")
            fetched.sums.update({file.path: file.sha256 for file in (*self.bundle.debs, *self.bundle.images)})
        else:
            self._remember(fetched.sums)
        with_sums = {
            name: tuple(BundleFile(file.path, fetched.sums[file.path]) for file in files)
            for name, files in needed.items()
        }
        return with_sums, fetched.holders

    def have_here(self, progress: Progress, why: str) -> None:
        """Have the bundle in this workstation's folder; SourceError where that cannot be."""
        if self._offer is not None:
            progress(self.source, why)
            self.bundle = make_bundle(self._offer, self.folder, progress)

    def _remember(self, sums: Mapping[str, str]) -> None:
        """Keep which versions were taken: the next run takes the same. What nobody has fetched has no sum yet."""
        images = tuple(replace(image, sha256=sums.get(image.path, image.sha256)) for image in self.bundle.images)
        self.bundle = replace(self.bundle, images=images)
        keep_bundle(self.folder, self.bundle, ARCHITECTURE)


def supply_of(inventory: Inventory, folder: Path, cluster: Cluster, bundle: Bundle) -> Supply | None:
    """Return how the bundle's files come from the source; None where they are all on this workstation."""
    source = inventory.kubernetes.source if inventory.kubernetes else None
    if source is None or ((kept := kept_bundle(folder, cluster)) and is_whole(folder, kept)):
        return None
    return Supply(source, folder, cluster, bundle)


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
