"""What an apt repository says of itself: Release, Packages, and which of two Debian versions is newer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from isthmus.kubernetes.versions import upstream

Key = tuple[tuple[tuple[int, ...], int], ...]

_SUM = re.compile("[0-9a-f]{64}")
_PARTS = re.compile("([^0-9]*)([0-9]*)")
_END = ((0,), 0)
_FILE = re.compile(r"[A-Za-z0-9.+~_:/-]+\.deb")
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_VERSION = re.compile(r"[A-Za-z0-9.+:~-]+")


@dataclass(frozen=True)
class Package:
    """One package that a repository has."""

    name: str
    version: str
    architecture: str
    url: str
    """Absolute."""
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Return what Debian calls the file."""
        return f"{self.name}_{self.version}_{self.architecture}.deb"


def release_sums(text: str) -> dict[str, str]:
    """Return {path: SHA-256} of the indexes that a Release file vouches for."""
    sums: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            section = line.partition(":")[0]
        elif section == "SHA256" and len(words := line.split()) == 3 and _SUM.fullmatch(words[0]):
            sums[words[2]] = words[0]
    return sums


def parse_packages(text: str, base: str) -> Iterator[Package]:
    """Yield the packages of an index that are described whole; `base` is what their file names are relative to."""
    for paragraph in re.split(r"\n\s*\n", text):
        fields = {
            name: value.strip()
            for name, colon, value in (line.partition(":") for line in paragraph.splitlines() if line[:1].strip())
            if colon
        }
        name, version = fields.get("Package", ""), fields.get("Version", "")
        file, digest, size = fields.get("Filename", ""), fields.get("SHA256", ""), fields.get("Size", "")
        whole = _NAME.fullmatch(name) and _VERSION.fullmatch(version) and _FILE.fullmatch(file) and size.isdigit()
        if whole and _SUM.fullmatch(digest) and ".." not in file.split("/"):
            url = base + file.removeprefix("./")
            yield Package(name, version, fields.get("Architecture", ""), url, int(size), digest)


def newest(packages: Iterable[Package]) -> Package | None:
    """Return the package of the highest version, by Debian's own order."""
    return max(packages, key=lambda package: version_key(package.version), default=None)


def version_key(version: str) -> tuple[int, Key, Key]:
    """Return what sorts Debian versions as dpkg does: epoch, upstream's version, revision; `~` comes before the end."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    return int(epoch) if epoch.isdigit() else 0, _key(upstream), _key(revision)


def _key(text: str) -> Key:
    parts = (
        (tuple([*map(_order, letters), 0]), int(digits or 0))
        for letters, digits in _PARTS.findall(text)
        if letters or digits
    )
    return (*parts, _END)


def _order(letter: str) -> int:
    return -1 if letter == "~" else ord(letter) if letter.isalpha() else ord(letter) + 256


def upstream_version(version: str) -> str:
    """Return 1.36.2 for 1.36.2-1.1, and 2.2.7 for 2.2.7-1~debian.12~bookworm."""
    return upstream(version.rpartition(":")[2])


def in_order(versions: Mapping[str, object] | Iterable[str]) -> list[str]:
    """Return versions, the oldest first."""
    return sorted(set(versions), key=version_key)
