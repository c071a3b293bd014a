"""Images of registries: found out where they are, fetched blob by blob, written as archives for `ctr images import`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import urlencode

from isthmus.errors import SourceError
from isthmus.kubernetes.registry import (
    ACCEPTED,
    Blob,
    Manifest,
    archive_index,
    check_platform,
    parse_challenge,
    parse_manifest,
    platform_digest,
    same_digest,
)
from isthmus.kubernetes.sources import Origin
from isthmus.sources.web import BLOCK, Answer, NoAnswerError, StatusError, download, first_that_works, get, sum_of

T = TypeVar("T")

INDEX = "manifest.json"
TOKEN_S = 60
"""Registries promise that a token lasts so long at least."""


@dataclass(frozen=True)
class Found:
    """An image, and the place that has it."""

    origin: Origin
    manifest: Manifest


class Registries:
    """The registries of one run, with the tokens they have given us."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        self._tokens: dict[Origin, tuple[str, float]] = {}
        self._challenges: dict[Origin, Mapping[str, str]] = {}
        self._silent: dict[str, str] = {}

    def find(self, reference: str, places: Iterable[Origin]) -> Found:
        """Return an image from the first place that has it; SourceError with what each place said."""
        return self._first(reference, places, lambda origin: Found(origin, self._manifest(origin, reference)))

    def fetch(self, reference: str, places: Iterable[Origin], target: Path) -> tuple[str, Origin | None]:
        """Have an image as an archive; return its sum, and where it came from, None when it was there already.

        A place that fails on the way is left for the next one.
        """

        def attempt(origin: Origin) -> tuple[str, Origin | None]:
            manifest = self._manifest(origin, reference)
            if digest := archive_sum(target, reference, manifest):
                return digest, None
            folder = target.with_name(f".{target.stem}")
            for blob in manifest.blobs:
                self._download(origin, blob, folder / blob.file_name)
            return write_archive(target, reference, manifest, folder), origin

        return self._first(reference, places, attempt)

    def _first(self, reference: str, places: Iterable[Origin], attempt: Callable[[Origin], T]) -> T:
        def ask(origin: Origin) -> T:
            if origin.registry in self._silent:
                raise SourceError(self._silent[origin.registry])
            try:
                return attempt(origin)
            except NoAnswerError as error:  # it took its time, which the next image need not spend again
                self._silent[origin.registry] = str(error)
                raise

        try:
            return first_that_works(places, ask)
        except SourceError as error:
            raise SourceError(f"no source has the image {reference}: {error}") from None

    def _manifest(self, origin: Origin, reference: str) -> Manifest:
        answer = self._ask(origin, f"manifests/{reference.rpartition(':')[2]}", accept=ACCEPTED)
        promised = answer.headers.get("docker-content-digest", "")
        if promised.startswith("sha256:") and not same_digest(answer.body, promised):
            raise SourceError("sent a manifest with another sum than it says")
        digest = platform_digest(answer.body, self.architecture)
        if digest is None:
            manifest = parse_manifest(answer.body)
        else:
            answer = self._ask(origin, f"manifests/{digest}", accept=ACCEPTED)
            if not same_digest(answer.body, digest):
                raise SourceError("sent a manifest with another sum than its digest")
            manifest = parse_manifest(answer.body)
        config = self._ask(origin, f"blobs/sha256:{manifest.config.sha256}", accept="*/*").body
        if hashlib.sha256(config).hexdigest() != manifest.config.sha256:
            raise SourceError("sent a configuration with another sum than its digest")
        check_platform(config, self.architecture)
        return manifest

    def _download(self, origin: Origin, blob: Blob, target: Path) -> None:
        url = f"{origin.registry}/v2/{origin.name}/blobs/sha256:{blob.sha256}"
        try:
            download(url, target, blob.sha256, blob.size, lambda: self._authorization(origin))
        except StatusError as error:
            if error.status != 401 or not self._challenged(origin, error):
                raise
            download(url, target, blob.sha256, blob.size, lambda: self._authorization(origin))

    def _ask(self, origin: Origin, what: str, accept: str) -> Answer:
        url = f"{origin.registry}/v2/{origin.name}/{what}"
        try:
            return get(url, {"Accept": accept, **self._authorization(origin)})
        except StatusError as error:
            if error.status != 401 or not self._challenged(origin, error):
                raise
        return get(url, {"Accept": accept, **self._authorization(origin)})

    def _challenged(self, origin: Origin, error: StatusError) -> bool:
        """Remember how a registry wants to be asked; False when it wants what we do not have."""
        challenge = parse_challenge(error.headers.get("www-authenticate", ""))
        self._tokens.pop(origin, None)
        if challenge is None or "realm" not in challenge:
            return False
        self._challenges[origin] = challenge
        return True

    def _authorization(self, origin: Origin) -> dict[str, str]:
        """Return the header that a registry wants, with a token for anybody; none where it has asked for none."""
        challenge = self._challenges.get(origin)
        if challenge is None:
            return {}
        token, until = self._tokens.get(origin, ("", 0.0))
        if time.monotonic() >= until:
            realm = challenge["realm"]
            if origin.registry.startswith("https:") and not realm.startswith("https:"):
                raise SourceError("wants its token fetched without TLS")
            asked = {"service": challenge.get("service", ""), "scope": f"repository:{origin.name}:pull"}
            try:
                answer = json.loads(get(f"{realm}{'&' if '?' in realm else '?'}{urlencode(asked)}").body)
                token = str(answer.get("token") or answer["access_token"])
                lasts = min(float(answer.get("expires_in") or TOKEN_S), 300.0)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise SourceError("gives no token") from None
            except SourceError as error:
                raise SourceError(f"gives no token: its {realm} {error}") from None
            self._tokens[origin] = token, time.monotonic() + lasts / 2
        return {"Authorization": f"Bearer {token}"}


# --- archives -----------------------------------------------------------------------------------------------------


def write_archive(target: Path, reference: str, manifest: Manifest, folder: Path) -> str:
    """Make a docker-archive of blobs in a folder, which goes; return its sum. The same blobs give the same sum."""
    part = target.with_name(f"{target.name}.part")
    with part.open("wb") as archive:
        index = archive_index(reference, manifest)
        _add(archive, INDEX, len(index), io.BytesIO(index))
        for blob in manifest.blobs:
            with (folder / blob.file_name).open("rb") as file:
                _add(archive, blob.file_name, blob.size, file)
        archive.write(bytes(2 * tarfile.BLOCKSIZE))
        archive.write(bytes(-archive.tell() % tarfile.RECORDSIZE))
    digest = sum_of(part)
    part.replace(target)
    for blob in manifest.blobs:
        os.unlink(folder / blob.file_name)
    for left in folder.iterdir():  # parts of what another place called this image
        left.unlink()
    folder.rmdir()
    return digest


def archive_sum(path: Path, reference: str, manifest: Manifest) -> str | None:
    """Return the sum of an archive that is there; None when it is not whole, or of another image."""
    wanted = {blob.file_name: blob.sha256 for blob in manifest.blobs}
    wanted[INDEX] = hashlib.sha256(archive_index(reference, manifest)).hexdigest()
    found = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                file = archive.extractfile(member)
                digest = hashlib.sha256()
                while file and (block := file.read(BLOCK)):
                    digest.update(block)
                found[member.name] = digest.hexdigest()
    except (OSError, tarfile.TarError):
        return None
    return sum_of(path) if found == wanted else None


def _add(archive: IO[bytes], name: str, size: int, content: IO[bytes]) -> None:
    """Add a file as GNU tar does with --format=ustar --numeric-owner --owner=0 --group=0 --mode=0644 --mtime=@0.

    Hosts that fetch an image by themselves use tar, and are to end up with the same archive to the letter.
    """
    number = b"0000000\0"
    ends = (b"0", bytes(100), b"ustar\x0000", bytes(64), number, number, bytes(167))
    head = [name.encode().ljust(100, b"\0"), b"0000644\0", number, number, b"%011o\0" % size, b"%011o\0" % 0]
    checksum = sum(b"".join((*head, b" " * 8, *ends)))
    archive.write(b"".join((*head, b"%06o\0 " % checksum, *ends)))
    shutil.copyfileobj(content, archive, BLOCK)
    archive.write(bytes(-size % tarfile.BLOCKSIZE))
