"""What a registry says of an image, and the archive that is made of it: data of the OCI distribution API."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isthmus.errors import SourceError

INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
ACCEPTED = ", ".join((*INDEXES, *MANIFESTS))
LAYERS = {
    "application/vnd.oci.image.layer.v1.tar": ".tar",
    "application/vnd.oci.image.layer.v1.tar+gzip": ".tar.gz",
    "application/vnd.docker.image.rootfs.diff.tar": ".tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": ".tar.gz",
}
"""The kinds of layers, and how their files end: those that containerd imports from a docker-archive as they are."""

_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_PARAMETER = re.compile(r'([a-z_]+)="([^"]*)"')


@dataclass(frozen=True)
class Blob:
    """A file of an image, by its sum."""

    sha256: str
    size: int
    suffix: str

    @property
    def file_name(self) -> str:
        """Return what it is called in an archive."""
        return self.sha256 + self.suffix


@dataclass(frozen=True)
class Manifest:
    """The files of an image for one platform."""

    config: Blob
    layers: tuple[Blob, ...]

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Every file, each once."""
        return tuple(dict.fromkeys((self.config, *self.layers)))

    @property
    def size(self) -> int:
        """Return how many bytes all files have together."""
        return sum(blob.size for blob in self.blobs)


def parse_challenge(header: str) -> Mapping[str, str] | None:
    """Return realm, service and scope of a `WWW-Authenticate: Bearer …`; None for another kind."""
    kind, _, rest = header.partition(" ")
    return dict(_PARAMETER.findall(rest)) if kind.lower() == "bearer" else None


def platform_digest(body: bytes, architecture: str) -> str | None:
    """Return the digest of the manifest for an architecture out of an index; None where the body is no index."""
    content = _object(body)
    if content.get("mediaType") not in INDEXES and not isinstance(content.get("manifests"), list):
        return None
    for entry in content.get("manifests", []):
        platform = entry.get("platform") if isinstance(entry, dict) else None
        if isinstance(platform, dict) and (platform.get("os"), platform.get("architecture")) == ("linux", architecture):
            return _digest(entry.get("digest"))
    raise SourceError(f"has it, but not for linux/{architecture}")


def parse_manifest(body: bytes) -> Manifest:
    """Return the files of an image; SourceError for what is no manifest or not understood."""
    content = _object(body)
    layers = content.get("layers")
    if content.get("schemaVersion") != 2 or not isinstance(layers, list):
        raise SourceError("answered with something else than a manifest of an image")
    return Manifest(_blob(content.get("config"), ".json"), tuple(_blob(layer) for layer in layers))


def check_platform(config: bytes, architecture: str) -> None:
    """Raise SourceError when an image's configuration is that of another platform."""
    content = _object(config)
    if (content.get("os"), content.get("architecture")) != ("linux", architecture):
        raise SourceError(f"has it for {content.get('os')}/{content.get('architecture')}, not linux/{architecture}")


def archive_index(reference: str, manifest: Manifest) -> bytes:
    """Return manifest.json of a docker-archive with this one image."""
    layers = [blob.file_name for blob in manifest.layers]
    return json.dumps([{"Config": manifest.config.file_name, "RepoTags": [reference], "Layers": layers}]).encode()


def same_digest(body: bytes, digest: str) -> bool:
    """Return whether a body is the one that a digest such as sha256:… stands for."""
    return digest == f"sha256:{hashlib.sha256(body).hexdigest()}"


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise SourceError("answered with something else than JSON")
    return content


def _blob(entry: Any, suffix: str = "") -> Blob:
    if not isinstance(entry, dict) or not isinstance(entry.get("size"), int):
        raise SourceError("answered with a manifest that is not whole")
    if not suffix:
        kind = str(entry.get("mediaType"))
        if kind not in LAYERS:
            raise SourceError(f"has it in layers of the kind {kind}, expected one of {', '.join(LAYERS)}")
        suffix = LAYERS[kind]
    return Blob(_digest(entry.get("digest")).removeprefix("sha256:"), entry["size"], suffix)


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise SourceError("answered with a digest that is none of SHA-256")
    return value
