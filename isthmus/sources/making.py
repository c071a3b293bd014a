"""A source -> a bundle: what it has for a version, and the folder with all of that, checked."""

from __future__ import annotations

import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO

from isthmus.errors import SourceError
from isthmus.kubernetes.bundle import OF_KUBERNETES, OLDEST_CONTAINERD, Bundle, Deb, Image, bundle_text, short_name
from isthmus.kubernetes.debian import Package, in_order, newest, upstream_version
from isthmus.kubernetes.images import CHECK, FLANNEL, images_of
from isthmus.kubernetes.registry import archive_index
from isthmus.kubernetes.sources import DEBIANS, Source
from isthmus.sources.images import Registries
from isthmus.sources.repository import Index, first_index
from isthmus.sources.web import BLOCK, download

Progress = Callable[[str, str], None]

_EXACT = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")
CONTAINERD_MAJOR = "2."


class UnknownVersionError(SourceError):
    """The source does not have the version of hosts.toml."""

    exit_code = 2


@dataclass(frozen=True)
class Offer:
    """What a source has for a version."""

    source: Source
    architecture: str
    debs: tuple[Package, ...]
    indexes: tuple[Index, ...]
    bundle: Bundle
    """What would be made of it; the sums of images are known when it is."""

    def pinned(self, bundle: Bundle) -> Offer:
        """Return the same for a bundle whose versions were chosen before; SourceError where they are gone."""
        packages = (package for index in self.indexes for package in index.packages)
        there = {(f"debs/{package.file_name}", package.sha256): package for package in packages}
        gone = [f"{deb.package} {deb.version}" for deb in bundle.debs if (deb.path, deb.sha256) not in there]
        if gone:
            words = f"{self.source.name} has no {', '.join(gone)} any more"
            raise SourceError(f"{words}: `inv k8s.bundle` takes what it has now")
        debs = tuple(there[deb.path, deb.sha256] for deb in bundle.debs)
        return replace(self, debs=debs, bundle=bundle)


@dataclass(frozen=True)
class Download:
    """How a host gets a file of the bundle by itself: a package from a URL, an image from blobs of registries."""

    path: str
    size: int
    url: str = ""
    index: str = ""
    """manifest.json of the archive."""
    blobs: tuple[str, ...] = ()
    """Names in the archive; each begins with its sum."""
    places: tuple[str, ...] = ()
    """What stands before `/blobs/sha256:…`, in the order to be tried."""


def read_offer(source: Source, version: str, debian: str, architecture: str, now: datetime) -> Offer:
    """Return what a source has for a version, minor or exact: the newest of it, by its signed indexes."""
    minor = ".".join(version.split(".")[:2])
    try:
        kubernetes = first_index(source.kubernetes_repositories(minor), now)
        docker = first_index(source.docker_repositories(DEBIANS[debian], architecture), now)
    except SourceError as error:
        raise SourceError(f"no packages from {source.name}: {error}") from None
    packages = [package for package in kubernetes.packages if package.architecture in (architecture, "all")]
    exact = _newest_of(packages, version, kubernetes)
    debs = (
        _newest(docker.packages, "containerd.io", docker, _is_good_containerd),
        *(
            _newest(packages, name, kubernetes, lambda found: upstream_version(found) == exact)
            for name in OF_KUBERNETES
        ),
        *(_newest(packages, name, kubernetes, lambda _: True) for name in ("cri-tools", "kubernetes-cni")),
    )
    return Offer(source, architecture, debs, (kubernetes, docker), _bundle_of(exact, debs))


def _bundle_of(kubernetes: str, packages: tuple[Package, ...]) -> Bundle:
    debs = tuple(Deb(f"debs/{one.file_name}", one.sha256, one.name, one.version) for one in packages)
    images = tuple(Image(f"images/{short_name(name)}.tar", "", (name,)) for name in images_of(kubernetes))
    containerd = next(deb.version for deb in debs if deb.package == "containerd.io")
    return Bundle(kubernetes, upstream_version(containerd), FLANNEL, CHECK, debs, images)


def make_bundle(offer: Offer, folder: Path, progress: Progress) -> Bundle:
    """Have the bundle in a folder; what is there already is not fetched again. bundle.toml is written last."""
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for package in offer.debs:
            _fetch_deb(package, folder / "debs" / package.file_name, progress)
        _check_kubeadm(folder, offer)
        registries = Registries(offer.architecture)
        images = tuple(_fetch_image(image, offer, registries, folder, progress) for image in offer.bundle.images)
        bundle = replace(offer.bundle, images=images)
        keep_bundle(folder, bundle, offer.architecture)
    except OSError as error:
        raise SourceError(f"cannot write {error.filename or folder}: {error.strerror or error}") from None
    return bundle


def keep_bundle(folder: Path, bundle: Bundle, architecture: str) -> None:
    """Write bundle.toml, at one stroke."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / "bundle.toml.part"
        part.write_text(bundle_text(bundle, architecture), encoding="utf-8")
        part.replace(folder / "bundle.toml")
    except OSError as error:
        raise SourceError(f"cannot write {error.filename or folder}: {error.strerror or error}") from None


def find_downloads(offer: Offer, paths: Collection[str]) -> dict[str, Download]:
    """Return where these files of a bundle are to be had; SourceError for one that nobody has."""
    found = {}
    for package in offer.debs:
        path = f"debs/{package.file_name}"
        if path in paths:
            found[path] = Download(path, package.size, package.url)
    registries = Registries(offer.architecture)
    for image in offer.bundle.images:
        if image.path in paths:
            (reference,) = image.references
            places = offer.source.places(reference)
            image_found = registries.find(reference, places)
            manifest = image_found.manifest
            # Those before it were asked and do not have it.
            left = places[places.index(image_found.origin) :]
            found[image.path] = Download(
                image.path,
                manifest.size,
                index=archive_index(reference, manifest).decode(),
                blobs=tuple(blob.file_name for blob in manifest.blobs),
                places=tuple(f"{place.registry}/v2/{place.name}" for place in left),
            )
    return found


def probe_images(offer: Offer) -> dict[str, str]:
    """Return what is wrong with each image that no place of the source has."""
    registries = Registries(offer.architecture)
    found = {}
    for image in offer.bundle.images:
        if wrong := _missing(registries, offer.source, image.references[0]):
            found[image.references[0]] = wrong
    return found


def _missing(registries: Registries, source: Source, reference: str) -> str:
    try:
        registries.find(reference, source.places(reference))
    except SourceError as error:
        return str(error)
    return ""


# --- choosing -----------------------------------------------------------------------------------------------------


def _newest_of(packages: list[Package], version: str, index: Index) -> str:
    """Return the newest exact version of all three packages that is the one asked for, or of the minor asked for."""
    sets = ({upstream_version(one.version) for one in packages if one.name == name} for name in OF_KUBERNETES)
    there = in_order(found for found in set.intersection(*sets) if _EXACT.fullmatch(found))
    chosen = [found for found in there if found == version or found.startswith(f"{version}.")]
    if not chosen:
        expected = f"one that {index.host} has: {', '.join(there) or 'none is there'}"
        raise UnknownVersionError(f'kubernetes.version: found "{version}", expected {expected}')
    return chosen[-1]


def _newest(
    packages: tuple[Package, ...] | list[Package], name: str, index: Index, wanted: Callable[[str], bool]
) -> Package:
    found = newest(package for package in packages if package.name == name and wanted(package.version))
    if found is None:
        raise SourceError(f"{index.host} has no {name} that is asked for")
    return found


def _is_good_containerd(version: str) -> bool:
    upstream = upstream_version(version)
    good = bool(_EXACT.fullmatch(upstream)) and upstream.startswith(CONTAINERD_MAJOR)
    return good and tuple(map(int, upstream.split(".")[:2])) >= OLDEST_CONTAINERD


# --- fetching -----------------------------------------------------------------------------------------------------


def _fetch_deb(package: Package, target: Path, progress: Progress) -> None:
    there = target.exists()
    try:
        download(package.url, target, package.sha256, package.size)
    except SourceError as error:
        raise SourceError(f"{package.url} {error}") from None
    said = "there already" if there else f"{package.size / 1e6:.0f} MB from {package.url.split('/')[2]}"
    progress(f"{package.name} {package.version}", said)


def _fetch_image(image: Image, offer: Offer, registries: Registries, folder: Path, progress: Progress) -> Image:
    target, (reference,) = folder / image.path, image.references
    digest, origin = registries.fetch(reference, offer.source.places(reference), target)
    progress(reference, f"{target.stat().st_size / 1e6:.0f} MB from {origin}" if origin else "there already")
    return replace(image, sha256=digest)


def _check_kubeadm(folder: Path, offer: Offer) -> None:
    """Raise SourceError when kubeadm wants other images than we know of."""
    path = next(folder / "debs" / package.file_name for package in offer.debs if package.name == "kubeadm")
    references = (offer.bundle.reference(name) for name in ("etcd", "coredns", "pause"))
    tags = {reference.rpartition(":")[2].encode() for reference in references}
    try:
        missing = _not_in_program(path, "usr/bin/kubeadm", tags)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from None
    if missing:
        words = ", ".join(sorted(tag.decode() for tag in missing))
        raise SourceError(
            f"kubeadm {offer.bundle.kubernetes} does not know {words}, which Isthmus has for this version: "
            "ask for an older patch release, or update Isthmus"
        )


def _not_in_program(deb: Path, program: str, words: set[bytes]) -> set[bytes]:
    """Return which words a program in a package does not contain. None where its compression is not known here."""
    with deb.open("rb") as file:
        if not _seek_data(file):
            return set()
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.name.removeprefix("./") == program else None
                if content is not None:
                    return _not_in(content, words)
    return set(words)


def _seek_data(file: IO[bytes]) -> bool:
    """Go to the data of a package, an `ar` archive; False when it is in none of tar's own compressions."""
    file.seek(8)
    while len(head := file.read(60)) == 60:
        name, size = head[:16].decode("ascii", "replace").strip().rstrip("/"), head[48:58].strip()
        if name.startswith("data.tar"):
            return name.endswith((".tar", ".gz", ".xz", ".bz2"))
        file.seek(int(size) + int(size) % 2 if size.isdigit() else 0, 1)
    raise SourceError(f"{file.name} is no Debian package")


def _not_in(content: IO[bytes], words: set[bytes]) -> set[bytes]:
    left, tail = set(words), b""
    while left and (block := content.read(BLOCK)):
        window = tail + block
        left = {word for word in left if word not in window}
        tail = window[-64:]
    return left
