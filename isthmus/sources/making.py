"""A source -> a bundle: what it has for a version, and the folder with all of that, checked."""

from __future__ import annotations

import lzma
import re
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO

from isthmus.errors import SourceError
from isthmus.kubernetes.bundle import OF_KUBERNETES, OLDEST_CONTAINERD, Bundle, Deb, Image, bundle_text, short_name
from isthmus.kubernetes.debian import Package, in_order, newest, upstream_version
from isthmus.kubernetes.images import CHECK, FLANNEL, images_of, tags_of_kubeadm
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
    """What a source has for a version: everything but the images' content."""

    source: Source
    architecture: str
    kubernetes: str
    debs: tuple[Package, ...]
    indexes: tuple[Index, ...]

    @property
    def references(self) -> tuple[str, ...]:
        """The images by their names upstream."""
        return images_of(self.kubernetes)

    def bundle(self) -> Bundle:
        """Return the bundle that would be made of it; the sums of images are known when it is."""
        debs = tuple(
            Deb(f"debs/{package.file_name}", package.sha256, package.name, package.version) for package in self.debs
        )
        images = tuple(Image(f"images/{short_name(name)}.tar", "", (name,)) for name in self.references)
        containerd = next(package.version for package in self.debs if package.name == "containerd.io")
        return Bundle(self.kubernetes, upstream_version(containerd), FLANNEL, CHECK, debs, images)


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
    return Offer(source, architecture, exact, debs, (kubernetes, docker))


def make_bundle(offer: Offer, folder: Path, progress: Progress) -> Bundle:
    """Have the bundle in a folder; what is there already is not fetched again. bundle.toml is written last."""
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for package in offer.debs:
            _fetch_deb(package, folder / "debs" / package.file_name, progress)
        _check_kubeadm(folder, offer)
        registries = Registries(offer.architecture)
        made = offer.bundle()
        images = tuple(_fetch_image(image, offer, registries, folder, progress) for image in made.images)
        bundle = replace(made, images=images)
        part = folder / "bundle.toml.part"
        part.write_text(bundle_text(bundle, offer.architecture), encoding="utf-8")
        part.replace(folder / "bundle.toml")
    except OSError as error:
        raise SourceError(f"cannot write {error.filename or folder}: {error.strerror or error}") from None
    return bundle


def probe_images(offer: Offer) -> dict[str, str]:
    """Return what is wrong with each image that no place of the source has."""
    registries = Registries(offer.architecture)
    found = {}
    for reference in offer.references:
        if wrong := _missing(registries, offer.source, reference):
            found[reference] = wrong
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
    tags = {tag.encode() for tag in tags_of_kubeadm(offer.kubernetes)}
    try:
        missing = _not_in_program(path, "usr/bin/kubeadm", tags)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from None
    if missing:
        words = ", ".join(sorted(tag.decode() for tag in missing))
        raise SourceError(
            f"kubeadm {offer.kubernetes} does not know {words}, which Isthmus has for this version: "
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
