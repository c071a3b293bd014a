"""Packages and images from a real apt repository and a real registry over TLS, and a real cluster from them.

What they hold is the bundle's whose folder ISTHMUS_BUNDLE names; without one these tests are skipped, each by its name.
N1 reaches them, N2 has them from N1, and S1 has no internet: it gets all from the workstation.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import upstream
from promises import FAILED, OK, WAITING
from test_kubernetes import LONG_S, Cluster, tell
from workstation import ROOT

from isthmus.inventory import load_inventory
from isthmus.kubernetes.bundle import parse_bundle
from isthmus.kubernetes.cluster import cluster_of
from isthmus.kubernetes.images import CHECK
from isthmus.lab import HostOptions

pytestmark = [pytest.mark.lab, pytest.mark.bundle]

NODES = ("n1", "n2", "s1")


class Site(Cluster):
    """A workstation that knows the lab's upstream for the real one."""

    upstream: upstream.Upstream

    def command(self, line: str, file: Path | None = None) -> list[str]:
        trust = [f"SSL_CERT_FILE={self.upstream.certificate}", f"LAB_KEY={self.upstream.fingerprint}"]
        _, *words = super().command(line, file)
        program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("trusting.py"))]
        return ["env", *trust, *program, *words]

    def images(self, host: str) -> dict[str, str]:
        """Return {reference: digest} of the images on a host."""
        lines = (line.split() for line in self.said(host, "ctr -n k8s.io images ls").splitlines()[1:])
        return {words[0]: words[2] for words in lines if "/" in words[0] and "@" not in words[0]}


@pytest.fixture(scope="module")
def site(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """N1, N2 and S1 with the mesh up; N3 is left out to save memory."""
    folder = tmp_path_factory.mktemp("sources")
    text = re.sub(r"\[hosts\.n3\]\n(?:.+\n)+\n", "", (ROOT / "hosts.toml").read_text(encoding="utf-8"))
    # N2 is reached through N1, and reaches nobody outside.
    text = re.sub(r"(\[hosts\.n2\]\n(?:.+\n)*?)public  = .+\n", r"\1", text) + 'source         = "upstream"\n'
    (folder / "hosts.toml").write_text(text, encoding="utf-8")
    site = Site(lab(load_inventory(folder / "hosts.toml"), HostOptions(packages=True, kubernetes=True)), folder, text)
    began = time.monotonic()
    site.upstream = upstream.make(Path(os.environ["ISTHMUS_BUNDLE"]), folder / "upstream", CHECK)
    tell(f"the lab's upstream made in {time.monotonic() - began:.0f} s")
    address = site.lab.layout.admin_address
    names = f"{address} {' '.join(upstream.NAMES)}\n"
    with site.lab.names.hosts_file.open("a", encoding="utf-8") as file:
        file.write(names)
    certificate = site.upstream.certificate.read_text(encoding="utf-8")
    known = "cat >/usr/local/share/ca-certificates/lab.crt && update-ca-certificates >/dev/null"
    assert site.lab.host_run("n1", "cat >>/etc/hosts", text=names).returncode == 0
    assert site.lab.host_run("n1", known, text=certificate).returncode == 0
    with upstream.serving(site.upstream, site.lab.admin_command(["env"])):
        site.inv("mesh.up", code=OK)
        yield site


def test_a_bundle_is_made_for_hosts_without_internet(site: Site) -> None:
    began = time.monotonic()
    out = site.file.with_name("usb")
    report = json.loads(site.inv(f"k8s.bundle --json --output {out}", code=OK, patience=LONG_S).stdout)
    tell(f"k8s.bundle: {report['bytes'] / 1e6:.0f} MB in {time.monotonic() - began:.0f} s")
    cluster = cluster_of(load_inventory(site.file))
    bundle = parse_bundle((out / "bundle.toml").read_text(encoding="utf-8"), "bundle.toml", cluster)
    for file in (*bundle.debs, *bundle.images):
        assert hashlib.sha256((out / file.path).read_bytes()).hexdigest() == file.sha256, file.path
    real = Path(os.environ["ISTHMUS_BUNDLE"])
    original = (real / "bundle.toml").read_text(encoding="utf-8")
    assert all(f'"{deb.path.removeprefix("debs/")}" = "{deb.sha256}"' in original for deb in bundle.debs)
    names = {reference for image in bundle.images for reference in image.references} - {CHECK}
    assert all(f'"{name}"' in original for name in names)
    asked = len(site.upstream.asked())
    again = site.inv(f"k8s.bundle --output {out}", code=OK, patience=LONG_S)
    assert again.stderr.count("there already") == len(bundle.debs) + len(bundle.images)
    assert "note: the key of pkgs.k8s.io ends in 2" in again.stderr
    assert not any(path.endswith(".deb") for _, _, path in site.upstream.asked()[asked:])


def test_the_plan_fetches_nothing_and_the_source_is_checked(site: Site) -> None:
    asked = len(site.upstream.asked())
    assert "kubelet 1.36.2-1.1" in site.inv("k8s.plan", code=WAITING).stdout
    assert {host for _, host, _ in site.upstream.asked()[asked:]} == {upstream.PKGS, upstream.DOCKER}
    assert "upstream: key: that of pkgs.k8s.io ends in 2" in site.inv("check.k8s", code=OK).stdout
    site.beside("wrong.toml", ('version        = "1.36"', 'version        = "1.36.9"'))
    wrong = site.inv("k8s.plan", site.file.with_name("wrong.toml"), code=2)
    assert 'found "1.36.9", expected one that pkgs.k8s.io has: 1.36.2' in wrong.stderr


def test_hosts_fetch_by_themselves_and_one_without_internet_ends_up_the_same(site: Site) -> None:
    asked = len(site.upstream.asked())
    up = site.inv("k8s.bootstrap", code=OK, patience=LONG_S)
    tell(up.stdout)
    public = str(site.lab.inventory.hosts["n1"].public)
    fetched = [path for who, _, path in site.upstream.asked()[asked:] if who == public]
    assert sum(path.endswith(".deb") for path in fetched) == 6
    assert len({path for path in fetched if "/blobs/" in path}) > 10
    assert "n1: fetched " in up.stderr
    assert "n2: fetched from n1" in up.stderr
    assert "s1: cannot fetch: " in up.stderr
    assert "s1: sent " in up.stderr
    site.pods_reach_each_other()
    here, there = site.images("n2"), site.images("s1")
    assert here == there
    assert len(here) == 6
    assert here.items() <= site.images("n1").items()
    packages = "dpkg-query -W containerd.io kubelet kubeadm kubectl cri-tools kubernetes-cni"
    assert site.said("n2", packages) == site.said("s1", packages)


def test_a_second_run_changes_nothing_and_asks_nobody(site: Site) -> None:
    asked = len(site.upstream.asked())
    site.nothing_left()
    assert site.upstream.asked()[asked:] == []


def test_a_host_that_lacks_an_image_fetches_only_that(site: Site) -> None:
    """It is taken off N1 and of the folder on the workstation; both are made whole again."""
    asked = len(site.upstream.asked())
    site.said("n1", f"ctr -n k8s.io images rm {CHECK} >/dev/null")
    (site.file.with_name("bundle-upstream") / "images/busybox.tar").unlink()
    site.inv("k8s.plan", code=WAITING)
    site.inv("k8s.bootstrap", code=OK, patience=LONG_S)
    blobs = {path for _, _, path in site.upstream.asked()[asked:] if "/blobs/" in path}
    assert len(blobs) >= 2
    assert all("/e2e-test-images/busybox/" in path for path in blobs)
    assert CHECK in site.images("n1")


def test_an_image_that_nobody_has_stops_a_run_before_anything_is_touched(site: Site) -> None:
    site.said("n2", f"ctr -n k8s.io images rm {CHECK} >/dev/null")
    folder = site.file.with_name("bundle-upstream")
    (folder / "images/busybox.tar").unlink(missing_ok=True)
    repository = site.upstream.folder / "registry/docker/registry/v2/repositories/e2e-test-images/busybox"
    repository.rename(repository.with_name("away"))
    try:
        failed = site.inv("k8s.bootstrap", code=FAILED, patience=LONG_S)
        said = f"no source has the image {CHECK}: registry.k8s.io/e2e-test-images/busybox: answered 404 Not Found"
        assert said in failed.stderr
        assert said in site.inv("check.k8s", code=FAILED).stdout
    finally:
        repository.with_name("away").rename(repository)
    up = site.inv("k8s.bootstrap", code=OK, patience=LONG_S)
    assert "n1: fetching busybox.tar" in up.stderr  # it needs nothing itself, and N2 reaches nobody outside
    assert "n2: fetched from n1" in up.stderr
    assert site.said("n1", "ls /var/lib/isthmus-kubernetes") == ""
    site.nothing_left()
