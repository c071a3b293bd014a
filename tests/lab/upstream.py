"""pkgs.k8s.io, download.docker.com, registry.k8s.io and ghcr.io of a lab: a real apt repository, Debian's own registry.

They hold what the bundle of ISTHMUS_BUNDLE holds, and answer over TLS at the admin workstation's address. Called as a
program this file is the server in front: FOLDER CERTIFICATE KEY PORT (of the registry).
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode, urljoin, urlsplit

REGISTRIES = ("registry.k8s.io", "ghcr.io")
PKGS, DOCKER = "pkgs.k8s.io", "download.docker.com"
NAMES = (*REGISTRIES, PKGS, DOCKER)
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
SETTINGS = """
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
WISH = """
%no-protection
Key-Type: RSA
Key-Length: 3072
Key-Usage: cert
Subkey-Type: RSA
Subkey-Length: 3072
Subkey-Usage: sign
Name-Real: the lab
Expire-Date: 25
%commit
"""


@dataclass
class Upstream:
    """What has been made; `fingerprint` is that of the key which signs both repositories."""

    folder: Path
    fingerprint: str
    port: int

    @property
    def certificate(self) -> Path:
        return self.folder / "tls.crt"

    def asked(self) -> list[tuple[str, str, str]]:
        """Return (who, host, path) of every request."""
        lines = (self.folder / "log").read_text(encoding="utf-8").splitlines()
        return [(words[0], words[1], words[2]) for line in lines if len(words := line.split()) == 3]


def make(bundle: Path, folder: Path, check: str) -> Upstream:
    """Publish a bundle; its image for check.pods under another name."""
    folder.mkdir(parents=True)
    port = _free_port()
    fingerprint = _publish_packages(bundle, folder)
    (folder / "registry.yml").write_text(SETTINGS.format(folder=folder / "registry", port=port), encoding="utf-8")
    with _registry([], folder, port):
        for path in sorted((bundle / "images").glob("*.tar")):
            _push(path, port, check if path.stem == "toolbox" else "")
    names = ",".join(f"DNS:{name}" for name in NAMES)
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=the lab"]
    more = ["-addext", f"subjectAltName={names}", "-keyout", folder / "tls.key", "-out", folder / "tls.crt"]
    subprocess.run([*command, *more], check=True, capture_output=True)
    return Upstream(folder, fingerprint, port)


@contextmanager
def serving(upstream: Upstream, enter: list[str]) -> Iterator[None]:
    """While inside, everything answers where `enter` leads: a command line that runs another one there."""
    arguments = [upstream.folder, upstream.certificate, upstream.folder / "tls.key", upstream.port]
    command = [*enter, sys.executable, "-I", __file__, *map(str, arguments)]
    with (
        _registry(enter, upstream.folder, upstream.port),
        (upstream.folder / "front.log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as front,
    ):
        try:
            assert front.stdout is not None
            assert front.stdout.readline() == b"ready\n", (upstream.folder / "front.log").read_text(encoding="utf-8")
            yield
        finally:
            front.kill()


# --- packages -----------------------------------------------------------------------------------------------------


def _publish_packages(bundle: Path, folder: Path) -> str:
    home = folder / "gpg"
    home.mkdir(mode=0o700)
    environment = {**os.environ, "GNUPGHOME": str(home)}

    def gpg(*words: str, text: str | None = None) -> str:
        command = ["gpg", "--batch", "--quiet", "--yes", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment, input=text).stdout

    gpg("--gen-key", text=WISH)
    pkgs, docker = folder / PKGS / "core:/stable:/v1.36/deb", folder / DOCKER / "linux/debian"
    for path in (bundle / "debs").glob("*.deb"):
        pool = docker / "dists/bookworm/pool/stable/amd64" if path.name.startswith("containerd.io") else pkgs / "amd64"
        pool.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, pool)
    index = docker / "dists/bookworm/stable/binary-amd64"
    index.mkdir(parents=True)
    for where, pool, release in ((pkgs, ".", pkgs), (docker, "dists", docker / "dists/bookworm")):
        packages = _ftparchive(where, "packages", pool)
        target = (index if where == docker else pkgs) / "Packages"
        target.write_bytes(packages)
        target.with_suffix(".gz").write_bytes(gzip.compress(packages))
        (release / "Release").write_bytes(_ftparchive(release, "release", "."))
        gpg("--armor", "--detach-sign", "--output", str(release / "Release.gpg"), str(release / "Release"))
    for path in (pkgs / "Release.key", docker / "gpg"):
        path.write_text(gpg("--armor", "--export"), encoding="utf-8")
    listed = gpg("--list-keys", "--with-colons")
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
    return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))


def _ftparchive(where: Path, *words: str) -> bytes:
    return subprocess.run(["apt-ftparchive", *words], check=True, capture_output=True, cwd=where).stdout


# --- images -------------------------------------------------------------------------------------------------------


@contextmanager
def _registry(enter: list[str], folder: Path, port: int) -> Iterator[None]:
    command = [*enter, "docker-registry", "serve", str(folder / "registry.yml")]
    with (folder / "registry.log").open("a") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            ask = [*enter, "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"]
            while subprocess.run(ask, check=False, capture_output=True).returncode:
                assert process.poll() is None, (folder / "registry.log").read_text(encoding="utf-8")
                time.sleep(0.1)
            yield
        finally:
            process.kill()


def _push(path: Path, port: int, reference: str) -> None:
    """Push the one image of a docker-archive: its layers compressed, its manifest in an index, as upstream has them."""
    with tarfile.open(path) as archive:

        def content(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        (image,) = json.loads(content("manifest.json"))
        whole = (reference or image["RepoTags"][0]).partition("/")[2]
        name, _, tag = whole.rpartition(":")
        config = content(image["Config"])
        layers = [gzip.compress(content(layer), 1, mtime=0) for layer in image["Layers"]]
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        kind = "application/vnd.docker.image.rootfs.diff.tar.gzip"
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _upload(connection, name, config, "application/vnd.docker.container.image.v1+json"),
            "layers": [_upload(connection, name, layer, kind) for layer in layers],
        }
        body = json.dumps(manifest).encode()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        _call(connection, "PUT", f"/v2/{name}/manifests/{digest}", body, MANIFEST)
        platform = {"os": "linux", "architecture": "amd64"}
        entry = {"mediaType": MANIFEST, "size": len(body), "digest": digest, "platform": platform}
        index = {"schemaVersion": 2, "mediaType": LIST, "manifests": [entry]}
        _call(connection, "PUT", f"/v2/{name}/manifests/{tag}", json.dumps(index).encode(), LIST)


def _upload(connection: http.client.HTTPConnection, name: str, content: bytes, kind: str) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    place = _call(connection, "POST", f"/v2/{name}/blobs/uploads/", b"", "")
    parts = urlsplit(urljoin("http://127.0.0.1/", place))
    query = f"{parts.query}&{urlencode({'digest': digest})}"
    _call(connection, "PUT", f"{parts.path}?{query}", content, "application/octet-stream")
    return {"mediaType": kind, "size": len(content), "digest": digest}


def _call(connection: http.client.HTTPConnection, method: str, path: str, body: bytes, kind: str) -> str:
    connection.request(method, path, body, {"Content-Type": kind} if kind else {})
    answer = connection.getresponse()
    said = answer.read()
    assert answer.status in (201, 202), (method, path, answer.status, said)
    return answer.headers.get("Location", "")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# --- the server in front ------------------------------------------------------------------------------------------


class _Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    port: int
    log: IO[str]

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").partition(":")[0]
        self.log.write(f"{self.client_address[0]} {host} {self.path}\n")
        self.log.flush()
        if host in REGISTRIES:
            self._pass_on()
            return
        path = (self.folder / host / self.path.lstrip("/")).resolve()
        if host not in NAMES or self.folder not in path.parents or not path.is_file():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()
        with path.open("rb") as file:
            shutil.copyfileobj(file, self.wfile)

    def _pass_on(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        wanted = {name: value for name, value in self.headers.items() if name.lower() in ("accept", "range")}
        connection.request("GET", self.path, headers=wanted)
        answer = connection.getresponse()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        shutil.copyfileobj(answer, self.wfile)

    def log_message(self, *_: Any) -> None:
        """Say nothing more."""


def main(folder: str, certificate: str, key: str, port: str) -> None:
    with (Path(folder) / "log").open("a", encoding="utf-8") as log:
        handler = type("Front", (_Front,), {"folder": Path(folder), "port": int(port), "log": log})
        server = ThreadingHTTPServer(("", 443), handler)
        server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        # The handshake in the connection's own thread: one that says nothing must not stop the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
