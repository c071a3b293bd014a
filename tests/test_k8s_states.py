"""Every state that a host can be in x every command of Kubernetes, on hosts in memory: how it ends, and what is then.

The rows of TABLE are states, of s1 (a worker) or n1 (the control plane); its columns are commands. A cell is the exit
code and, of a command that may change something, the state of that host afterwards.
"""

from __future__ import annotations

from typing import Any

import pytest
from fake_cluster import DiedError, ca
from test_bootstrap import Site, _no_waiting
from test_k8s_commands import inv, site

from isthmus.cluster.leaving import reset

__all__ = ["_no_waiting", "inv", "site"]

COMMANDS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "plan": ("k8s.plan", (), {}),
    "status": ("k8s.status", (), {}),
    "kubectl": ("k8s.kubectl", ("get nodes",), {}),
    "pods": ("check.pods", (), {}),
    "k8s": ("check.k8s", (), {}),
    "bootstrap": ("k8s.bootstrap", (), {}),
    "forced": ("k8s.bootstrap", (), {"force_reset": "HOST"}),
    "taint": ("k8s.taint", (), {}),
    "remove": ("k8s.remove", ("s1",), {}),
    "reset": ("k8s.reset", (), {"yes": True}),
}
LOOKING = ("plan", "status", "kubectl", "pods", "k8s")
"""These change nothing, whatever the state. check.pods takes its pods off again."""
SHORT = {"of another cluster": "foreign", "half-joined": "half", "half-initialised": "half", "not ready": "not-ready"}
TABLE = """
                       plan status kubectl pods k8s  bootstrap       forced       taint           remove   reset
bare                   4    1      1       1    0    0:ready         0:ready      1:clean         1:clean  0:clean
prepared               4    1      1       1    0    0:ready         0:ready      1:clean         1:clean  0:clean
ready                  0    0      0       0    0    0:ready         0:ready      0:ready         0:clean  0:clean
worker_clean           4    1      0       1    0    0:ready         0:ready      1:clean         0:clean  0:clean
worker_half_joined     4    1      0       1    0    0:ready         0:ready      1:half          0:clean  0:clean
worker_half_reset      4    1      0       1    0    0:ready         0:ready      0:half          0:clean  0:clean
worker_stale           4    1      0       1    0    0:ready         0:ready      0:stale         0:clean  0:clean
worker_lost            4    1      0       1    0    0:ready         0:ready      1:lost          0:clean  0:clean
worker_not_ready       0    1      0       1    0    1:not-ready     1:not-ready  0:not-ready     0:clean  0:clean
worker_drifted         4    1      0       0    0    0:ready         0:ready      0:ready         0:clean  0:clean
worker_busy            4    1      0       1    0    1:clean         1:clean      1:clean         0:clean  0:clean
worker_foreign         1    1      0       1    1    1:foreign       0:ready      1:foreign       1:foreign 1:foreign
worker_foreign_plane   1    1      0       1    1    1:foreign       0:ready      1:foreign       1:foreign 1:foreign
worker_handmade        1    1      0       1    1    1:foreign       0:ready      1:foreign       1:foreign 1:foreign
worker_other_ca        1    1      0       1    1    1:foreign       0:ready      0:foreign       1:foreign 1:foreign
worker_off             1    1      0       1    1    1:not-ready     1:not-ready  0:not-ready     0:lost   1:not-ready
worker_without_mesh    1    1      0       1    1    1:clean         1:clean      1:clean         0:clean  0:clean
worker_older           1    1      0       0    1    1:ready         1:ready      0:ready         0:clean  0:clean
plane_half_initialised 4    1      1       1    0    0:ready         0:ready      1:half          1:half   0:clean
plane_half_reset       4    1      0       1    0    0:ready         0:ready      1:half          1:half   0:clean
plane_silent           1    1      1       1    1    1:silent        1:silent     1:silent        1:silent 0:clean
plane_foreign          1    1      1       1    1    1:foreign       0:ready      1:foreign       1:foreign 1:foreign
plane_foreign_answers  1    1      1       1    1    1:foreign       0:ready      1:foreign       1:foreign 1:foreign
plane_handmade         1    1      1       1    1    1:foreign       0:ready      1:foreign       1:foreign 1:foreign
plane_without_node     4    1      0       1    0    1:not-ready     1:not-ready  1:not-ready     0:not-ready 0:clean
plane_off              1    1      1       1    1    1:ready         1:ready      1:ready         1:ready  1:ready
"""
OFF = "no answer within 20 s"
SAID = {
    "worker_not_ready": "timed out waiting for the condition on nodes/s1",
    "worker_busy": "s1: another run is still at work here",
    "worker_foreign": "s1: of another cluster: its API is https://10.9.9.9:6443; it is left alone",
    "worker_foreign_plane": "s1: of another cluster: is a control plane; it is left alone",
    "worker_handmade": "s1: of another cluster: has pki/ca.crt that no run of ours made; it is left alone",
    "worker_other_ca": "s1: of another cluster: its cluster's CA is not that of n1; it is left alone",
    "worker_off": f"s1: {OFF}",
    "worker_without_mesh": "s1: the mesh is not up: wg0 has no address 172.16.128.1; run `inv mesh.up` first",
    "worker_older": "s1: runs kubelet 1.35.4-1.1, the bundle has 1.36.2",
    "plane_silent": "s1: the API on n1 does not answer",
    "plane_foreign": "n1: of another cluster: its API is https://10.9.9.9:6443; it is left alone",
    "plane_foreign_answers": "n1: of another cluster: its API is https://10.9.9.9:6443; it is left alone",
    "plane_handmade": "n1: of another cluster: has etcd, manifests/kube-apiserver.yaml, pki/ca.crt that no run",
    "plane_without_node": "n1: the cluster has no Node of it within 120 s",
    "plane_off": f"n1: {OFF}",
}
"""What a bootstrap says that ends with 1."""


class Made:
    """A site whose hosts are in one of the states; its methods are the rows of TABLE."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def bare(self) -> None:
        """Nothing of ours is on any host but the mesh."""

    def prepared(self) -> None:
        self.site.well()
        reset(self.site.inventory(), self.site.fleet)  # type: ignore[arg-type]

    def ready(self) -> None:
        self.site.well()

    def worker_clean(self) -> None:
        self.site.well(only=["n1", "n2", "n3"])

    def worker_half_joined(self) -> None:
        self.site.fleet["s1"].dies_in = "join:half"
        with pytest.raises(DiedError):
            self.site.up()

    def worker_half_reset(self) -> None:
        self.site.well()
        self.site.fleet["s1"].unfinished = "reset"
        self.site.kube.nodes["s1"].up = False

    def worker_stale(self) -> None:
        self.site.well()
        host = self.site.fleet["s1"]
        host.kubeadm, host.servers, host.ca = set(), [], ""
        self.site.kube.nodes["s1"].up = False

    def worker_lost(self) -> None:
        self.site.well()
        del self.site.kube.nodes["s1"]

    def worker_not_ready(self) -> None:
        self.site.well()
        self.site.kube.nodes["s1"].up = False

    def worker_drifted(self) -> None:
        self.site.well()
        self.site.kube.nodes["s1"].taints.clear()

    def worker_busy(self) -> None:
        self.worker_clean()
        self.site.fleet["s1"].busy = 10_000

    def worker_foreign(self) -> None:
        self.worker_clean()
        self.site.fleet["s1"].make_foreign()

    def worker_foreign_plane(self) -> None:
        self.worker_clean()
        self.site.fleet["s1"].make_foreign("control plane")

    def worker_handmade(self) -> None:
        self.worker_clean()
        self.site.fleet["s1"].kubeadm = {"pki/ca.crt"}

    def worker_other_ca(self) -> None:
        self.site.well()
        self.site.fleet["s1"].ca = ca("an earlier one")
        self.site.kube.nodes["s1"].up = False

    def worker_off(self) -> None:
        self.site.well()
        self.site.fleet["s1"].unreachable = OFF
        self.site.kube.nodes["s1"].up = False

    def worker_without_mesh(self) -> None:
        self.worker_clean()
        self.site.fleet["s1"].mesh_up = False

    def worker_older(self) -> None:
        self.site.well()
        self.site.fleet["s1"].packages["kubelet"] = "1.35.4-1.1"

    def plane_half_initialised(self) -> None:
        self.site.fleet["n1"].dies_in = "init:half"
        with pytest.raises(DiedError):
            self.site.up()

    def plane_half_reset(self) -> None:
        self.site.well()
        self.site.fleet["n1"].dies_in = "reset:begun"
        with pytest.raises(DiedError):
            reset(self.site.inventory(), self.site.fleet)  # type: ignore[arg-type]

    def plane_silent(self) -> None:
        self.site.well()
        self.site.kube.answers = False

    def plane_foreign(self) -> None:
        self.site.fleet["n1"].make_foreign("control plane")

    def plane_foreign_answers(self) -> None:
        """It knows hosts by the same names."""
        self.site.well()
        host = self.site.fleet["n1"]
        host.make_foreign("control plane")
        host.kubeadm.add("etcd")
        for node in self.site.kube.nodes.values():
            node.labels.clear()
        for name in ("n2", "n3", "s1"):
            other = self.site.fleet[name]
            other.kubeadm, other.servers, other.ca = set(), [], ""

    def plane_handmade(self) -> None:
        self.site.fleet["n1"].kubeadm = {"pki/ca.crt", "manifests/kube-apiserver.yaml", "etcd"}

    def plane_without_node(self) -> None:
        self.site.well()
        del self.site.kube.nodes["n1"]

    def plane_off(self) -> None:
        self.site.well()
        self.site.fleet["n1"].unreachable = OFF


def cells() -> list[tuple[str, str, str]]:
    """Return (state, command, what is expected) for all of TABLE."""
    head, *rows = (line.split() for line in TABLE.strip().splitlines())
    assert sorted(head) == sorted(COMMANDS)
    states = {name for name in vars(Made) if not name.startswith("_")}
    assert {row[0] for row in rows} == states
    return [(row[0], command, cell) for row in rows for command, cell in zip(head, row[1:], strict=True)]


@pytest.mark.parametrize(("state", "command", "expected"), cells())
def test_every_state_and_every_command(inv: Any, site: Site, state: str, command: str, expected: str) -> None:
    for node in site.fleet.hosts.values():
        node.clock -= 200 * 86_400  # certificates are young
    getattr(Made(site), state)()
    host = "n1" if state.startswith("plane_") else "s1"
    name, arguments, flags = COMMANDS[command]
    flags = {key: host if value == "HOST" else value for key, value in flags.items()}
    before = {each: str(node) for each, node in site.fleet.hosts.items()}

    said = inv(name, *arguments, **flags)

    code, _, after = expected.partition(":")
    words = said.err + said.message
    assert said.code == int(code), words
    assert "Traceback" not in words
    left = {each: str(node) for each, node in site.fleet.hosts.items()}
    if command in LOOKING:
        assert left == before
    if said.code == 1:
        assert words + said.out, "a failure without a word"
        if command in ("bootstrap", "forced"):
            assert SAID[state] in words
    off = site.fleet[host].unreachable
    site.fleet[host].unreachable = None
    if after == "foreign":
        assert left[host] == before[host]
    if off and host == "n1":  # whose hosts these are, nobody can tell
        assert left == before
    if after:
        assert SHORT.get(found := site.states()[host].value, found) == after
    if command not in LOOKING and said.code == 0 and not off:
        again = inv(name, *arguments, **flags)
        assert again.code == 0, again.err + again.message
        assert {each: str(node) for each, node in site.fleet.hosts.items()} == left
