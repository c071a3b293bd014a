"""From one minor of Kubernetes to the next with the real kubeadm, on the lab's hosts.

The newer bundle is ISTHMUS_BUNDLE's, the older one ISTHMUS_BUNDLE_BEFORE's; without both these tests are skipped,
each by its name. They are one story: they share a cluster, and each finds it as the one before has left it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from promises import FAILED, OK, USAGE, WAITING
from workstation import ROOT, Admin

from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions

pytestmark = [pytest.mark.lab, pytest.mark.bundle("ISTHMUS_BUNDLE_BEFORE")]

LONG_S = 2400
"""So long may an upgrade take on a machine that many share; what it took is printed."""
NODES = ("n1", "n2", "s1")
MOMENTS = (
    ("n1: kubeadm upgrade apply", 5),
    ("n1: draining", 1),
    ("n1: installing packages", 1),
    ("n1: waiting until it is ready", 0),
    ("n2: kubeadm upgrade node", 0),
)
"""What a run says before it is killed, and how many seconds before; what it had begun on hosts comes to its end."""
WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 10
      tolerations: [{key: zone, operator: Exists}]
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: "isthmus.test/toolbox:1"
        command: [sh, -c, "mkdir -p /tmp/www; echo well >/tmp/www/w; exec httpd -f -p 8080 -h /tmp/www"]
        readinessProbe: {httpGet: {path: /w, port: 8080}, periodSeconds: 1}
        lifecycle: {preStop: {exec: {command: [sleep, "5"]}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: web}}
"""
ASK = """
n=0; lost=0
while [ -e /run/asking ]; do
    n=$((n + 1))
    said=$(timeout 2 perl -e '
        use Socket; socket(my $s, PF_INET, SOCK_STREAM, 0); connect($s, sockaddr_in(80, inet_aton($ARGV[0]))) or exit 1;
        syswrite $s, "GET /w HTTP/1.0\\r\\n\\r\\n"; local $/; print <$s>' ADDRESS)
    case $said in *well*) ;; *) lost=$((lost + 1)) ;; esac
    sleep 0.1
done
echo $n $lost
"""
"""Asks the Service from a host, about ten times a second: no pod of its own that a drain would move."""


def tell(line: str) -> None:
    """Say a number on the terminal with `pytest -s`, or in a failed test's output."""
    sys.stdout.write(f"\n{line}\n")


@dataclass
class Requests:
    """What became of requests, filled when they have ended."""

    sent: int = 0
    lost: int = 0


class Cluster(Admin):
    """The workstation, with the cluster's admin on n1."""

    def kubectl(self, line: str, text: str | None = None) -> str:
        """Return what kubectl prints; it must end 0. Asked on the host itself: the program is not what is tested."""
        command = f"kubectl --kubeconfig /etc/kubernetes/admin.conf {line}"
        result = self.lab.host_run("n1", command, text=text, timeout=LONG_S)
        assert result.returncode == 0, f"{line}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    def use(self, variable: str) -> str:
        """Have hosts.toml ask for what a bundle has, and return its version."""
        folder = Path(os.environ[variable]).resolve()
        found = re.search(r'^kubernetes = "(.+)"$', (folder / "bundle.toml").read_text(encoding="utf-8"), re.MULTILINE)
        assert found is not None
        version = found[1]
        text = self.file.read_text(encoding="utf-8")
        text = re.sub(r"^version .*$", f'version = "{version}"', text, flags=re.MULTILINE)
        text = re.sub(r"^bundle .*\n", "", text, flags=re.MULTILINE) + f'bundle = "{folder}"\n'
        self.file.write_text(text, encoding="utf-8")
        return version

    def upgrade(self, flags: str = "", code: int = OK) -> Any:
        """Run it and return what it printed as JSON."""
        return json.loads(self.inv(f"k8s.upgrade --json {flags}", code=code, patience=LONG_S).stdout)

    def killed(self, moment: str, delay: float) -> None:
        """Run an upgrade, and kill it some seconds after it has said something."""
        process = self.start(self.command("k8s.upgrade"))
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if moment in line:
                break
        else:
            raise AssertionError(f"it never said {moment!r}: {''.join(said)}")
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    def nodes(self) -> dict[str, Any]:
        """Return the Nodes by name."""
        return {node["metadata"]["name"]: node for node in json.loads(self.kubectl("get nodes -o json"))["items"]}

    def versions(self) -> dict[str, str]:
        """Return the version that every Ready node reports."""
        found = {}
        for name, node in self.nodes().items():
            conditions = {one["type"]: one["status"] for one in node["status"]["conditions"]}
            ready = conditions["Ready"] == "True"
            found[name] = node["status"]["nodeInfo"]["kubeletVersion"].removeprefix("v") if ready else "not ready"
        return found

    def cordoned(self) -> list[str]:
        """Return the nodes that are cordoned."""
        return [name for name, node in self.nodes().items() if node["spec"].get("unschedulable")]

    def images(self) -> set[str]:
        """Return the images of the system's pods."""
        listed = "-o jsonpath='{range .items[*]}{.spec.containers[*].image}{\"\\n\"}{end}'"
        return set(self.kubectl(f"get pods -n kube-system {listed}").split())

    @contextmanager
    def asking(self) -> Iterator[Requests]:
        """While inside, n1 asks the Service."""
        requests = Requests()
        script = ASK.replace("ADDRESS", self.kubectl("get service web -o jsonpath={.spec.clusterIP}"))
        self.said("n1", "touch /run/asking")
        command = self.lab.host_command("n1", ["sh", "-c", script])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield requests
            finally:
                self.said("n1", "rm -f /run/asking")
            output, _ = process.communicate(timeout=LONG_S)
        requests.sent, requests.lost = map(int, output.split())

    def is_new(self, version: str) -> None:
        """Every node and all of the system runs the version; the certificates are new; nothing is left to do."""
        assert self.versions() == dict.fromkeys(NODES, version)
        kube = {image for image in self.images() if "/kube-" in image}
        assert {image.rpartition(":v")[2] for image in kube} == {version}
        assert len(kube) == 4
        for name in NODES:
            assert version in self.said(name, "kubeadm version -o short")
            assert self.said(name, "apt-mark showhold | wc -l") == "6"
            assert self.said(name, "ls -A /var/lib/isthmus-kubernetes") == ""
        annotations = {key for node in self.nodes().values() for key in node["metadata"]["annotations"]}
        assert not [key for key in annotations if "upgrade" in key]
        self.inv("k8s.plan", code=OK)
        again = self.upgrade()
        assert (again["changed"], again["upgrade"]["nodes"], again["notes"]) == ([], [], [])
        self.inv("k8s.status", code=OK)
        self.inv("mesh.plan", code=OK)


@pytest.fixture(scope="module")
def cluster(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """N1, N2 and S1 in the older version; N3 is left out to save memory. Web is a Deployment of two."""
    folder = tmp_path_factory.mktemp("kubernetes")
    text = re.sub(r"\[hosts\.n3\]\n(?:.+\n)+\n", "", (ROOT / "hosts.toml").read_text(encoding="utf-8"))
    (folder / "hosts.toml").write_text(text, encoding="utf-8")
    options = HostOptions(packages=True, kubernetes=True)
    cluster = Cluster(lab(load_inventory(folder / "hosts.toml"), options), folder, text)
    old = cluster.use("ISTHMUS_BUNDLE_BEFORE")
    cluster.inv("mesh.up", code=OK)
    cluster.inv("k8s.bootstrap", code=OK, patience=LONG_S)
    assert cluster.versions() == dict.fromkeys(NODES, old)
    return cluster


def test_plan_and_bootstrap_say_that_it_is_an_upgrade_and_touch_nothing(cluster: Cluster) -> None:
    old = cluster.versions()["n1"]
    new = cluster.use("ISTHMUS_BUNDLE")
    for command in ("k8s.plan", "k8s.bootstrap"):
        said = cluster.inv(command, code=FAILED).stderr
        assert f"n2: runs kubelet {old}-1.1, the bundle has {new}: `inv k8s.upgrade` upgrades it" in said
    said = cluster.inv("k8s.upgrade --dry-run", code=WAITING).stdout
    tell(said)
    assert f"n1: {old} to {new}\n" in said
    assert cluster.versions() == dict.fromkeys(NODES, old)
    cluster.use("ISTHMUS_BUNDLE_BEFORE")
    cluster.inv("k8s.plan", code=OK)
    cluster.inv("k8s.upgrade --drain-timeout 1", code=USAGE)


def test_a_pod_that_nothing_would_bring_back_is_told_before_anything_is_touched(cluster: Cluster) -> None:
    cluster.use("ISTHMUS_BUNDLE")
    alone = """
apiVersion: v1
kind: Pod
metadata: {name: alone}
spec:
  nodeName: n2
  terminationGracePeriodSeconds: 0
  containers: [{name: one, image: "isthmus.test/toolbox:1"}]
"""
    cluster.kubectl("apply -f -", alone)
    said = cluster.inv("k8s.upgrade --dry-run", code=FAILED).stderr
    assert "cannot delete Pods that declare no controller: default/alone" in said
    assert "n2: " in said
    cluster.kubectl("delete pod alone")
    assert cluster.cordoned() == []


def test_a_killed_upgrade_a_budget_and_a_cordon_and_the_cluster_runs_the_next_version(cluster: Cluster) -> None:
    """SIGKILL at each moment, one run after the other; then a PodDisruptionBudget, and then nothing in the way."""
    old, new = cluster.versions()["n1"], cluster.use("ISTHMUS_BUNDLE")
    cluster.kubectl("apply -f -", WEB)
    cluster.kubectl("rollout status deployment/web --timeout=300s")
    where = sorted(cluster.kubectl("get pods -l app=web -o jsonpath='{.items[*].spec.nodeName}'").split())
    assert where == ["n2", "s1"]
    certificate = "sha256sum /etc/kubernetes/pki/apiserver.crt"
    old_certificate = cluster.said("n1", certificate)
    with cluster.asking() as requests:
        began = time.monotonic()
        for moment, delay in MOMENTS:
            cluster.killed(moment, delay)
        # n2's turn: its pods may not leave.
        patch = '{"spec": {"minAvailable": 2}}'
        cluster.kubectl(f"patch pdb web --type merge -p '{patch}'")
        failed = cluster.upgrade("--drain-timeout 20", code=FAILED)
        said = failed["failures"]["n2"]["message"]
        tell(said)
        assert "default/web-" in said
        assert "a PodDisruptionBudget does not let them go" in said
        assert cluster.cordoned() == []
        assert cluster.versions() == {"n1": new, "n2": old, "s1": old}
        patch = '{"spec": {"minAvailable": 1}}'
        cluster.kubectl(f"patch pdb web --type merge -p '{patch}'")
        cluster.kubectl("cordon s1")
        report = cluster.upgrade()
        tell(f"with five kills and a budget in the way: {time.monotonic() - began:.0f} s")
    tell(f"seconds of the run that came to its end: {json.dumps(report['seconds'])}")
    tell(f"{requests.sent} requests to a Deployment of two while everything was upgraded, {requests.lost} lost")
    assert requests.sent > 20
    assert cluster.cordoned() == ["s1"]
    cluster.kubectl("uncordon s1")
    assert cluster.said("n1", certificate) != old_certificate
    cluster.is_new(new)
    pairs = cluster.json("check.pods", code=OK)["pairs"]
    assert len(pairs) == len(NODES) * (len(NODES) + 1)


def test_it_does_not_go_back(cluster: Cluster) -> None:
    new = cluster.versions()["n1"]
    old = cluster.use("ISTHMUS_BUNDLE_BEFORE")
    said = cluster.inv("k8s.upgrade", code=FAILED).stderr
    assert f"n1: runs {new}, the bundle has {old}: Kubernetes does not go back" in said
    cluster.use("ISTHMUS_BUNDLE")
    cluster.is_new(new)


def test_a_whole_upgrade_in_one_run_loses_few_requests(cluster: Cluster) -> None:
    """A cluster made anew in the older version, and brought to the newer one undisturbed."""
    cluster.inv("k8s.reset --yes", code=OK, patience=LONG_S)
    cluster.use("ISTHMUS_BUNDLE_BEFORE")
    cluster.inv("k8s.bootstrap", code=OK, patience=LONG_S)
    cluster.kubectl("apply -f -", WEB)
    cluster.kubectl("rollout status deployment/web --timeout=300s")
    new = cluster.use("ISTHMUS_BUNDLE")
    with cluster.asking() as requests:
        report = cluster.upgrade()
    tell(f"seconds of a whole upgrade: {json.dumps(report['seconds'])}")
    tell(f"{requests.sent} requests to a Deployment of two while everything was upgraded, {requests.lost} lost")
    assert requests.sent > 20
    cluster.is_new(new)
