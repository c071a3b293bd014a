"""pkgs.k8s.io, download.docker.com and the registries on loopback: signed indexes, packages, images, and every trouble.

A real apt repository and a real registry are asked in tests/lab/test_kubernetes_sources.py.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pysequoia import SignatureMode, Tsk, sign

from isthmus.kubernetes.images import companions, images_of
from isthmus.kubernetes.sources import Origin, Source

VERSIONS = ("1.36.1", "1.36.2", "1.36.10")
NEWEST = "1.36.10"
TOKEN = "a-token-for-anybody"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


# --- OpenPGP ------------------------------------------------------------------------------------------------------


class SigningKey:
    """A key that ends in so many days."""

    def __init__(self, days: int = 400) -> None:
        self.secret = Tsk.generate(user_id="Nobody <nobody@example.org>", validity_seconds=86_400 * days)
        self.fingerprint = self.secret.extract_certificate().fingerprint.upper()

    def certificate(self) -> bytes:
        return bytes(self.secret.extract_certificate())

    def sign(self, data: bytes) -> bytes:
        return sign(self.secret.signer(), data, mode=SignatureMode.DETACHED, armor=False)


# --- packages and images ------------------------------------------------------------------------------------------


def deb(files: dict[str, bytes]) -> bytes:
    """Return a package with these files, and nothing to say of itself."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    parts = {"debian-binary": b"2.0\n", "control.tar.gz": b"odd", "data.tar.gz": data.getvalue()}
    heads = {name: f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n" for name, body in parts.items()}
    return b"!<arch>\n" + b"".join(
        heads[name].encode() + body + b"\n" * (len(body) % 2) for name, body in parts.items()
    )


@dataclass
class Asked:
    """One request."""

    path: str
    headers: dict[str, str]


@dataclass
class FakeSources:
    """One server for all of it. `files` are what there is; `trouble` is what happens first, once for each entry."""

    key: SigningKey
    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    trouble: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    """Path -> ("status", CODE, HEADERS) or ("cut", BYTES) …"""
    asked: list[Asked] = field(default_factory=list)
    wants_token: bool = False
    redirects_blobs: bool = False
    ranges: bool = True

    def fill(self) -> FakeSources:
        """Have all that a cluster of 1.36 needs."""
        kubernetes, docker = {}, {}
        for version in VERSIONS:
            for name in ("kubelet", "kubectl"):
                kubernetes[f"amd64/{name}_{version}-1.1_amd64.deb"] = f"{name} {version}".encode()
            beside = companions(version)
            program = f"\x7fELF\0{beside.etcd}other{beside.coredns}{beside.pause}".encode()
            kubernetes[f"amd64/kubeadm_{version}-1.1_amd64.deb"] = deb({"usr/bin/kubeadm": program})
            kubernetes[f"arm64/kubelet_{version}-1.1_arm64.deb"] = b"for others"
        for version in ("1.36.0", "1.36.9"):
            kubernetes[f"amd64/cri-tools_{version}-1.1_amd64.deb"] = f"cri-tools {version}".encode()
        kubernetes["amd64/kubernetes-cni_1.9.1-1.1_amd64.deb"] = b"kubernetes-cni" * 100_000
        for version in ("1.7.29-1", "2.2.9-1", "2.2.10-1", "2.3.0~rc.1-1", "3.0.0-1"):
            path = f"dists/bookworm/pool/stable/amd64/containerd.io_{version}~debian.12~bookworm_amd64.deb"
            docker[path] = f"containerd {version}".encode()
        self.publish("/k8s/v1.36/deb/", "/k8s/v1.36/deb/", "Packages", "Release.key", kubernetes)
        self.publish("/docker/", "/docker/dists/bookworm/", "stable/binary-amd64/Packages", "gpg", docker)
        for reference in images_of(NEWEST):
            self.add_image(reference)
        return self

    def publish(self, pool: str, release: str, index: str, key: str, debs: dict[str, bytes]) -> None:
        """Make a signed repository."""
        paragraphs = []
        for path, content in debs.items():
            name, version, architecture = path.rpartition("/")[2].removesuffix(".deb").split("_")
            digest = hashlib.sha256(content).hexdigest()
            paragraphs.append(
                f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nDescription: words\n more: words\n"
                f"Filename: {path}\nSize: {len(content)}\nSHA256: {digest}\n"
            )
            self.files[pool + path] = content
        packed = gzip.compress("\n".join(paragraphs).encode())
        self.files[f"{release}{index}.gz"] = packed
        text = f"Origin: nobody\nSHA256:\n {hashlib.sha256(packed).hexdigest()} {len(packed)} {index}.gz\n"
        self.sign(release, text.encode(), pool + key)

    def sign(self, release: str, text: bytes, key: str) -> None:
        self.files[f"{release}Release"] = text
        self.files[f"{release}Release.gpg"] = self.key.sign(text)
        self.files[key] = self.key.certificate()

    def add_image(self, reference: str, architectures: tuple[str, ...] = ("amd64", "arm64"), place: str = "") -> None:
        """Have an image; for one architecture without an index, as some mirrors have it."""
        name, _, tag = (place or reference).rpartition(":")
        entries = []
        for architecture in architectures:
            config = json.dumps({"os": "linux", "architecture": architecture, "of": reference}).encode()
            layers = [
                gzip.compress(b"everybody's", mtime=0),
                gzip.compress(f"{reference} {architecture}".encode() * 9000),
            ]
            body = json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": DOCKER_MANIFEST,
                    "config": self._blob(name, config, "application/vnd.docker.container.image.v1+json"),
                    # The first layer twice: empty ones are in many images.
                    "layers": [self._blob(name, layer, DOCKER_LAYER) for layer in (layers[0], *layers)],
                }
            ).encode()
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            self._put(f"/v2/{name}/manifests/{digest}", body, DOCKER_MANIFEST)
            platform = {"os": "linux", "architecture": architecture}
            entries.append({"digest": digest, "mediaType": DOCKER_MANIFEST, "size": len(body), "platform": platform})
        if len(entries) > 1:
            body = json.dumps({"schemaVersion": 2, "mediaType": LIST, "manifests": entries}).encode()
        self._put(f"/v2/{name}/manifests/{tag}", body, LIST if len(entries) > 1 else DOCKER_MANIFEST)

    def remove_image(self, reference: str) -> None:
        name, _, tag = reference.rpartition(":")
        del self.files[f"/v2/{name}/manifests/{tag}"]

    def source(self, name: str = "upstream", mirrors: tuple[str, ...] = ("",)) -> Source:
        """Return a source whose places are all here; `mirrors` are prefixes of the images' names."""

        def origins(registry: str, image: str) -> tuple[Origin, ...]:
            return tuple(Origin(self.url, f"{mirror}{registry}/{image}") for mirror in mirrors)

        return Source(name, (f"{self.url}/k8s/v{{minor}}/deb/",), (f"{self.url}/docker/",), origins)

    def times(self, part: str) -> int:
        """Return how often something was asked for."""
        return sum(part in asked.path for asked in self.asked)

    def _blob(self, name: str, content: bytes, kind: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._put(f"/v2/{name}/blobs/{digest}", content, "application/octet-stream")
        return {"mediaType": kind, "size": len(content), "digest": digest}

    def _put(self, path: str, content: bytes, kind: str) -> None:
        self.files[path] = content
        self.kinds[path] = kind


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    sources: FakeSources

    def do_GET(self) -> None:
        here = self.sources
        headers = {name.lower(): value for name, value in self.headers.items()}
        here.asked.append(Asked(self.path, headers))
        path = urlsplit(self.path).path
        trouble = here.trouble.get(path)
        what = trouble.pop(0) if trouble else ("nothing",)
        if what[0] == "status":
            self._answer(what[1], b"no", what[2] if len(what) > 2 else {})
        elif path == "/token":
            asked = parse_qs(urlsplit(self.path).query)
            good = asked["service"] == ["here"] and asked["scope"][0].startswith("repository:")
            self._answer(200 if good else 400, json.dumps({"token": TOKEN}).encode())
        elif path.startswith("/v2/") and here.wants_token and headers.get("authorization") != f"Bearer {TOKEN}":
            challenge = f'Bearer realm="{here.url}/token",service="here",scope="repository:any:pull"'
            self._answer(401, b"{}", {"WWW-Authenticate": challenge})
        elif "/blobs/" in path and path in here.files and here.redirects_blobs and not path.startswith("/cdn"):
            self._answer(307, b"", {"Location": f"{here.url}/cdn{path}?signed=yes"})
        elif (content := here.files.get(path.removeprefix("/cdn"))) is None:
            self._answer(404, b"{}")
        else:
            self._send(path, content, headers.get("range", ""), what)

    def _send(self, path: str, content: bytes, wanted: str, what: tuple[Any, ...]) -> None:
        status, more, start = 200, {}, 0
        if wanted and self.sources.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self._answer(416, b"")
                return
            status, more = 206, {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        body = content[start:]
        if path in self.sources.kinds:
            more["Content-Type"] = self.sources.kinds[path]
        self._answer(status, body, more, cut=what[1] if what[0] == "cut" else None)

    def _answer(self, status: int, body: bytes, more: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(sources: FakeSources) -> Iterator[FakeSources]:
    """While inside, the sources answer at `sources.url`."""
    handler = type("Handler", (_Handler,), {"sources": sources})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    sources.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield sources
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
