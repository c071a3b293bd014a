"""What cannot become a cluster, with the real kubeadm: a clear line, exit code 1, and a second run that ends it.

What is refused before a host is asked (version, networks, control planes) is in tests/test_k8s_bad_input.py, and a
host of another cluster in test_kubernetes.py. The tests are one story, as those are.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from promises import FAILED, OK, USAGE
from test_kubernetes import LONG_S, NODES, Cluster, cluster, tell

pytestmark = [pytest.mark.lab, pytest.mark.bundle]
__all__ = ["cluster"]

IMAGES = "/var/lib/containerd"
OTHER_PAUSE = "registry.k8s.io/pause:1.2.3"
FILLS = f'case "$*" in *import*) mount -o remount,size=96m {IMAGES} ;; esac'
"""What ctr does first on a host whose disk gets full while it is prepared."""


def other_bundle(folder: Path, *, right_sum: bool) -> Path:
    """Return a bundle like the real one, in which pause has another reference, and a wrong sum if wanted."""
    real = Path(os.environ["ISTHMUS_BUNDLE"]).resolve()
    made = folder / f"bundle-{right_sum}"
    (made / "images").mkdir(parents=True)
    (made / "debs").symlink_to(real / "debs")
    for image in (real / "images").iterdir():
        if image.name != "pause.tar":
            (made / "images" / image.name).symlink_to(image)
    text = (real / "bundle.toml").read_text(encoding="utf-8")
    reference = next(word for word in text.split('"') if word.startswith("registry.k8s.io/pause:"))
    old = sha256((real / "images/pause.tar").read_bytes()).hexdigest()
    renamed(real / "images/pause.tar", made / "images/pause.tar", reference, OTHER_PAUSE)
    new = sha256((made / "images/pause.tar").read_bytes()).hexdigest()
    assert text.count(old) == 1
    text = text.replace(old, new if right_sum else old).replace(reference, OTHER_PAUSE)
    (made / "bundle.toml").write_text(text, encoding="utf-8")
    return made


def renamed(source: Path, target: Path, old: str, new: str) -> None:
    """Copy a docker-archive in which the image has another reference."""
    with tarfile.open(source) as archive, tarfile.open(target, "w") as copy:
        for member in archive:
            file = archive.extractfile(member)
            content = file.read() if file else b""
            if member.name == "manifest.json":
                manifest = json.loads(content)
                assert manifest[0]["RepoTags"] == [old]
                manifest[0]["RepoTags"] = [new]
                content = json.dumps(manifest).encode()
            if member.name != "repositories":
                member.size = len(content)
                copy.addfile(member, io.BytesIO(content) if file else None)


def with_bundle(cluster: Cluster, bundle: Path) -> Path:
    """Return an inventory beside the cluster's own that names another bundle."""
    real = str(Path(os.environ["ISTHMUS_BUNDLE"]).resolve())
    return cluster.beside("other.toml", (f'"{real}"', f'"{bundle}"'))


def failures(cluster: Cluster, file: Path | None = None) -> dict[str, str]:
    """Bootstrap, which must fail, and return what failed by host."""
    report: dict[str, Any] = json.loads(cluster.inv("k8s.bootstrap --json", file, code=FAILED, patience=LONG_S).stdout)
    found = {name: failure["message"] for name, failure in report["failures"].items()}
    for name, message in found.items():
        tell(f"{name}: {message}")
    return found


def test_a_bundle_with_a_wrong_sum_is_told_before_anything_is_sent(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = other_bundle(tmp_path_factory.mktemp("wrong"), right_sum=False)
    ended = cluster.inv("k8s.bootstrap", with_bundle(cluster, bundle), code=USAGE)
    tell(ended.stderr.strip())
    assert "images/pause.tar: found the sum " in ended.stderr
    for name in NODES:
        assert cluster.lab.host_run(name, "ls /var/lib/isthmus-kubernetes").returncode != 0


def test_too_little_memory_is_told(cluster: Cluster) -> None:
    """Ours reads /proc/meminfo; kubeadm asks the kernel, which on a lab's host speaks of the whole machine."""
    little = "sed 's/^MemTotal:.*/MemTotal: 1048576 kB/' /proc/meminfo >/run/meminfo"
    cluster.said("n1", f"{little} && mount --bind /run/meminfo /proc/meminfo")
    try:
        ended = cluster.inv("check.k8s", code=FAILED)
    finally:
        cluster.said("n1", "umount /proc/meminfo")
    assert "n1: ERROR memory: 1024 MB, expected 1700 on a control plane" in ended.stdout.splitlines()
    cluster.inv("check.k8s", code=OK)


def test_an_image_that_kubeadm_wants_and_no_source_has_is_told(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = other_bundle(tmp_path_factory.mktemp("other"), right_sum=True)
    found = failures(cluster, with_bundle(cluster, bundle))
    shutil.rmtree(bundle)
    assert found.pop("n1").startswith("kubeadm wants registry.k8s.io/pause:3")
    assert all(words.startswith("still to be done: join") for words in found.values())
    assert cluster.lab.host_run("n1", "ls /etc/kubernetes/admin.conf").returncode != 0


def test_full_disks_are_told_and_the_others_finished_and_with_room_they_are_too(cluster: Cluster) -> None:
    """s1 has no room from the start, on n2 it ends in the middle; both have the images on a disk of their own."""
    for name, size in (("s1", "256m"), ("n2", "6g")):
        new = f"mount -t tmpfs -o size={size} images {IMAGES}"
        cluster.said(name, f"systemctl stop containerd && {new} && systemctl start containerd")
    assert "s1: disk: 256 MB free below /var/lib" in cluster.inv("check.k8s").stdout
    with cluster.planted("ctr", FILLS, "n2"):
        found = failures(cluster)
    assert set(found) == {"n2", "s1"}
    assert found["s1"].startswith("25")
    assert "MB free below /var/lib, expected" in found["s1"]
    assert "no space left on device" in found["n2"]
    assert cluster.kubectl("get nodes -o name") == "node/n1"
    cluster.said("n2", f"mount -o remount,size=6g {IMAGES}")
    cluster.said("s1", f"systemctl stop containerd && umount {IMAGES} && systemctl start containerd")
    report = cluster.bootstrap()
    assert all(node["ready"] for node in report["nodes"].values())
    cluster.pods_reach_each_other()
    cluster.nothing_left()
    for name in NODES:
        assert cluster.said(name, "dpkg --audit; ls /var/lib/isthmus-kubernetes") == ""
