"""Three control planes with the real kubeadm and etcd, one of them killed, removed and joined again.

Like test_kubernetes.py one story, with a bundle that ISTHMUS_BUNDLE names.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from promises import FAILED, OK
from test_kubernetes import LONG_S, Cluster, tell
from workstation import ROOT, until

from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions

pytestmark = [pytest.mark.lab, pytest.mark.bundle]

PLANES = ("n1", "n2", "n3")
NODES = (*PLANES, "s1")
API, SERVICE = "api.isthmus.internal:6443", "10.96.0.1"
"""By the name, as nodes do; by the Service, as pods do, whose dead end is Kubernetes' own to find: only printed."""
BOTH = 'roles   = ["control-plane", "worker"]\n'
MOST_S = 10
"""So long may an API call be without an answer, says the issue; clients try again."""
ASK = """
import http.client, json, os, ssl, sys, time
node, kept, name = sys.argv[1], sys.argv[2] == "kept", sys.argv[3]
context = ssl.create_default_context(cafile="/etc/kubernetes/pki/ca.crt")
context.load_cert_chain("/var/lib/kubelet/pki/kubelet-client-current.pem")
last, longest, asked, connection = time.monotonic(), 0.0, 0, None
while os.path.exists("/tmp/go"):
    try:
        if connection is None:
            # A kept connection waits as long as the kubelet's: until it is ended for it.
            seconds = 60 if kept else 2
            connection = http.client.HTTPSConnection(name, timeout=seconds, context=context)
        connection.request("GET", "/api/v1/nodes/" + node)
        answer = connection.getresponse()
        if json.load(answer)["kind"] == "Node":
            asked, longest, last = asked + 1, max(longest, time.monotonic() - last), time.monotonic()
        if not kept:
            connection.close()
            connection = None
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        connection = None
    time.sleep(0.2)
print(json.dumps([asked, max(longest, time.monotonic() - last)]))
"""
"""As the kubelet: by the API's name, with its certificate, its own Node from etcd; says how long it had no answer."""


class Planes(Cluster):
    """The workstation, with the cluster's admin on whichever control plane the test names."""

    asked = "n1"

    def kubectl(self, line: str, text: str | None = None) -> str:
        """Return what kubectl prints; it must end 0."""
        command = f"kubectl --kubeconfig /etc/kubernetes/admin.conf {line}"
        result = self.lab.host_run(self.asked, command, text=text, timeout=LONG_S)
        assert result.returncode == 0, f"{line}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    def members(self) -> list[str]:
        """Return the names of etcd's members, "" for one that has not begun."""
        pki = "/etc/kubernetes/pki/etcd"
        keys = f"--cacert {pki}/ca.crt --cert {pki}/healthcheck-client.crt --key {pki}/healthcheck-client.key"
        listed = self.kubectl(f"exec -n kube-system etcd-{self.asked} -- etcdctl {keys} member list")
        return sorted(line.split(", ")[2] for line in listed.splitlines())

    def all_ready(self) -> None:
        """Every node is Ready and every pod of the system, within the patience of the lab."""
        until(lambda: self.inv("k8s.status").returncode == OK, "every node to be ready")
        assert self.members() == list(PLANES)

    @contextmanager
    def asking(self, *hosts: str) -> Iterator[dict[str, float]]:
        """While inside, these hosts ask the API; afterwards the longest time without an answer is told, by asker."""
        gaps: dict[str, float] = {}
        askers = {}
        for host in hosts:
            self.lab.host_run(host, "cat >/tmp/ask.py; touch /tmp/go", text=ASK)
            # A balancer hands connections out in turn: of three that are kept one leads to the victim.
            kept = len(PLANES) if host not in PLANES else 1
            for number, (kind, name) in enumerate([("anew", API), *[("kept", API)] * kept, ("anew", SERVICE)]):
                command = self.lab.host_command(host, f"exec python3 /tmp/ask.py {host} {kind} {name}")
                title = f"{host}, a connection {kind} to {name.partition(':')[0]} ({number})"
                askers[title] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                time.sleep(0.1)
        try:
            time.sleep(3)
            yield gaps
        finally:
            for host in hosts:
                self.lab.host_run(host, "rm /tmp/go")
            for title, asker in askers.items():
                output, _ = asker.communicate(timeout=LONG_S)
                asked, gaps[title] = json.loads(output)
                assert asked > 5, title


def planes_text() -> str:
    """Return hosts.toml with three control planes in Nanjing; N2 is its gateway, so N1 may die alone."""
    text = (ROOT / "hosts.toml").read_text(encoding="utf-8")
    for old, new in (
        ('roles   = ["control-plane"]\n', BOTH),
        ('public  = "203.0.113.2" ', f'{BOTH}public  = "203.0.113.2" '),
        ('address = "172.16.0.3"\n', f'address = "172.16.0.3"\n{BOTH}'),
        ('gateways = ["n1"]', 'gateways = ["n2"]'),
    ):
        assert old in text, old
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def cluster(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Planes:
    folder = tmp_path_factory.mktemp("planes")
    text = f'{planes_text()}bundle         = "{Path(os.environ["ISTHMUS_BUNDLE"]).resolve()}"\n'
    (folder / "hosts.toml").write_text(text, encoding="utf-8")
    options = HostOptions(packages=True, kubernetes=True)
    cluster = Planes(lab(load_inventory(folder / "hosts.toml"), options), folder, text)
    cluster.inv("mesh.up", code=OK)
    return cluster


def test_bare_hosts_become_a_cluster_of_three_control_planes(cluster: Planes) -> None:
    report = cluster.bootstrap()
    tell(f"seconds of a bootstrap with three control planes: {json.dumps(report['seconds'])}")
    assert sorted(report["nodes"]) == sorted(NODES)
    cluster.all_ready()
    pairs = cluster.json("check.pods", code=OK)["pairs"]
    assert len(pairs) == len(NODES) * (len(NODES) + 1)


def test_a_second_bootstrap_changes_nothing(cluster: Planes) -> None:
    cluster.nothing_left()


def test_workers_ask_through_their_balancer_and_nothing_secret_is_left(cluster: Planes) -> None:
    assert cluster.said("s1", "getent ahostsv4 api.isthmus.internal | awk '{ print $1; exit }'") == "127.0.0.1"
    assert cluster.said("s1", "systemctl is-active isthmus-api") == "active"
    assert cluster.lab.host_run("s1", "systemctl is-active haproxy").stdout.strip() == "inactive"
    for name in PLANES:
        assert cluster.lab.host_run(name, "command -v haproxy").returncode != 0
        assert cluster.said(name, "ls -d /run/isthmus-kubernetes[-.]*/ 2>/dev/null || true") == ""
        assert cluster.said(name, "grep -lE '[0-9a-f]{64}' /run/isthmus-kubernetes.log | wc -l") in ("0", "1")
    assert cluster.kubectl("get secret -n kube-system kubeadm-certs --ignore-not-found") == ""
    assert cluster.said("n1", "kubeadm token list") == ""


@pytest.mark.parametrize("victim", ["n3", "n1"])
def test_a_control_plane_that_is_killed_is_not_missed_for_long(cluster: Planes, victim: str) -> None:
    """Its power is cut; N1 is the one that initialised the cluster."""
    survivor = next(name for name in ("n3", "n1") if name != victim)
    cluster.asked = survivor
    with cluster.asking("s1", "n2", survivor) as gaps:
        cluster.lab.stop(victim, hard=True)
        time.sleep(25)
        listed = cluster.inv('k8s.kubectl "get nodes -o name"', code=OK).stdout
        assert f"node/{victim}" in listed
        assert cluster.inv("k8s.status", code=FAILED).stderr.count(victim)
        cluster.bootstrap("--only s1", code=OK)
    for asker, seconds in gaps.items():
        tell(f"{victim} killed; {asker}: longest time without an answer {seconds:.1f} s")
    cluster.lab.start(victim)
    cluster.all_ready()
    cluster.nothing_left()
    assert max(seconds for asker, seconds in gaps.items() if SERVICE not in asker) < MOST_S


def test_a_control_plane_that_is_also_the_gateway_is_killed(cluster: Planes) -> None:
    """Another site first waits for the second gateway: both promises together. How long is printed."""
    cluster.beside(cluster.file.name, ('gateways = ["n2"]', 'gateways = ["n2", "n1"]'))
    cluster.inv("mesh.up", code=OK)
    time.sleep(15)  # a watcher that has just started takes no charge for ten seconds
    cluster.asked = "n3"
    with cluster.asking("s1", "n1", "n3") as gaps:
        cluster.lab.stop("n2", hard=True)
        time.sleep(40)
    for asker, seconds in gaps.items():
        tell(f"n2, the gateway, killed; {asker}: longest time without an answer {seconds:.1f} s")
    cluster.lab.start("n2")
    until(lambda: cluster.inv("mesh.plan").returncode == OK, "n2 to be in charge again")
    cluster.all_ready()
    by_name = {asker: seconds for asker, seconds in gaps.items() if SERVICE not in asker}
    assert max(seconds for asker, seconds in by_name.items() if not asker.startswith("s1")) < MOST_S
    assert max(by_name.values()) < 2 * MOST_S


def test_the_one_that_initialised_is_removed_and_joins_again(cluster: Planes) -> None:
    cluster.asked = "n2"
    said = cluster.inv("k8s.remove n1", code=OK, patience=LONG_S)
    assert "the control planes n2, n3 are left" in said.stderr
    assert cluster.members() == ["n2", "n3"]
    assert "n1" not in cluster.kubectl("get nodes -o name")
    assert cluster.states()["n1"] == "clean"
    report = cluster.bootstrap()
    assert "initialise the control plane" not in report["seconds"]
    cluster.all_ready()
    cluster.nothing_left()
    pairs = cluster.json("check.pods", code=OK)["pairs"]
    assert len(pairs) == len(NODES) * (len(NODES) + 1)


def test_a_reset_leaves_all_hosts_clean(cluster: Planes) -> None:
    cluster.inv("k8s.reset --yes", code=OK, patience=LONG_S)
    assert set(cluster.states().values()) == {"clean"}
    assert cluster.lab.host_run("s1", "ls /etc/isthmus-kubernetes").returncode != 0
    cluster.inv("mesh.plan", code=OK)


def test_one_becomes_three_and_a_join_that_is_cut_short_is_resumed(cluster: Planes) -> None:
    """N3's power is cut as soon as etcd counts it, and the run is killed: half a control plane is left."""
    three = cluster.file.read_text(encoding="utf-8")
    first, *others = three.split(BOTH)
    cluster.file.write_text(f"{first}{BOTH}{''.join(others)}", encoding="utf-8")
    cluster.asked = "n1"
    cluster.bootstrap()
    assert cluster.members() == ["n1"]
    assert cluster.said("s1", "getent ahostsv4 api.isthmus.internal | awk '{ print $1; exit }'") == "172.16.0.1"
    cluster.file.write_text(three, encoding="utf-8")
    assert "`inv k8s.remove n2` first" in cluster.bootstrap(code=FAILED)["failures"]["n2"]["message"]
    for name in ("n2", "n3"):
        cluster.inv(f"k8s.remove {name}", code=OK, patience=LONG_S)
    process = cluster.start(cluster.command("k8s.bootstrap"))
    assert process.stderr is not None
    assert any("n3: kubeadm join" in line for line in process.stderr)

    def counted() -> bool:
        with suppress(AssertionError):  # etcd may be choosing its leader
            return len(cluster.members()) == len(PLANES)
        return False

    until(counted, "etcd to count n3")
    cluster.lab.stop("n3", hard=True)
    process.kill()
    process.communicate()
    cluster.lab.start("n3")
    assert cluster.states()["n3"] == "half-joined"
    report = cluster.bootstrap()
    tell(f"seconds of the bootstrap that ended it: {json.dumps(report['seconds'])}")
    cluster.all_ready()
    assert cluster.said("s1", "getent ahostsv4 api.isthmus.internal | awk '{ print $1; exit }'") == "127.0.0.1"
    cluster.nothing_left()
    cluster.json("check.pods", code=OK)
