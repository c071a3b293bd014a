"""`source =` in hosts.toml and `inv k8s.bundle`, on hosts in memory and sources on loopback."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_cluster import FakeClusterFleet
from fake_sources import NEWEST, FakeSources, SigningKey, serving
from invoke import Exit
from test_bootstrap import HOSTS, _no_waiting

import tasks
from isthmus.errors import SourceError
from isthmus.inventory import parse_inventory
from isthmus.kubernetes import sources as known
from isthmus.kubernetes.bundle import short_name
from isthmus.kubernetes.images import images_of
from isthmus.kubernetes.registry import Blob, Manifest
from isthmus.sources.images import write_archive
from isthmus.sources.web import get

__all__ = ["_no_waiting"]

CONTEXT = SimpleNamespace(config=SimpleNamespace(sudo=SimpleNamespace(password=None)))
HOSTS_IN_ORDER = ("n1", "n2", "n3", "s1")
PAUSE = "registry.k8s.io/pause:3.10.2"


@pytest.fixture(scope="session")
def key() -> SigningKey:
    return SigningKey(days=20)


@pytest.fixture
def here(key: SigningKey, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSources]:
    """Upstream on loopback; whoever asks the real one fails."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(known, "KUBERNETES_KEY", key.fingerprint)
    monkeypatch.setattr(known, "DOCKER_KEY", key.fingerprint)
    with serving(FakeSources(key)) as sources:
        monkeypatch.setitem(known.SOURCES, "upstream", sources.fill().source())
        monkeypatch.setitem(known.SOURCES, "aliyun", sources.source("aliyun", ("mirror/", "")))
        yield sources


class Said:
    """What a command ended with and printed."""

    def __init__(self, code: int, message: str, out: str, err: str) -> None:
        self.code, self.message, self.out, self.err = code, message, out, err


class Site:
    """A workstation with a hosts.toml that names a source, and hosts."""

    def __init__(self, folder: Path, text: str = f'{HOSTS}source = "upstream"\n') -> None:
        self.folder = folder
        self.file = folder / "hosts.toml"
        self.file.write_text(text, encoding="utf-8")
        references = {f"images/{short_name(name)}.tar": (name,) for name in images_of(NEWEST)}
        self.fleet = FakeClusterFleet(parse_inventory(text, str(self.file)), references)
        self.fleet.download = self._download

    def _download(self, inputs: dict[str, str]) -> str:
        """Do what the script does (tests/test_download.py), without a process for each step."""
        if inputs["urls"]:
            return hashlib.sha256(get(inputs["urls"]).body).hexdigest()
        (entry,) = json.loads(inputs["index"])
        parts = self.folder / "parts"
        parts.mkdir()
        blobs = {}
        for name in inputs["blobs"].split():
            digest, _, suffix = name.partition(".")
            place = inputs["places"].split()[0]
            content = get(f"{place}/blobs/sha256:{digest}").body
            (parts / name).write_bytes(content)
            blobs[name] = Blob(digest, len(content), f".{suffix}")
        manifest = Manifest(blobs[entry["Config"]], tuple(blobs[name] for name in entry["Layers"]))
        return write_archive(self.folder / "archive.tar", entry["RepoTags"][0], manifest, parts)

    def kept(self) -> list[str]:
        """Return what there is of the bundle on the workstation."""
        folder = self.folder / "bundle-upstream"
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text(encoding="utf-8")
        assert old in text
        self.file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path)
    monkeypatch.setattr("isthmus.remote.Fleet", lambda *_, **__: made.fleet)
    return made


@pytest.fixture
def inv(site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that calls a command with flags."""
    monkeypatch.setattr("sys.stdin", io.StringIO())

    def call(name: str, **flags: Any) -> Said:
        folder, _, task = name.partition(".")
        code, message = 0, ""
        try:
            tasks.ns.collections[folder].tasks[task].body(CONTEXT, file=str(site.file), **flags)
        except Exit as end:
            code, message = end.code, end.message or ""
        out, err = capsys.readouterr()
        return Said(code, message, out, err)

    return call


def test_a_plan_reads_indexes_and_fetches_nothing(inv: Any, site: Site, here: FakeSources) -> None:
    plan = inv("k8s.plan")
    assert plan.code == 4
    assert f"kubeadm {NEWEST}-1.1" in plan.out
    assert f"images: registry.k8s.io/kube-apiserver:v{NEWEST}" in plan.out
    assert here.times(".deb") == here.times("/v2/") == 0
    assert not (site.folder / "bundle-upstream").exists()


def test_one_host_of_each_site_fetches_for_its_site_and_a_second_run_asks_nobody(
    inv: Any, site: Site, here: FakeSources
) -> None:
    up = inv("k8s.bootstrap")
    assert up.code == 0, up.err
    assert "s1: ready\n" in up.out
    assert set(site.fleet.ran("k8s-download")) == {"n1", "s1"}
    assert site.fleet.ran("k8s-fetch") == ["n2", "n3"]
    assert site.fleet.ran("k8s-receive") == []
    assert "n1: fetching pause.tar, 0 MB" in up.err
    assert site.kept() == ["bundle.toml"]
    here.asked.clear()
    again = inv("k8s.bootstrap")
    assert (again.code, again.out) == (0, "".join(f"{name}: nothing to do\n" for name in HOSTS_IN_ORDER))
    assert (inv("k8s.plan").code, inv("check.pods").code, here.asked) == (0, 0, [])


def test_what_a_site_cannot_fetch_comes_from_the_workstation(inv: Any, site: Site, here: FakeSources) -> None:
    site.fleet["s1"].online = False
    up = inv("k8s.bootstrap")
    assert up.code == 0, up.err
    assert "s1: cannot fetch: " in up.err
    assert "upstream: hosts cannot fetch from it: the workstation does" in up.err
    assert set(site.fleet.ran("k8s-download")) == {"n1"}
    assert set(site.fleet.ran("k8s-receive")) == {"s1"}
    assert len(site.kept()) == 17


def test_another_host_of_a_site_fetches_where_its_gateway_cannot(inv: Any, site: Site, here: FakeSources) -> None:
    site.fleet["n1"].online = False
    assert inv("k8s.bootstrap").code == 0
    assert set(site.fleet.ran("k8s-download")) == {"n2", "s1"}
    assert set(site.fleet.ran("k8s-fetch")) == {"n1", "n3"}
    assert site.fleet.ran("k8s-receive") == []


def test_a_host_that_its_neighbour_does_not_reach_gets_what_the_workstation_fetches(
    inv: Any, site: Site, here: FakeSources
) -> None:
    """Inside a site no more than Kubernetes' own ports may be open."""
    site.fleet["n3"].refuses["k8s-fetch"] = "no connection to 172.16.0.1 within 10 s"
    up = inv("k8s.bootstrap")
    assert up.code == 0, up.err + up.message
    assert "upstream: not all hosts are reached by their neighbours: the workstation sends" in up.err
    assert set(site.fleet.ran("k8s-receive")) == {"n3"}


def test_a_host_that_nobody_can_bring_its_files_keeps_no_other_from_them(
    inv: Any, site: Site, here: FakeSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(*_: object) -> None:
        raise SourceError("the workstation has no internet")

    site.fleet["n3"].refuses["k8s-fetch"] = "no connection to 172.16.0.1 within 10 s"
    monkeypatch.setattr("isthmus.cluster.sourcing.make_bundle", off)
    up = inv("k8s.bootstrap")
    assert up.code == 1
    assert "n3: the workstation has no internet" in up.err
    assert "s1: ready\n" in up.out


def test_hosts_and_a_workstation_without_internet_are_told_once_each(inv: Any, site: Site, here: FakeSources) -> None:
    """It goes between the look at the source and the fetching; what was begun is gone on with."""
    for node in site.fleet.hosts.values():
        node.online = False
    cni = next(path for path in here.files if "kubernetes-cni" in path)
    content = here.files.pop(cni)
    up = inv("k8s.bootstrap")
    assert up.code == 1
    assert all(f"{name}: {here.url}{cni} answered 404 Not Found" in up.err for name in HOSTS_IN_ORDER)
    here.files[cni] = content
    assert inv("k8s.bootstrap").code == 0


def test_a_gateway_that_needs_nothing_fetches_for_a_host_without_internet(
    inv: Any, site: Site, here: FakeSources
) -> None:
    inv("k8s.bootstrap")
    site.fleet["n3"].online = False
    site.fleet["n3"].images.clear()
    site.fleet.calls.clear()
    up = inv("k8s.bootstrap", only="n3")
    assert up.code == 0, up.err
    assert (set(site.fleet.ran("k8s-download")), site.fleet.ran("k8s-fetch")) == ({"n1"}, ["n3"])
    assert site.fleet.ran("k8s-receive", "k8s-prepare") == ["n3"]
    assert site.fleet.ran("k8s-sweep") == ["n1"]
    assert site.fleet["n1"].bundle == {}
    assert site.kept() == ["bundle.toml"]


def test_a_gateway_that_cannot_fetch_keeps_nothing_of_what_others_need(inv: Any, site: Site, here: FakeSources) -> None:
    inv("k8s.bootstrap")
    site.fleet["n1"].online = False
    site.fleet["n3"].images.clear()
    site.fleet.calls.clear()
    assert inv("k8s.bootstrap").code == 0
    assert set(site.fleet.ran("k8s-download")) == {"n3"}
    assert site.fleet.ran("k8s-sweep") == ["n1"]


def test_what_other_hosts_came_with_is_what_a_later_one_gets(inv: Any, site: Site, here: FakeSources) -> None:
    """containerd.io and the mirror's pause have newer ones meanwhile; the kept bundle.toml decides."""
    assert inv("k8s.bootstrap", only="n1,n2,n3").code == 0
    version = "2.2.11-1~debian.12~bookworm"
    docker = {path.removeprefix("/docker/"): text for path, text in here.files.items() if "containerd.io_" in path}
    docker[f"dists/bookworm/pool/stable/amd64/containerd.io_{version}_amd64.deb"] = b"newer"
    here.publish("/docker/", "/docker/dists/bookworm/", "stable/binary-amd64/Packages", "gpg", docker)
    assert "containerd.io 2.2.10" in inv("k8s.plan").out
    assert inv("k8s.bootstrap").code == 0
    assert site.fleet["s1"].packages["containerd.io"] == "2.2.10-1~debian.12~bookworm"
    node = site.fleet["s1"]
    node.packages.pop("containerd.io")
    here.publish("/docker/", "/docker/dists/bookworm/", "stable/binary-amd64/Packages", "gpg", {})
    gone = inv("k8s.bootstrap")
    assert gone.code == 1
    assert "127.0.0.1" in gone.message


def test_a_new_patch_release_changes_nothing_by_itself(inv: Any, site: Site, here: FakeSources) -> None:
    site.edit('version        = "1.36"', 'version        = "1.36.2"')
    for reference in images_of("1.36.2"):
        here.add_image(reference)
        site.fleet.references[f"images/{short_name(reference)}.tar"] = (reference,)
    assert inv("k8s.bootstrap").code == 0
    site.edit('version        = "1.36.2"', 'version        = "1.36"')
    assert inv("k8s.plan").code == 0
    assert f"Kubernetes {NEWEST}" in inv("k8s.bundle").out
    assert "runs kubelet 1.36.2-1.1, the bundle has 1.36.10" in inv("k8s.plan").out


def test_an_upgrade_fetches_what_is_new(inv: Any, site: Site, here: FakeSources) -> None:
    """The version in hosts.toml decides, not the bundle.toml that was kept for the one before."""
    site.edit('version        = "1.36"', 'version        = "1.36.2"')
    of_both = dict(site.fleet.references)
    for reference in images_of("1.36.2"):
        here.add_image(reference)
        site.fleet.references[f"images/{short_name(reference)}.tar"] = (reference,)
    assert inv("k8s.bootstrap").code == 0
    site.fleet.references.update(of_both)
    site.edit('version        = "1.36.2"', f'version        = "{NEWEST}"')
    site.fleet["s1"].online = False
    site.fleet.calls.clear()
    up = inv("k8s.upgrade")
    assert up.code == 0, up.err + up.message
    assert set(site.fleet.ran("k8s-download")) == {"n1"}
    assert {node.packages["kubelet"] for node in site.fleet.hosts.values()} == {f"{NEWEST}-1.1"}
    assert inv("k8s.plan").code == 0


def test_what_an_upgrade_has_taken_is_kept(inv: Any, site: Site, here: FakeSources) -> None:
    """Hosts have pause and flannel from before, so nobody learns the sums of these."""
    site.edit('version        = "1.36"', 'version        = "1.36.1"')
    of_both = {}
    for version in ("1.36.1", "1.36.2"):
        for reference in images_of(version):
            here.add_image(reference)
            of_both[f"images/{short_name(reference)}.tar"] = (reference,)
        if version == "1.36.1":
            site.fleet.references = dict(of_both)
            assert inv("k8s.bootstrap").code == 0
    site.fleet.references = of_both
    site.edit('version        = "1.36.1"', 'version        = "1.36.2"')
    up = inv("k8s.upgrade")
    assert up.code == 0, up.err + up.message
    site.edit('version        = "1.36.2"', 'version        = "1.36"')
    assert inv("k8s.plan").code == 0
    site.fleet["s1"].images.remove(PAUSE)
    assert inv("k8s.bootstrap").code == 0
    made = inv("k8s.bundle")
    assert f"Kubernetes {NEWEST}" in made.out


def test_hosts_fetch_only_what_they_lack(inv: Any, site: Site, here: FakeSources) -> None:
    inv("k8s.bootstrap")
    site.fleet["s1"].images.remove(PAUSE)
    here.asked.clear()
    site.fleet.calls.clear()
    assert inv("k8s.bootstrap").code == 0
    assert site.fleet.ran("k8s-download") == ["s1"]
    assert here.times(".deb") == here.times("/etcd/") == 0
    assert here.times("/pause/blobs/") == 4  # its three blobs, and the configuration to see for what platform it is


def test_another_version_in_hosts_toml_is_looked_for_anew(inv: Any, site: Site, here: FakeSources) -> None:
    inv("k8s.bundle")
    site.edit('version        = "1.36"', 'version        = "1.36.9"')
    plan = inv("k8s.plan")
    assert plan.code == 2
    assert 'kubernetes.version: found "1.36.9", expected one that 127.0.0.1:' in plan.message
    assert plan.message.endswith("has: 1.36.1, 1.36.2, 1.36.10")


def test_a_source_that_is_off_touches_no_host(inv: Any, site: Site, here: FakeSources) -> None:
    here.remove_image(PAUSE)
    up = inv("k8s.bootstrap")
    assert up.code == 1
    assert up.message.startswith(f"no source has the image {PAUSE}: ")
    assert site.fleet.changing == []


def test_check_k8s_tells_keys_that_end_and_images_that_nobody_has(inv: Any, site: Site, here: FakeSources) -> None:
    host = here.url.partition("://")[2]
    well = inv("check.k8s")
    assert well.code == 0
    assert well.out.count(f"upstream: key: that of {host} ends in 20 days") + well.out.count("ends in 19 days") == 2
    here.remove_image(PAUSE)
    ill = inv("check.k8s")
    assert ill.code == 1
    assert (
        f"upstream: ERROR images: no source has the image {PAUSE}: {host}/registry.k8s.io/pause: answered 404"
        in ill.out
    )
    here.files.pop("/docker/gpg")
    assert inv("check.k8s").message == f"no packages from upstream: {host}: gpg: answered 404 Not Found"


def test_who_has_a_whole_bundle_does_without_the_source(inv: Any, site: Site, here: FakeSources) -> None:
    inv("k8s.bundle")
    here.files.clear()
    said = inv("check.k8s")
    assert (said.code, "upstream: packages: no packages from upstream" in said.out) == (0, True)
    assert inv("k8s.bootstrap").code == 0


def test_k8s_bundle_makes_a_folder_for_hosts_without_internet(inv: Any, site: Site, here: FakeSources) -> None:
    made = inv("k8s.bundle", output=str(site.folder / "usb"))
    assert made.code == 0
    assert (
        f"{site.folder}/usb: Kubernetes {NEWEST}, containerd 2.2.10, flannel 0.28.9; 6 packages and 10 images"
        in made.out
    )
    assert f"kubelet {NEWEST}-1.1: 0 MB from 127.0.0.1:" in made.err
    assert "note: the key of 127.0.0.1:" in made.err
    report = json.loads(inv("k8s.bundle", output=str(site.folder / "usb"), json=True).out)
    assert report["versions"]["kubernetes"] == NEWEST
    assert len(report["files"]) == 16
    site.edit('source = "upstream"', 'bundle = "usb"')
    here.asked.clear()
    assert inv("k8s.bootstrap").code == 0
    assert here.asked == []


def test_the_bundle_of_an_inventory_is_made_where_it_looks_for_it(inv: Any, site: Site, here: FakeSources) -> None:
    site.edit('source = "upstream"', 'bundle = "here"')
    here.add_image(PAUSE, place=f"mirror/{PAUSE}")
    made = inv("k8s.bundle", source="aliyun")
    assert made.code == 0
    assert f"{PAUSE}: 0 MB from {here.url[7:]}/mirror/registry.k8s.io/pause" in made.err
    assert (site.folder / "here/bundle.toml").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"output": ""}, "--output: found nothing, expected the path of a folder"),
        ({"source": "azure"}, "--source: found azure, expected one of upstream, aliyun"),
        ({"architecture": "x86"}, "--architecture: found x86, expected one of amd64, arm64"),
        ({"debian": "bookworm"}, "--debian: found bookworm, expected one of 11, 12, 13"),
    ],
)
def test_wrong_flags_are_told(inv: Any, here: FakeSources, flags: dict[str, str], said: str) -> None:
    wrong = inv("k8s.bundle", **flags)
    assert (wrong.code, wrong.message, here.asked) == (2, said, [])


def test_without_a_source_or_a_bundle_nothing_begins(inv: Any, site: Site, here: FakeSources) -> None:
    site.edit('source = "upstream"\n', "")
    for name in ("k8s.plan", "k8s.bootstrap"):
        said = inv(name)
        assert said.code == 2
        assert (
            'kubernetes.bundle: found nothing, expected a source = "upstream" or "aliyun", or the path' in said.message
        )
    assert "found neither source nor bundle, expected one of them, or --output DIR" in inv("k8s.bundle").message
    assert inv("k8s.bundle", output=str(site.folder / "any")).code == 0


def test_a_folder_that_cannot_be_written_is_told(inv: Any, site: Site, here: FakeSources) -> None:
    (site.folder / "bundle-upstream").write_text("a file", encoding="utf-8")
    said = inv("k8s.bundle")
    assert said.code == 1
    assert said.message.startswith(f"cannot write {site.folder}/bundle-upstream")
