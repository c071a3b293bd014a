"""Three control planes go from one minor of Kubernetes to the next, while the API is asked all the time.

Like test_kubernetes_upgrade.py with two bundles, ISTHMUS_BUNDLE's and the older one of ISTHMUS_BUNDLE_BEFORE.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from promises import OK
from test_kubernetes import tell
from test_kubernetes_planes import MOST_S, NODES, PLANES, Planes, planes_text
from test_kubernetes_upgrade import Cluster as Upgrading

from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions

pytestmark = [pytest.mark.lab, pytest.mark.bundle("ISTHMUS_BUNDLE_BEFORE")]


class Cluster(Planes, Upgrading):
    """The workstation of a cluster of three control planes, with two versions to choose from."""

    def versions(self) -> dict[str, str]:
        """Return the version that each node's kubelet runs."""
        template = r'jsonpath={range .items[*]}{.metadata.name} {.status.nodeInfo.kubeletVersion}{"\n"}{end}'
        return dict(line.split(" v") for line in self.kubectl(f"get nodes -o '{template}'").splitlines())


@pytest.fixture(scope="module")
def cluster(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    folder = tmp_path_factory.mktemp("planes-upgrade")
    (folder / "hosts.toml").write_text(planes_text(), encoding="utf-8")
    options = HostOptions(packages=True, kubernetes=True)
    cluster = Cluster(lab(load_inventory(folder / "hosts.toml"), options), folder, planes_text())
    before = cluster.use("ISTHMUS_BUNDLE_BEFORE")
    cluster.inv("mesh.up", code=OK)
    cluster.bootstrap()
    assert cluster.versions() == dict.fromkeys(NODES, before)
    return cluster


def test_three_control_planes_are_upgraded_one_by_one_and_the_api_stays(cluster: Cluster) -> None:
    target = cluster.use("ISTHMUS_BUNDLE")
    with cluster.asking("s1", "n3") as gaps:
        report = cluster.upgrade()
    tell(f"seconds of an upgrade of three control planes and a worker: {json.dumps(report['seconds'])}")
    tell(f"longest seconds without an answer of the API meanwhile: {json.dumps(gaps)}")
    assert cluster.versions() == dict.fromkeys(NODES, target)
    cluster.all_ready()
    assert cluster.members() == list(PLANES)
    # A worker's new connections. What is kept, and a control plane's own API while kubeadm exchanges it, are only
    # printed: they wait for kubeadm, and for the request's own limit where an API does not tell that its etcd is gone.
    anew = [gap for title, gap in gaps.items() if title.startswith("s1, a connection anew to api.")]
    assert len(anew) == 1
    assert anew[0] < MOST_S, gaps
    cluster.inv("k8s.plan", code=OK)
    assert cluster.upgrade()["changed"] == []
