"""k8s.bootstrap killed with SIGKILL in each of its phases but cleaning up; the run after the last finds it done.

Each moment is one that is seen on a host, or read from what the run says, so that it is the phase it is called by,
however busy the machine is. What a killed run had begun on hosts comes to its end there; where that is more than the
next moment can bear, it is taken off again first.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from dataclasses import dataclass

import pytest
from promises import OK
from test_kubernetes import LONG_S, NODES, Cluster, cluster, tell
from workstation import until

pytestmark = [pytest.mark.lab, pytest.mark.bundle]
__all__ = ["cluster"]

OURS = "/var/lib/isthmus-kubernetes"
NO_IMAGES = "ctr -n k8s.io images rm --sync $(ctr -n k8s.io images ls -q) >/dev/null"
BEGUN = f"[ -s {OURS}/unfinished ]"
HALF = rf"find {OURS}/bundle -regex '.*\.\(deb\|tar\)\.[0-9]+' | grep ."
RESET, UNMARK = "k8s.reset", "k8s.taint"
"""What is done before a run instead of a command on its host: the cluster is ended, or a label taken off s1."""


@dataclass(frozen=True)
class Moment:
    """When to kill: once the run says `said`, and then once `seen`, a shell condition, is true on `host`."""

    phase: str
    host: str = "n1"
    said: str = ""
    seen: str = ""
    before: str = ""
    """What is done on the host before the run, so that it comes to this."""


MOMENTS = (
    Moment("send: a file is half there", "n1", seen=HALF),
    Moment("send: a host fetches from another", "n2", seen=HALF),
    Moment("prepare: packages", "n2", seen="pgrep -x dpkg"),
    Moment("prepare: files", "s1", seen="[ -e /etc/crictl.yaml ]", before="rm -f /etc/crictl.yaml"),
    Moment("prepare: images", "s1", seen="pgrep -x ctr && ctr -n k8s.io images ls -q | grep .", before=NO_IMAGES),
    Moment("initialise: early", "n1", seen=f"{BEGUN} && ! [ -e /etc/kubernetes/manifests/etcd.yaml ]"),
    Moment("initialise: late", "n1", seen=f"{BEGUN} && [ -e /etc/kubernetes/manifests/etcd.yaml ]", before=RESET),
    Moment("apply flannel", "n1", seen="pgrep -f '[k]ubectl apply'"),
    Moment("join: tokens are minted", "n1", seen="ls /run/isthmus-kubernetes.*/token"),
    Moment("join: kubeadm joins", "s1", seen=f"{BEGUN} && ls /run/isthmus-kubernetes-join.*/join.yaml"),
    Moment("label and taint", "n1", seen="pgrep -f '[k]ubectl label'"),
    Moment("wait until all is ready", "n1", seen="pgrep -f '[k]ubectl wait'", before=UNMARK),
    Moment("ask pods", "n1", said="n1: waiting for a pod", before=UNMARK),
)


def kill(cluster: Cluster, moment: Moment) -> None:
    """Run a bootstrap and kill it at this moment; fails where it comes to its end before."""
    if moment.before == RESET:
        cluster.inv("k8s.reset --yes", code=OK, patience=LONG_S)
    elif moment.before == UNMARK:
        cluster.kubectl("label node s1 topology.kubernetes.io/zone-")
    elif moment.before:
        cluster.said(moment.host, moment.before)
    process = cluster.start(cluster.command("k8s.bootstrap"))
    try:
        assert heard(process, moment.said), f"{moment.phase}: the run never said {moment.said}"
        deadline = time.monotonic() + LONG_S
        while moment.seen and cluster.lab.host_run(moment.host, moment.seen).returncode:
            assert process.poll() is None, f"{moment.phase}: the run was over: {process.communicate()}"
            assert time.monotonic() < deadline, moment.phase
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL, moment.phase


def heard(process: subprocess.Popen[str], words: str) -> bool:
    """Return whether a run says these words, sooner or later."""
    assert process.stderr is not None
    return not words or any(words in line for line in process.stderr)


def halves(cluster: Cluster) -> dict[str, str]:
    """Return what is left on hosts of packages half installed, files half sent, secrets and servers of the bundle."""
    script = f"""dpkg --audit
        ls -d /run/isthmus-kubernetes[-.]*/ {OURS}/bundle {OURS}/unfinished /etc/*.isthmus-new /etc/*/*.isthmus-new
        pgrep -a perl
    """
    found = {name: cluster.lab.host_run(name, script).stdout for name in NODES}
    return {name: text for name, text in found.items() if text}


def test_a_bootstrap_is_killed_in_each_of_its_phases_and_the_next_run_ends_it(cluster: Cluster) -> None:
    assert len(MOMENTS) >= 10
    for moment in MOMENTS:
        kill(cluster, moment)
        tell(f"killed: {moment.phase}")
    report = cluster.bootstrap()
    tell(f"seconds of the run that came to its end: {json.dumps(report['seconds'])}")
    assert all(node["ready"] for node in report["nodes"].values())
    cluster.pods_reach_each_other()
    cluster.nothing_left()
    assert cluster.kubectl("get nodes -l topology.kubernetes.io/zone=shanghai -o name") == "node/s1"
    # A server of the bundle whose workstation is gone ends when nobody has asked it for some minutes.
    until(lambda: not halves(cluster), lambda: f"nothing half-done: {halves(cluster)}")
    tokens = cluster.said("n1", "kubeadm token list").splitlines()[1:]
    tell(f"{len(tokens)} tokens of killed runs are there, and end by themselves")
    assert not [line for line in tokens if "forever" in line]
