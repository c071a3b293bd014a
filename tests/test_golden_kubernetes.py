"""kubeadm's, containerd's, flannel's and the Services' texts of every case in golden_kubernetes/.

After a wanted change run `UPDATE_GOLDEN=1 pytest tests/test_golden_kubernetes.py`, then READ THE DIFF.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import bundles
import pytest

from isthmus.inventory import load_inventory
from isthmus.kubernetes.bundle import parse_bundle
from isthmus.kubernetes.cluster import cluster_of
from isthmus.kubernetes.configs import (
    HEADER,
    balancer_files,
    check_manifest,
    host_files,
    init_config,
    join_config,
    manifests,
    sum_of,
    upload_config,
)

GOLDEN = Path(__file__).parent / "golden_kubernetes"
CASES = sorted(folder.name for folder in GOLDEN.iterdir())


def rendered(case: str) -> dict[str, str]:
    cluster = cluster_of(load_inventory(GOLDEN / case / "hosts.toml"))
    bundle = parse_bundle(bundles.text(), "bundle.toml", cluster)
    texts = {f"host{path}": file.text for path, file in host_files(cluster, bundle).items()}
    texts["init.yaml"] = init_config(cluster, bundle.kubernetes)
    for node in cluster.nodes.values():
        texts.update({f"balancer{path}": file.text for path, file in balancer_files(cluster, node).items()})
        key = "KEY" if node.control_plane else ""
        if node != cluster.control_plane:
            texts[f"join-{node.name}.yaml"] = join_config(cluster, node, "TOKEN", "sha256:HASH", key)
    if cluster.has_balancers:
        texts["upload-certs-n2.yaml"] = upload_config(cluster, cluster.nodes["n2"], bundle.kubernetes, "KEY")
    for name, text in manifests(cluster, bundle).items():
        texts[f"{name.replace('/', '.').replace(' ', '-')}.yaml"] = text
    texts["check-pods.yaml"] = check_manifest(bundle.check)
    return texts


@pytest.mark.parametrize("case", CASES)
def test_the_texts_are_the_expected_ones_and_no_others(case: str) -> None:
    texts = rendered(case)
    folder = GOLDEN / case / "expected"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    expected = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert sorted(texts) == sorted(expected)
    for path, text in texts.items():
        assert text == expected[path], path


@pytest.mark.parametrize("case", CASES)
def test_what_stays_on_a_host_says_whose_it_is(case: str) -> None:
    for path, text in rendered(case).items():
        if path.startswith(("host/", "balancer/")):
            assert text.splitlines()[0] == HEADER, path


def test_a_sum_changes_with_what_it_is_of() -> None:
    sums = {case: sum_of(rendered(case)["DaemonSet-kube-flannel.isthmus-flannel.yaml"]) for case in CASES}
    assert all(len(digest) == 64 for digest in sums.values())
    assert sums["other_settings"] != sums["article"] == sums["three_planes"]
