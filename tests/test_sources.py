"""Packages and images from sources: what counts as signed, which versions are taken, and every way a line breaks."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from fake_sources import NEWEST, TOKEN, FakeSources, SigningKey, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pysequoia import Cert

from isthmus.errors import SourceError
from isthmus.inventory import parse_inventory, values
from isthmus.kubernetes import sources as known
from isthmus.kubernetes.bundle import bundle_text, parse_bundle
from isthmus.kubernetes.cluster import MINORS, cluster_of
from isthmus.kubernetes.debian import parse_packages, release_sums, upstream_version, version_key
from isthmus.kubernetes.images import CHECK, COMPANIONS, Companions, companions, images_of
from isthmus.kubernetes.registry import parse_manifest
from isthmus.kubernetes.sources import SOURCES, Origin
from isthmus.sources import web
from isthmus.sources.images import Registries
from isthmus.sources.making import Offer, UnknownVersionError, make_bundle, probe_images, read_offer
from isthmus.sources.openpgp import read_certificate

HOSTS = (Path(__file__).parent.parent / "hosts.toml").read_text(encoding="utf-8")
NOW = datetime.now(timezone.utc)
RELEASE = "/k8s/v1.36/deb/Release"
CNI = "/k8s/v1.36/deb/amd64/kubernetes-cni_1.9.1-1.1_amd64.deb"
PAUSE = "registry.k8s.io/pause:3.10.2"


@pytest.fixture(scope="session")
def key() -> SigningKey:
    return SigningKey()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits for real."""
    waited: list[float] = []
    monkeypatch.setattr(web.time, "sleep", waited.append)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return waited


@pytest.fixture
def here(key: SigningKey, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSources]:
    monkeypatch.setattr(known, "KUBERNETES_KEY", key.fingerprint)
    monkeypatch.setattr(known, "DOCKER_KEY", key.fingerprint)
    with serving(FakeSources(key)) as sources:
        yield sources.fill()


def offer(here: FakeSources, version: str = "1.36", **more: Any) -> Offer:
    return read_offer(here.source(**more), version, "12", "amd64", NOW)


def make(here: FakeSources, folder: Path, **more: Any) -> list[str]:
    said: list[str] = []
    make_bundle(offer(here, **more), folder, lambda name, what: said.append(f"{name}: {what}"))
    return said


def sums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- what is known ------------------------------------------------------------------------------------------------


def test_every_version_and_source_that_hosts_toml_may_name_is_known() -> None:
    assert tuple(COMPANIONS) == MINORS
    assert tuple(SOURCES) == values.SOURCES


@pytest.mark.parametrize(("version", "etcd"), [("1.34.1", "3.6.4-0"), ("1.34.2", "3.6.5-0"), ("1.34.11", "3.6.5-0")])
def test_companions_go_by_the_patch_release(version: str, etcd: str) -> None:
    assert companions(version).etcd == etcd


def test_upstream_is_asked_at_upstreams_own_places() -> None:
    source = SOURCES["upstream"]
    assert [str(place) for place in source.places("registry.k8s.io/coredns/coredns:v1.14.2")] == [
        "registry.k8s.io/coredns/coredns"
    ]
    (repository,) = source.kubernetes_repositories("1.36")
    assert repository.release == "https://pkgs.k8s.io/core:/stable:/v1.36/deb/"


def test_in_china_every_image_has_several_places_and_upstream_last() -> None:
    source = SOURCES["aliyun"]
    for reference in images_of(NEWEST):
        places = [str(place) for place in source.places(reference)]
        assert len(places) >= 3
        assert places[-1] == reference.rpartition(":")[0]
        assert all(place.registry.startswith("https://") for place in source.places(reference))
    coredns = [str(place) for place in source.places("registry.k8s.io/coredns/coredns:v1.14.2")]
    assert coredns[:2] == ["registry.aliyuncs.com/google_containers/coredns", "k8s.m.daocloud.io/coredns/coredns"]
    assert "registry.aliyuncs.com/google_containers/busybox" not in [str(place) for place in source.places(CHECK)]


DPKG = ["1.36.9-1.1", "1.36.10-1.1", "1.36.10~rc.1-1", "1.36.10", "1:0.1", "2.2.7-1~debian.12~bookworm", "2.2.7-1"]
DPKG += ["2.2.7~rc1-1", "1.0a", "1.0", "1.0+b1", "1.0.1", "1.0-1", "1.0-1.1", "0", "00.9", "1.00"]


def test_versions_are_sorted_as_dpkg_sorts_them() -> None:
    if not Path("/usr/bin/dpkg").exists():
        pytest.skip("no dpkg here")
    script = "for pair; do dpkg --compare-versions ${pair%,*} lt ${pair#*,} && echo lt || echo no; done"
    pairs = [(a, b) for a in DPKG for b in DPKG]
    command = ["sh", "-c", script, "sh", *(f"{a},{b}" for a, b in pairs)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    ours = ["lt" if version_key(a) < version_key(b) else "no" for a, b in pairs]
    assert [pair for pair, his, our in zip(pairs, said, ours, strict=True) if his != our] == []


def test_an_index_is_read_and_what_is_not_whole_is_left_out() -> None:
    good = f"Package: a1\nVersion: 1:2-3\nArchitecture: amd64\nFilename: ./p/a1.deb\nSize: 5\nSHA256: {'a' * 64}\n"
    bad = [good.replace("./p", "../p"), good.replace("Size: 5", "Size: x"), good.replace("a" * 64, "a"), "Package: b\n"]
    (package,) = parse_packages("\n".join([*bad, good]), "https://x/")
    assert (package.url, package.file_name) == ("https://x/p/a1.deb", "a1_1:2-3_amd64.deb")
    assert upstream_version("1:2-3") == "2"
    assert release_sums(f"MD5Sum:\n {'b' * 64} 1 a\nSHA256:\n {'a' * 64} 1 b\nX: y\n {'c' * 64} 1 c\n") == {
        "b": "a" * 64
    }


# --- signatures ---------------------------------------------------------------------------------------------------


def test_only_the_key_with_the_known_fingerprint_counts(here: FakeSources) -> None:
    other = SigningKey()
    text = here.files[RELEASE]
    here.files[f"{RELEASE}.gpg"], here.files[f"{RELEASE}.key"] = other.sign(text), other.certificate()
    with pytest.raises(SourceError, match=f"found the key {other.fingerprint}, expected {here.key.fingerprint}"):
        offer(here)


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        (RELEASE, lambda old: old + b"\n", "Release: its index cannot be trusted: no good signature"),
        (f"{RELEASE}.gpg", lambda old: old[:-1], "what should be an OpenPGP signature is something else"),
        (f"{RELEASE}.gpg", lambda _: b"<html>", "what should be an OpenPGP signature is something else"),
        (f"{RELEASE}.key", lambda _: b"", "found the key nothing, expected"),
        (
            f"{RELEASE}.key",
            lambda _: b"-----BEGIN PGP X-----\n\n!!\n-----END",
            "what should be an OpenPGP key is something else",
        ),
        ("/k8s/v1.36/deb/Packages.gz", lambda _: gzip.compress(b""), "has another sum than its Release says"),
    ],
)
def test_what_is_not_signed_is_not_used(here: FakeSources, path: str, change: Any, said: str) -> None:
    here.files[path] = change(here.files[path])
    with pytest.raises(SourceError, match="no packages from upstream: ") as refused:
        offer(here)
    assert said.removeprefix("Release: ") in str(refused.value)


def test_a_key_that_has_ended_signs_nothing_and_when_it_ends_is_known(here: FakeSources) -> None:
    assert [(index.key_ends - NOW).days for index in offer(here).indexes if index.key_ends] in ([399] * 2, [400] * 2)
    with pytest.raises(SourceError, match=f"the key {here.key.fingerprint} ended on "):
        read_offer(here.source(), "1.36", "12", "amd64", NOW + timedelta(days=500))


def test_a_revoked_key_signs_nothing(key: SigningKey) -> None:
    signature = key.sign(b"text")
    certificate = key.secret.extract_certificate()
    taken_back = certificate.merge(
        Cert.from_bytes(bytes(certificate) + bytes(certificate.revoke(key.secret.certifier())))
    )
    with pytest.raises(SourceError, match=f"the key {key.fingerprint} was revoked"):
        read_certificate(bytes(taken_back), key.fingerprint).verify(b"text", signature, NOW)
    read_certificate(key.certificate(), key.fingerprint).verify(b"text", signature, NOW)


def test_real_gpgs_keys_and_signatures_are_understood(tmp_path: Path) -> None:
    """A primary key that certifies and a subkey that signs, as Docker's has them."""
    gpg = "/usr/bin/gpg"
    if not Path(gpg).exists():
        pytest.skip("no gpg here")
    wish = "%no-protection\nKey-Type: RSA\nKey-Length: 2048\nKey-Usage: cert\nSubkey-Type: RSA\nSubkey-Length: 2048\n"
    wish += "Subkey-Usage: sign\nName-Real: nobody\nExpire-Date: 40\n%commit\n"
    environment = {**os.environ, "GNUPGHOME": str(tmp_path)}
    tmp_path.chmod(0o700)

    def run(*words: str, text: bytes = b"") -> bytes:
        command = [gpg, "--batch", "--quiet", "--no-autostart" if words[0] == "--show-keys" else "--yes", *words]
        return subprocess.run(command, check=True, capture_output=True, env=environment, input=text).stdout

    run("--gen-key", text=wish.encode())
    exported = run("--armor", "--export")
    listed = run("--list-keys", "--with-colons").decode()
    fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
    certificate = read_certificate(exported, fingerprint)
    assert certificate.ends is not None
    assert 39 <= (certificate.ends - NOW).days <= 40
    for armor in ((), ("--armor",)):
        signature = run(*armor, "--detach-sign", text=b"text\n")
        certificate.verify(b"text\n", signature, NOW)
        with pytest.raises(SourceError, match="no good signature"):
            certificate.verify(b"texT\n", signature, NOW)
    run("--quick-set-expire", fingerprint, "70d")
    prolonged = read_certificate(run("--export"), fingerprint).ends
    assert prolonged is not None
    assert 69 <= (prolonged - NOW).days <= 70
    subprocess.run(["gpgconf", "--homedir", str(tmp_path), "--kill", "all"], check=False)


@pytest.fixture(scope="session")
def signed(key: SigningKey) -> dict[str, bytes]:
    return {"key": key.certificate(), "signature": key.sign(b"text")}


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
def test_damaged_keys_and_signatures_are_refused_and_never_count_for_another_text(
    key: SigningKey, signed: dict[str, bytes], data: st.DataObject
) -> None:
    files = dict(signed)
    which = data.draw(st.sampled_from(sorted(files)))
    at = data.draw(st.integers(0, len(files[which]) - 1))
    files[which] = (
        files[which][:at] + data.draw(st.binary(max_size=4)) + files[which][at + data.draw(st.integers(0, 4)) :]
    )
    with suppress(SourceError):
        read_certificate(files["key"], key.fingerprint).verify(b"text", files["signature"], NOW)
    with pytest.raises(SourceError):
        read_certificate(files["key"], key.fingerprint).verify(b"texT", files["signature"], NOW)


# --- what is taken ------------------------------------------------------------------------------------------------


def test_the_newest_of_the_version_is_taken(here: FakeSources) -> None:
    found = offer(here)
    assert {package.name: package.version for package in found.debs} == {
        "containerd.io": "2.2.10-1~debian.12~bookworm",
        **{name: f"{NEWEST}-1.1" for name in ("kubelet", "kubeadm", "kubectl")},
        "cri-tools": "1.36.9-1.1",
        "kubernetes-cni": "1.9.1-1.1",
    }
    assert offer(here, "1.36.2").bundle.kubernetes == "1.36.2"
    with pytest.raises(UnknownVersionError, match=r'"1.36.3", expected one that .* has: 1.36.1, 1.36.2, 1.36.10'):
        offer(here, "1.36.3")
    with pytest.raises(SourceError, match=r"no packages from upstream: 127.0.0.1:\d+: Release.key: answered 404"):
        offer(here, "1.35")


def test_a_bundle_is_made_and_a_second_time_nothing_is_fetched(here: FakeSources, tmp_path: Path) -> None:
    make(here, tmp_path)
    before = sums(tmp_path)
    cluster = cluster_of(parse_inventory(HOSTS, "hosts.toml"))
    bundle = parse_bundle((tmp_path / "bundle.toml").read_text(encoding="utf-8"), "bundle.toml", cluster)
    assert bundle.kubernetes == NEWEST
    assert sorted(before) == sorted(["bundle.toml", *(file.path for file in (*bundle.debs, *bundle.images))])
    assert all(before[file.path] == file.sha256 for file in (*bundle.debs, *bundle.images))
    assert {reference for image in bundle.images for reference in image.references} == set(images_of(NEWEST))
    assert bundle_text(bundle, "amd64") == (tmp_path / "bundle.toml").read_text(encoding="utf-8")
    with tarfile.open(tmp_path / "images/pause.tar") as archive:
        first = archive.next()
        assert first is not None
        (index,) = json.load(archive.extractfile(first))  # type: ignore[arg-type]
        names = archive.getnames()
        assert index["RepoTags"] == [PAUSE]
        assert sorted(names) == sorted({"manifest.json", index["Config"], *index["Layers"]})
        assert len(index["Layers"]) == 3
        for name in names[1:]:
            content = archive.extractfile(name)
            assert content is not None
            assert hashlib.sha256(content.read()).hexdigest() == name.partition(".")[0]
    here.asked.clear()
    assert all(line.endswith(": there already") for line in make(here, tmp_path))
    assert here.times(".deb") == 0
    assert here.times("/blobs/") == len(images_of(NEWEST))  # the configurations, which say for what platform
    assert sums(tmp_path) == before
    other = tmp_path / "other"
    make(here, other)
    assert sums(other) == before


def test_a_damaged_file_is_fetched_again_and_only_that(here: FakeSources, tmp_path: Path) -> None:
    make(here, tmp_path)
    before = sums(tmp_path)
    (tmp_path / "images/pause.tar").write_bytes(b"half of it")
    (tmp_path / "debs/kubernetes-cni_1.9.1-1.1_amd64.deb").unlink()
    said = make(here, tmp_path)
    assert [line.partition(":")[0] for line in said if "there already" not in line] == [
        "kubernetes-cni 1.9.1-1.1",
        "registry.k8s.io/pause",
    ]
    assert sums(tmp_path) == before


def test_a_kubeadm_that_wants_other_images_is_told(here: FakeSources, tmp_path: Path, monkeypatch: Any) -> None:
    new = Companions(10, "3.6.8-0", "v1.14.9", "3.10.2")
    monkeypatch.setitem(COMPANIONS, "1.36", (*COMPANIONS["1.36"], new))
    with pytest.raises(SourceError, match=f"kubeadm {NEWEST} does not know v1.14.9, which Isthmus has"):
        make(here, tmp_path)
    assert here.times("/v2/") == 0
    assert not (tmp_path / "bundle.toml").exists()


# --- registries ---------------------------------------------------------------------------------------------------


def test_a_registry_that_wants_a_token_gets_one_and_no_other_server_does(here: FakeSources, tmp_path: Path) -> None:
    here.wants_token = here.redirects_blobs = True
    make(here, tmp_path)
    at_cdn = [asked.headers for asked in here.asked if asked.path.startswith("/cdn")]
    assert len(at_cdn) > 10
    assert all("authorization" not in headers for headers in at_cdn)
    assert any(asked.headers.get("authorization") == f"Bearer {TOKEN}" for asked in here.asked)
    assert TOKEN not in "".join(asked.path for asked in here.asked)


def test_each_image_is_looked_for_and_the_next_place_tried(here: FakeSources, tmp_path: Path) -> None:
    here.add_image(PAUSE, ("amd64",), place=f"first/{PAUSE}")
    etcd = "registry.k8s.io/etcd:3.6.8-0"
    here.add_image(etcd, ("arm64",), place=f"first/{etcd}")
    said = make(here, tmp_path, mirrors=("first/", ""))
    come_from = {line.partition(": ")[0]: line.rpartition(" from ")[2].partition("/")[2] for line in said}
    assert come_from[PAUSE] == "first/registry.k8s.io/pause"
    assert come_from[etcd] == "registry.k8s.io/etcd"
    with tarfile.open(tmp_path / "images/pause.tar") as archive:
        content = archive.extractfile("manifest.json")
        assert content is not None
        assert json.load(content)[0]["RepoTags"] == [PAUSE]


def test_an_image_that_no_place_has_is_told_with_what_each_said(here: FakeSources, tmp_path: Path) -> None:
    here.remove_image(PAUSE)
    here.add_image(PAUSE, ("arm64",), place=f"first/{PAUSE}")
    expected = (
        f"no source has the image {PAUSE}: HOST/first/registry.k8s.io/pause: has it for linux/arm64, not linux/amd64; "
        "HOST/registry.k8s.io/pause: answered 404 Not Found"
    )
    with pytest.raises(SourceError) as refused:
        make(here, tmp_path, mirrors=("first/", ""))
    assert str(refused.value) == expected.replace("HOST", here.url.partition("://")[2])
    assert not (tmp_path / "bundle.toml").exists()
    assert probe_images(offer(here, mirrors=("first/", ""))) == {PAUSE: str(refused.value)}


def test_a_place_that_fails_on_the_way_is_left_for_the_next(here: FakeSources, tmp_path: Path) -> None:
    here.add_image(PAUSE, place=f"first/{PAUSE}")
    blobs = [path for path in here.files if path.startswith("/v2/first/") and "/blobs/" in path]
    layer = max(blobs, key=lambda path: len(here.files[path]))
    here.files[layer] = here.files[layer][:-1] + b"x"
    said = make(here, tmp_path, mirrors=("first/", ""))
    assert [line for line in said if line.startswith(PAUSE)] == [
        f"{PAUSE}: 0 MB from {here.url[7:]}/registry.k8s.io/pause"
    ]


def test_a_place_that_says_nothing_is_asked_once(here: FakeSources, tmp_path: Path, pauses: list[float]) -> None:
    nowhere = "http://127.0.0.1:9"  # discard: nobody is there
    registries = Registries("amd64")
    for reference in images_of(NEWEST)[:3]:
        places = (Origin(nowhere, "x"), Origin(here.url, reference.rpartition(":")[0]))
        assert registries.find(reference, places).origin.registry == here.url
    assert len(pauses) == 3  # of one place's four tries


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "answered with something else than JSON"),
        (b"[]", "answered with something else than JSON"),
        (b"{}", "answered with something else than a manifest"),
        (b'{"schemaVersion": 1, "fsLayers": []}', "answered with something else than a manifest"),
        (b'{"schemaVersion": 2, "layers": []}', "answered with a manifest that is not whole"),
        (
            b'{"schemaVersion": 2, "layers": [], "config": {"size": 1, "digest": "md5:1"}}',
            "a digest that is none of SHA-256",
        ),
        (
            b'{"schemaVersion": 2, "config": {"size": 1, "digest": "sha256:%s"}, "layers": [{"size": 1, '
            b'"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd"}]}' % (b"a" * 64),
            "has it in layers of the kind application/vnd.oci.image.layer.v1.tar+zstd, expected one of",
        ),
    ],
)
def test_what_is_no_manifest_is_told(body: bytes, said: str) -> None:
    with pytest.raises(SourceError, match=said.replace("+", r"\+")):
        parse_manifest(body)


def test_manifests_and_configurations_are_compared_with_their_digests(here: FakeSources) -> None:
    registries = Registries("amd64")
    place = (Origin(here.url, "registry.k8s.io/pause"),)
    for part, said in (
        ("/manifests/sha256:", "a manifest with another sum"),
        ("/blobs/", "a configuration with another"),
    ):
        paths = [path for path in here.files if path.startswith(f"/v2/{place[0].name}{part}")]
        kept = {path: here.files[path] for path in paths}
        here.files.update({path: content + b" " for path, content in kept.items()})
        with pytest.raises(SourceError, match=said):
            registries.find(PAUSE, place)
        here.files.update(kept)
    registries.find(PAUSE, place)


# --- bad lines ----------------------------------------------------------------------------------------------------


def test_a_file_whose_line_breaks_is_gone_on_with(here: FakeSources, tmp_path: Path, pauses: list[float]) -> None:
    """Seven breaks are more than there are tries, but each time something came."""
    here.trouble[CNI] = [("cut", 100_000)] * 7
    make(here, tmp_path)
    asked = [request.headers.get("range") for request in here.asked if request.path == CNI]
    assert asked == [None, *(f"bytes={n * 100_000}-" for n in range(1, 8))]


def test_a_server_without_ranges_sends_it_from_the_beginning(here: FakeSources, tmp_path: Path) -> None:
    here.trouble[CNI] = [("cut", 100_000)]
    here.ranges = False
    make(here, tmp_path)


def test_an_interrupted_run_is_gone_on_with_by_the_next(here: FakeSources, tmp_path: Path) -> None:
    here.trouble[CNI] = [("cut", 100_000), *[("status", 503)] * 4]
    with pytest.raises(SourceError, match=r"kubernetes-cni_1\.9\.1-1\.1_amd64\.deb answered 503 Service"):
        make(here, tmp_path)
    assert (tmp_path / "debs" / f"{CNI.rpartition('/')[2]}.part").stat().st_size == 100_000
    here.asked.clear()
    make(here, tmp_path)
    assert [request.headers.get("range") for request in here.asked if request.path == CNI] == ["bytes=100000-"]
    assert [path.name for path in tmp_path.rglob("*.part")] == []


def test_a_part_of_another_file_is_thrown_away(here: FakeSources, tmp_path: Path) -> None:
    (tmp_path / "debs").mkdir()
    part = tmp_path / "debs" / f"{CNI.rpartition('/')[2]}.part"
    for content in (b"x" * 1000, b"x" * len(here.files[CNI]), b"x" * (len(here.files[CNI]) + 1)):
        part.write_bytes(content)
        make(here, tmp_path)
        (tmp_path / "debs" / CNI.rpartition("/")[2]).unlink()


def test_a_file_with_a_wrong_sum_is_told_and_not_kept(here: FakeSources, tmp_path: Path) -> None:
    here.files[CNI] = b"x" * len(here.files[CNI])
    with pytest.raises(SourceError, match=r"kubernetes-cni_.*arrived with the sum [0-9a-f]{64}, expected [0-9a-f]{64}"):
        make(here, tmp_path)
    assert list((tmp_path / "debs").glob("kubernetes-cni*")) == []


def test_a_server_that_is_busy_is_waited_for(here: FakeSources, pauses: list[float]) -> None:
    here.trouble[RELEASE] = [("status", 429, {"Retry-After": "7"}), ("status", 502), ("cut", 3)]
    offer(here)
    assert pauses == [7, 3, 7]
    here.trouble[RELEASE] = [("status", 429, {"Retry-After": "3600"})]
    with pytest.raises(SourceError, match="answered 429 Too Many Requests"):
        offer(here)
    assert len(pauses) == 3


def test_ctrl_c_leaves_what_has_come_for_the_next_run(here: FakeSources, tmp_path: Path, monkeypatch: Any) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    here.trouble[CNI] = [("cut", 100_000)]
    monkeypatch.setattr(web.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make(here, tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "debs" / f"{CNI.rpartition('/')[2]}.part").stat().st_size == 100_000


def test_a_network_that_goes_away_is_waited_for_and_a_full_disk_is_not(pauses: list[float]) -> None:
    """To the socket and to the disk these are the same class of error."""
    errors = [OSError(errno.EHOSTUNREACH, "No route to host")]

    def ask(_: int) -> str:
        if errors:
            raise errors.pop()
        return "arrived"

    assert web._persistently(ask) == "arrived"
    assert len(pauses) == 1
    errors.append(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        web._persistently(ask)


def test_a_disk_that_is_full_is_told(here: FakeSources, tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("isthmus.sources.making.download", full)
    with pytest.raises(SourceError, match=f"cannot write {tmp_path}: No space left on device"):
        make(here, tmp_path)
