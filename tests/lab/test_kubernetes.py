"""Kubernetes on the lab's hosts with the real kubeadm, kubelet, containerd, etcd, flannel and CoreDNS.

They come from the bundle whose folder ISTHMUS_BUNDLE names; without one these tests are skipped, each by its name.
The tests are one story: they share a cluster, and each finds it as the one before has left it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mariadb import mariadb
from promises import FAILED, OK, WAITING
from workstation import ROOT, Admin, until

from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions

pytestmark = [pytest.mark.lab, pytest.mark.bundle]

LONG_S = 1800
"""So long may a bootstrap take on a machine that many share; what it took is printed."""
NODES = ("n1", "n2", "s1")
S1_TAINT = "zone=shanghai:PreferNoSchedule"
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: six}
spec:
  replicas: 6
  selector: {matchLabels: {app: six}}
  template:
    metadata: {labels: {app: six}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: six, image: "isthmus.test/toolbox:1", command: [sh, -c, "echo speaking; exec sleep 100000"]}
"""
REMAINS = """
ls -d /etc/kubernetes/*.conf /etc/kubernetes/pki/* /etc/kubernetes/manifests/* /var/lib/etcd/* /var/lib/kubelet/*.yaml
ls -d /etc/cni/net.d/*flannel* /var/lib/cni /run/flannel /sys/class/net/cni0 /sys/class/net/flannel.1
pgrep -a 'kube|etcd|flanneld|coredns'
ctr -n k8s.io containers ls -q
ip -4 route | grep -E 'cni0|flannel'
mount | grep -E '/var/lib/kubelet|cni-'
"""
"""Lists what a cluster leaves on a host that was not taken off."""
POD = """
apiVersion: v1
kind: Pod
metadata: {{name: on-{node}, labels: {{app: one}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  tolerations: [{{operator: Exists}}]
  containers:
  - {{name: one, image: "isthmus.test/toolbox:1", command: [sh, -c, "echo speaking on {node}; exec sleep 100000"]}}
"""


def tell(line: str) -> None:
    """Say a number on the terminal with `pytest -s`, or in a failed test's output."""
    sys.stdout.write(f"\n{line}\n")


def asked_for(taints: list[str]) -> list[str]:
    """Return the taints that are not Kubernetes' own: it takes `not-ready` off a moment after a node is Ready."""
    return [taint for taint in taints if not taint.startswith("node.kubernetes.io/")]


class Cluster(Admin):
    """The workstation, with the cluster's admin on n1."""

    def kubectl(self, line: str, text: str | None = None) -> str:
        """Return what kubectl prints; it must end 0. Asked on the host itself: the program is not what is tested."""
        command = f"kubectl --kubeconfig /etc/kubernetes/admin.conf {line}"
        result = self.lab.host_run("n1", command, text=text, timeout=LONG_S)
        assert result.returncode == 0, f"{line}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    def bootstrap(self, flags: str = "", code: int | None = OK) -> Any:
        """Run it and return what it printed as JSON."""
        return json.loads(self.inv(f"k8s.bootstrap --json {flags}", code=code, patience=LONG_S).stdout)

    def states(self) -> dict[str, str]:
        """Return every host's state."""
        hosts = json.loads(self.inv("k8s.plan --json").stdout)["hosts"]
        return {name: host["state"] for name, host in hosts.items()}

    def where(self, app: str) -> list[str]:
        """Return the nodes on which pods of an app run."""
        listed = "-o jsonpath='{range .items[*]}{.spec.nodeName} {.status.phase}{\"\\n\"}{end}'"
        lines = [line.split() for line in self.kubectl(f"get pods -l app={app} {listed}").splitlines()]
        return sorted(words[0] for words in lines if words[1:] == ["Running"])

    def pods_reach_each_other(self) -> None:
        """Every pair of nodes and the DNS, at full packet size."""
        pairs = self.json("check.pods", code=OK)["pairs"]
        assert len(pairs) == len(NODES) * (len(NODES) + 1)
        assert {(pair["source"], pair["destination"]) for pair in pairs if pair["crossed"]} == {
            *(("n1", "s1"), ("n2", "s1"), ("s1", "n1"), ("s1", "n2")),
        }

    def clean_hosts(self) -> None:
        """Nothing of a cluster is on any host but packages and images; the mesh is as planned."""
        assert set(self.states().values()) == {"clean"}
        for name in NODES:
            assert not re.search("KUBE-|FLANNEL|CNI-", self.said(name, "iptables-save"))
            assert self.lab.host_run(name, REMAINS).stdout == ""
        self.inv("mesh.plan", code=OK)

    def nothing_left(self) -> None:
        """A second run changes nothing, and the mesh is as planned, too."""
        self.inv("k8s.plan", code=OK)
        assert self.bootstrap()["changed"] == []
        self.inv("k8s.status", code=OK)
        self.inv("mesh.plan", code=OK)


@pytest.fixture(scope="module")
def cluster(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """N1, N2 and S1 with the mesh up; N3 is left out to save memory."""
    folder = tmp_path_factory.mktemp("kubernetes")
    text = re.sub(r"\[hosts\.n3\]\n(?:.+\n)+\n", "", (ROOT / "hosts.toml").read_text(encoding="utf-8"))
    text = text.replace("port    = 3306", 'port    = 3306\nservice = "default/mysql"')
    text += f'bundle         = "{Path(os.environ["ISTHMUS_BUNDLE"]).resolve()}"\n'
    (folder / "hosts.toml").write_text(text, encoding="utf-8")
    options = HostOptions(packages=True, kubernetes=True)
    cluster = Cluster(lab(load_inventory(folder / "hosts.toml"), options), folder, text)
    cluster.inv("mesh.up", code=OK)
    return cluster


def test_bare_hosts_become_a_cluster_whose_pods_reach_each_other(cluster: Cluster) -> None:
    cluster.inv("check.k8s", code=OK)
    cluster.inv("k8s.plan", code=WAITING)
    report = cluster.bootstrap()
    tell(f"seconds of a bootstrap: {json.dumps(report['seconds'])}")
    nodes = report["nodes"]
    assert sorted(nodes) == sorted(NODES)
    addresses = {"n1": "172.16.0.1", "n2": "172.16.0.2", "s1": "172.16.128.1"}
    for name, node in nodes.items():
        assert node["ready"], name
        assert (node["address"], node["flannel"]) == (addresses[name], addresses[name])
        assert node["labels"]["topology.kubernetes.io/zone"] == ("shanghai" if name == "s1" else "nanjing")
        assert cluster.said(name, "cat /sys/class/net/flannel.1/mtu") == "1370"
    assert asked_for(nodes["s1"]["taints"]) == [S1_TAINT]
    cluster.pods_reach_each_other()


def test_a_second_bootstrap_changes_nothing(cluster: Cluster) -> None:
    began = {name: cluster.said(name, "systemctl show -P ExecMainStartTimestamp containerd kubelet") for name in NODES}
    cluster.nothing_left()
    for name in NODES:
        assert cluster.said(name, "systemctl show -P ExecMainStartTimestamp containerd kubelet") == began[name]


def test_nothing_secret_is_left_anywhere(cluster: Cluster) -> None:
    kubeconfig = cluster.file.with_name("kubeconfig")
    assert kubeconfig.stat().st_mode & 0o777 == 0o600
    assert cluster.said("n1", "kubeadm token list") == ""
    for name in NODES:
        assert cluster.said(name, "ls -d /run/isthmus-kubernetes[-.]*/ 2>/dev/null || true") == ""
        found = r"grep -rlE '\b[a-z0-9]{6}\.[a-z0-9]{16}\b' /run/isthmus-kubernetes.log /var/lib/isthmus-kubernetes"
        assert cluster.said(name, f"{found} 2>/dev/null || true") == ""


def test_six_replicas_stay_off_shanghai_and_go_there_when_told_to(cluster: Cluster) -> None:
    cluster.kubectl("apply -f -", DEPLOYMENT)
    until(lambda: len(cluster.where("six")) == 6, "six replicas")
    assert cluster.where("six") == ["n2"] * 6
    there = '{"spec": {"template": {"spec": {"nodeSelector": {"topology.kubernetes.io/zone": "shanghai"}}}}}'
    cluster.kubectl(f"patch deployment six -p '{there}'")
    until(lambda: cluster.where("six") == ["s1"] * 6, "six replicas on s1")
    cluster.kubectl("delete deployment six")


def test_logs_and_exec_work_on_every_node(cluster: Cluster) -> None:
    cluster.kubectl("apply -f -", "---".join(POD.format(node=node) for node in NODES))
    until(lambda: cluster.where("one") == sorted(NODES), "a pod on every node")
    for node in NODES:
        assert cluster.kubectl(f"logs on-{node}") == f"speaking on {node}"
        assert cluster.kubectl(f"exec on-{node} -- hostname") == f"on-{node}"


def test_a_pod_in_nanjing_finds_the_resource_by_name_and_is_seen_as_s1(cluster: Cluster) -> None:
    """The lab's resource answers every connection with the address that it sees."""
    said = cluster.kubectl("exec on-n2 -- sh -c 'timeout 20 nc mysql.default.svc.cluster.local 3306 </dev/null'")
    assert said == "172.16.128.1"


def test_a_pod_in_nanjing_queries_a_real_database_in_shanghai_as_s1(cluster: Cluster) -> None:
    """The user may come from S1's address only; the query goes by the Service, through both gateways."""
    sql = """
        CREATE DATABASE shop; CREATE TABLE shop.notes (note TEXT); INSERT INTO shop.notes VALUES ('from Shanghai');
        CREATE USER pod@'172.16.128.1' IDENTIFIED BY 'a word'; GRANT SELECT ON shop.* TO pod@'172.16.128.1';
    """.replace("\n", " ").replace("; ", ";\n")
    query = "mariadb -h mysql.default.svc.cluster.local -u pod -p'a word' -N -e 'SELECT USER(), note FROM shop.notes'"
    with mariadb(cluster.lab, "mysql", sql):
        answer = cluster.kubectl(f'exec on-n2 -- sh -c "{query}"')
    assert answer.split("\t") == ["pod@172.16.128.1", "from Shanghai"]


def test_the_mesh_changes_under_the_cluster_and_no_request_between_pods_is_lost(cluster: Cluster) -> None:
    """wg0's peers and keepalives are changed and changed back while pods ask each other across the sites."""
    address = cluster.kubectl("get pod on-s1 -o jsonpath={.status.podIP}")
    serve = "mkdir -p /tmp/www; echo well >/tmp/www/w; httpd -p 8080 -h /tmp/www"
    cluster.kubectl(f"exec on-s1 -- sh -c '{serve}'")
    ask = (
        f"touch /tmp/go; n=0; lost=0; while [ -e /tmp/go ]; do n=$((n + 1));"
        f' [ "$(timeout 20 wget -q -O - http://{address}:8080/w)" = well ] || lost=$((lost + 1)); done; echo $n $lost'
    )
    command = f"kubectl --kubeconfig /etc/kubernetes/admin.conf exec on-n2 -- sh -c '{ask}'"
    with subprocess.Popen(
        cluster.lab.host_command("n1", command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as asking:
        until(lambda: cluster.kubectl("exec on-n2 -- sh -c 'ls /tmp/go 2>/dev/null || true'") == "/tmp/go", "requests")
        try:
            for gateways in ('["n1", "n2"]', '["n1"]'):
                old = '["n1"]' if gateways != '["n1"]' else '["n1", "n2"]'
                cluster.beside(cluster.file.name, (f"gateways = {old}", f"gateways = {gateways}"))
                assert "changed" in cluster.inv("mesh.up", code=OK).stdout
            time.sleep(1)
        finally:
            cluster.kubectl("exec on-n2 -- rm /tmp/go")
        output, error = asking.communicate(timeout=LONG_S)
    sent, lost = map(int, output.split())
    tell(f"{sent} requests from pod to pod across the sites while the mesh was changed twice, {lost} lost")
    assert sent > 20, error
    assert lost == 0


def test_a_node_that_is_rebooted_comes_back(cluster: Cluster) -> None:
    cluster.lab.reboot("n2")
    until(lambda: cluster.inv("k8s.status").returncode == OK, "n2 to be back")
    until(lambda: cluster.inv("check.pods").returncode == OK, "pods to reach each other again")
    cluster.nothing_left()


def test_s1_is_removed_and_joins_again(cluster: Cluster) -> None:
    cluster.inv("k8s.remove s1", code=OK, patience=LONG_S)
    assert "s1" not in cluster.kubectl("get nodes -o name")
    assert cluster.states()["s1"] == "clean"
    rules = cluster.said("s1", "iptables-save")
    assert not re.search("KUBE-|FLANNEL|CNI-", rules)
    assert "ISTHMUS" in rules
    assert cluster.lab.host_run("s1", "ls -d /sys/class/net/cni0 /sys/class/net/flannel.1").stdout == ""
    cluster.inv("mesh.plan", code=OK)
    report = cluster.bootstrap("--only s1")
    assert asked_for(report["nodes"]["s1"]["taints"]) == [S1_TAINT]
    cluster.pods_reach_each_other()
    cluster.nothing_left()


def test_a_reset_leaves_hosts_clean_and_they_become_a_cluster_again(cluster: Cluster) -> None:
    """A reset that is killed is ended by the next one."""
    cluster.inv("k8s.reset", code=2)  # nobody said yes
    cluster.inv("k8s.reset --yes", code=OK, patience=LONG_S)
    cluster.clean_hosts()
    report = cluster.bootstrap()
    tell(f"seconds of a bootstrap after a reset: {json.dumps(report['seconds'])}")
    cluster.pods_reach_each_other()
    cluster.nothing_left()
    process = cluster.start(cluster.command("k8s.reset --yes"))
    assert process.stderr is not None
    assert any(": cleaned" in line for line in process.stderr)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    cluster.inv("k8s.reset --yes", code=OK, patience=LONG_S)
    cluster.clean_hosts()
    cluster.bootstrap()


def test_a_host_of_another_cluster_is_not_touched(cluster: Cluster) -> None:
    """Its files say another API; what is in them stays as it is."""
    conf = "/etc/kubernetes/kubelet.conf"
    cluster.said("s1", f"cp -p {conf} /root/; sed -i 's/api.isthmus.internal/other.example/' {conf}")
    before = cluster.said("s1", "find /etc/kubernetes -type f -exec sha256sum {} +")
    report = cluster.bootstrap(code=FAILED)
    assert "of another cluster: its API is https://other.example:6443" in report["failures"]["s1"]["message"]
    assert cluster.said("s1", "find /etc/kubernetes -type f -exec sha256sum {} +") == before
    cluster.said("s1", f"mv /root/kubelet.conf {conf}")
    cluster.nothing_left()
