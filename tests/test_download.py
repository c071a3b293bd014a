"""scripts/host/k8s-download.sh with the real curl and tar, against sources on loopback, in a folder of its own."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_sources import NEWEST, FakeSources, SigningKey, serving

from isthmus.host_scripts import host_script
from isthmus.kubernetes.registry import archive_index
from isthmus.kubernetes.sources import Origin
from isthmus.sources.images import Registries

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")

CNI = "/k8s/v1.36/deb/amd64/kubernetes-cni_1.9.1-1.1_amd64.deb"
PAUSE = "registry.k8s.io/pause:3.10.2"


@pytest.fixture(scope="session")
def key() -> SigningKey:
    return SigningKey()


@pytest.fixture
def here(key: SigningKey) -> Iterator[FakeSources]:
    with serving(FakeSources(key)) as sources:
        yield sources.fill()


class Host:
    """A folder that the script takes for its own. Nobody waits for real."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, **inputs: str) -> subprocess.CompletedProcess[str]:
        given = {"sha256": "", "urls": "", "index": "", "blobs": "", "places": "", **inputs}
        script = host_script("k8s-download", **given).replace("/var/lib/isthmus-kubernetes", str(self.folder))
        return subprocess.run(
            ["sh"], input=script.replace("sleep $", ": $"), capture_output=True, text=True, check=False, timeout=60
        )

    def deb(self, here: FakeSources, *urls: str) -> subprocess.CompletedProcess[str]:
        digest = hashlib.sha256(here.files[CNI]).hexdigest()
        return self.run(path="debs/cni.deb", sha256=digest, urls=" ".join(urls or (here.url + CNI,)))

    def image(self, here: FakeSources, *places: str, sha256: str = "") -> subprocess.CompletedProcess[str]:
        places = places or (f"{here.url}/v2/registry.k8s.io/pause",)
        origin = Origin(here.url, "registry.k8s.io/pause")
        manifest = Registries("amd64").find(PAUSE, (origin,)).manifest
        index = archive_index(PAUSE, manifest).decode()
        blobs = " ".join(blob.file_name for blob in manifest.blobs)
        return self.run(path="images/pause.tar", sha256=sha256, index=index, blobs=blobs, places=" ".join(places))

    def files(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.folder / "bundle"))
            for path in (self.folder / "bundle").rglob("*")
            if path.is_file()
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_package_is_fetched_once(host: Host, here: FakeSources) -> None:
    for _ in range(2):
        done = host.deb(here)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{hashlib.sha256(here.files[CNI]).hexdigest()}\n"
    assert host.files() == ["debs/cni.deb"]
    assert here.times(".deb") == 1


@pytest.mark.parametrize("token", [False, True])
def test_an_image_becomes_the_archive_that_the_workstation_makes_of_it(
    host: Host, here: FakeSources, tmp_path: Path, token: bool
) -> None:
    here.wants_token = here.redirects_blobs = token
    done = host.image(here)
    assert (done.returncode, done.stderr) == (0, "")
    place = (Origin(here.url, "registry.k8s.io/pause"),)
    (tmp_path / "other").mkdir()
    digest, _ = Registries("amd64").fetch(PAUSE, place, tmp_path / "other/pause.tar")
    assert done.stdout == f"{digest}\n"
    assert (tmp_path / "bundle/images/pause.tar").read_bytes() == (tmp_path / "other/pause.tar").read_bytes()
    assert [path for path in host.files() if path.startswith("images/")] == [
        "images/pause.tar",
        "images/pause.tar.made",
    ]
    here.asked.clear()
    assert host.image(here).stdout == host.image(here, sha256=digest).stdout == f"{digest}\n"
    assert [request for request in here.asked if "curl" in request.headers["user-agent"]] == []
    assert "came with another sum than" in host.image(here, sha256="0" * 64).stderr


def test_a_line_that_breaks_is_gone_on_with(host: Host, here: FakeSources) -> None:
    here.trouble[CNI] = [("cut", 100_000)] * 6
    assert host.deb(here).returncode == 0
    asked = [request.headers.get("range") for request in here.asked if request.path == CNI]
    assert asked == [None, *(f"bytes={n * 100_000}-" for n in range(1, 7))]


def test_a_token_that_ends_while_something_arrives_is_renewed(host: Host, here: FakeSources) -> None:
    here.wants_token = True
    challenge = {"WWW-Authenticate": f'Bearer realm="{here.url}/token",service="here",scope="repository:any:pull"'}
    ended = ("status", 401, challenge)
    Registries("amd64").find(PAUSE, (Origin(here.url, "registry.k8s.io/pause"),))
    blob = next(path for path in here.files if "/pause/blobs/" in path and path not in {one.path for one in here.asked})
    here.trouble[blob] = [("nothing",), ("cut", 5), ended, ("cut", 5), ended]
    done = host.image(here)
    assert (done.returncode, done.stderr) == (0, "")
    assert here.trouble[blob] == []
    shutil.rmtree(host.folder / "bundle")
    here.trouble[blob] = [ended] * 9
    assert host.image(here).stderr.endswith(": answered 401\n")
    assert len(here.trouble[blob]) == 7


def test_a_run_that_was_interrupted_is_gone_on_with(host: Host, here: FakeSources) -> None:
    here.trouble[CNI] = [("cut", 100_000), *[("status", 503)] * 3]
    failed = host.deb(here)
    assert (failed.returncode, failed.stderr) == (1, f"{here.url}{CNI}: answered 503\n")
    here.asked.clear()
    assert host.deb(here).returncode == 0
    assert [request.headers.get("range") for request in here.asked] == ["bytes=100000-"]


@pytest.mark.parametrize("size", [1000, 1_400_000, 1_400_001])
def test_a_part_of_something_else_is_thrown_away(host: Host, here: FakeSources, tmp_path: Path, size: int) -> None:
    assert len(here.files[CNI]) == 1_400_000
    (tmp_path / "bundle/debs").mkdir(parents=True)
    (tmp_path / "bundle/debs/cni.deb.part").write_bytes(b"x" * size)
    assert host.deb(here).returncode == 0


def test_a_server_without_ranges_sends_it_from_the_beginning(host: Host, here: FakeSources) -> None:
    here.trouble[CNI] = [("cut", 100_000)]
    here.ranges = False
    assert host.deb(here).returncode == 0


def test_the_next_place_is_tried_and_what_each_said_is_told(host: Host, here: FakeSources) -> None:
    nowhere, absent = "http://127.0.0.1:9/x", f"{here.url}/absent"
    assert host.deb(here, nowhere, absent, here.url + CNI).returncode == 0
    shutil.rmtree(host.folder / "bundle")
    failed = host.deb(here, absent, nowhere)
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"{absent}: answered 404; {nowhere}: Failed to connect to 127.0.0.1 port 9")
    assert here.times("absent") == 2
    place = f"{here.url}/v2/registry.k8s.io/pause"
    assert host.image(here, f"{here.url}/v2/absent", place).returncode == 0


def test_a_file_with_a_wrong_sum_is_told_and_not_kept(host: Host, here: FakeSources) -> None:
    url = f"{here.url}/k8s/v1.36/deb/amd64/kubelet_{NEWEST}-1.1_amd64.deb"
    failed = host.deb(here, url)
    assert failed.returncode == 1
    assert f"{url}: arrived with another sum than " in failed.stderr
    assert host.files() == ["debs/cni.deb.head", "debs/cni.deb.said"]
