"""An apt repository: its index, which counts only where the key that we know has signed it."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from isthmus.errors import SourceError
from isthmus.kubernetes.debian import Package, parse_packages, release_sums
from isthmus.kubernetes.sources import Repository
from isthmus.sources.openpgp import read_certificate
from isthmus.sources.web import first_that_works, get


@dataclass(frozen=True)
class Index:
    """What a repository has, and until when its key lasts."""

    host: str
    packages: tuple[Package, ...]
    key: str
    """The fingerprint."""
    key_ends: datetime | None


def first_index(repositories: Iterable[Repository], now: datetime) -> Index:
    """Return the index of the first repository that has a good one; SourceError with what each said."""
    return first_that_works(repositories, lambda repository: read_index(repository, now))


def read_index(repository: Repository, now: datetime) -> Index:
    """Return a repository's index: by Release's sums, Release by its signature, that by the key's fingerprint."""
    certificate = read_certificate(_get(repository.key), repository.fingerprint)
    release = _get(f"{repository.release}Release")
    try:
        certificate.verify(release, _get(f"{repository.release}Release.gpg"), now)
    except SourceError as error:
        raise SourceError(f"its index cannot be trusted: {error}") from None
    sums = release_sums(release.decode("utf-8", "replace"))
    packed = f"{repository.index}.gz"
    path = packed if packed in sums else repository.index
    if path not in sums:
        raise SourceError(f"its Release knows no {repository.index}")
    content = _get(f"{repository.release}{path}")
    if hashlib.sha256(content).hexdigest() != sums[path]:
        raise SourceError(f"its {path} has another sum than its Release says; it may be changing: try again")
    if path == packed:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            raise SourceError(f"its {path} is damaged") from None
    packages = tuple(parse_packages(content.decode("utf-8", "replace"), repository.pool))
    return Index(str(repository), packages, repository.fingerprint, certificate.ends)


def _get(url: str) -> bytes:
    try:
        return get(url).body
    except SourceError as error:
        raise SourceError(f"{url.rpartition('/')[2]}: {error}") from None
