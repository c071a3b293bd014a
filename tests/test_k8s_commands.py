"""The `inv k8s.…` commands on hosts in memory: what they print, and their exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from invoke import Exit
from test_bootstrap import Site, _no_waiting

import tasks

__all__ = ["_no_waiting"]

CONTEXT = SimpleNamespace(config=SimpleNamespace(sudo=SimpleNamespace(password=None)))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Bare hosts in memory where the commands would connect to real ones."""
    made = Site(tmp_path)
    (tmp_path / "hosts.toml").write_text(made.text, encoding="utf-8")
    monkeypatch.setattr("isthmus.remote.Fleet", lambda *_, **__: made.fleet)
    return made


class Said:
    """What a command ended with and printed."""

    def __init__(self, code: int, message: str, out: str, err: str) -> None:
        self.code, self.message, self.out, self.err = code, message, out, err


@pytest.fixture
def inv(site: Site, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that calls a command with flags."""

    def call(name: str, *arguments: str, **flags: Any) -> Said:
        folder, _, task = name.partition(".")
        code, message = 0, ""
        try:
            body = tasks.ns.collections[folder].tasks[task].body
            body(CONTEXT, *arguments, file=str(site.folder / "hosts.toml"), **flags)
        except Exit as end:
            code, message = end.code, end.message or ""
        out, err = capsys.readouterr()
        return Said(code, message, out, err)

    return call


def test_from_a_plan_to_a_cluster_and_nothing_to_do(inv: Any, site: Site) -> None:
    plan = inv("k8s.plan")
    assert plan.code == 4
    assert "n1: clean\n  packages: containerd.io 2.2.7" in plan.out
    assert "  initialise: kubeadm init\n" in plan.out
    up = inv("k8s.bootstrap")
    assert up.code == 0
    assert "s1: ready\n" in up.out
    assert f"the admin's kubeconfig is in {site.folder / 'kubeconfig'}" in up.out
    assert "initialise the control plane\n" in up.out
    assert "together\n" in up.out
    assert "SECRET" not in up.out + up.err
    again = inv("k8s.bootstrap")
    assert (again.code, again.out, again.err) == (
        0,
        "".join(f"{n}: nothing to do\n" for n in ("n1", "n2", "n3", "s1")),
        "",
    )
    done = inv("k8s.plan")
    assert (done.code, done.out) == (0, "".join(f"{n}: ready: nothing to do\n" for n in ("n1", "n2", "n3", "s1")))


def test_the_status_shows_nodes_and_how_long_certificates_last(inv: Any, site: Site) -> None:
    assert inv("k8s.status").code == 1  # no cluster yet
    inv("k8s.bootstrap")
    status = inv("k8s.status", json=True)
    assert (status.code, json.loads(status.out)["certificate_days"]) == (1, 73)  # soon
    assert "note: certificates end in 73 days" in status.err
    table = inv("k8s.status").out
    assert "s1" in table
    assert "ready" in table
    assert "1 of 1 ready" in table
    assert "?" not in table


def test_a_node_that_speaks_from_another_address_is_told(inv: Any, site: Site) -> None:
    inv("k8s.bootstrap")
    site.kube.nodes["s1"].annotations["flannel.alpha.coreos.com/public-ip"] = "203.0.113.129"
    said = inv("k8s.status")
    assert said.code == 1
    assert "s1: flannel on it has the address 203.0.113.129, expected 172.16.128.1" in said.err


def test_a_foreign_host_is_exit_code_1_in_plan_and_bootstrap(inv: Any, site: Site) -> None:
    site.fleet["s1"].make_foreign()
    for name in ("k8s.plan", "k8s.bootstrap"):
        said = inv(name)
        assert said.code == 1
        assert "s1: of another cluster: its API is https://10.9.9.9:6443" in said.err
    assert "s1: of another cluster" in inv("k8s.plan").out
    assert inv("k8s.bootstrap", force_reset="s1").code == 0


def test_broken_pods_fail_a_bootstrap_and_check_pods(inv: Any, site: Site) -> None:
    site.fleet.unheard["n2", "s1"] = "0 of 262144 bytes arrived"
    up = inv("k8s.bootstrap")
    assert up.code == 1
    assert "a pod on n2 does not reach s1: 0 of 262144 bytes arrived" in up.err
    check = inv("check.pods")
    assert check.code == 1
    assert "broken" in check.out
    assert "across sites" in check.out
    site.fleet.unheard.clear()
    assert inv("check.pods").code == 0


def test_kubectl_prints_what_the_control_plane_says(inv: Any, site: Site) -> None:
    nothing = inv("k8s.kubectl", "get nodes")
    assert nothing.code == 1
    assert "there is no cluster on this host" in nothing.message
    inv("k8s.bootstrap")
    assert inv("k8s.kubectl", "get nodes").out == "n1\nn2\nn3\ns1\n"


@pytest.mark.parametrize(
    ("command", "arguments", "flags", "said"),
    [
        ("k8s.kubectl", ("",), {}, "found nothing, expected the words of kubectl"),
        ("k8s.kubectl", ('get "nodes',), {}, "found 'get \"nodes', expected the words of kubectl"),
        ("k8s.remove", ("n9",), {}, "found n9, expected a host of the inventory: n1, n2, n3, s1"),
        ("k8s.remove", ("n1",), {}, "n1 holds the cluster's API"),
        ("k8s.bootstrap", (), {"force_reset": "n9"}, "--force-reset: found n9, expected hosts of the inventory"),
        ("k8s.bootstrap", (), {"force_reset": ""}, "--force-reset: found nothing, expected hosts of the inventory"),
        ("k8s.bootstrap", (), {"kubeconfig": ""}, "--kubeconfig: found nothing, expected the path of a file"),
        ("k8s.bootstrap", (), {"only": "n9"}, "--only: found n9, expected hosts of the inventory"),
    ],
)
def test_a_wrong_word_is_one_line_and_exit_code_2(
    inv: Any, site: Site, command: str, arguments: tuple[str, ...], flags: dict[str, str], said: str
) -> None:
    ended = inv(command, *arguments, **flags)
    assert ended.code == 2
    assert ended.message.startswith(said)
    assert site.fleet.changing == []


def test_labels_and_taints_of_running_nodes(inv: Any, site: Site) -> None:
    assert inv("k8s.taint").code == 1
    inv("k8s.bootstrap")
    assert inv("k8s.taint").out == "changed: nothing\n"
    site.kube.nodes["s1"].taints.clear()
    assert inv("k8s.taint").out == "changed: s1\n"


def test_a_worker_is_removed(inv: Any, site: Site) -> None:
    inv("k8s.bootstrap")
    assert inv("k8s.remove", "s1").out == "removed: s1\n"
    assert inv("k8s.remove", "s1").out == "removed: nothing, s1 was in no cluster\n"


def test_a_reset_asks_first(inv: Any, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    inv("k8s.bootstrap")
    for answer in ("", "no\n", "y\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        ended = inv("k8s.reset")
        assert (ended.code, ended.message) == (2, "not confirmed: nothing was touched")
    assert site.fleet.ran("k8s-reset") == []
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    assert inv("k8s.reset").out.endswith("reset: n2, n3, s1, n1\n")
    assert inv("k8s.reset", yes=True).out == "reset: nothing, no host was in a cluster\n"


def test_the_checks_before_kubernetes_are_ours_and_where_it_is_kubeadms(inv: Any, site: Site) -> None:
    clean = inv("check.k8s")
    assert (clean.code, clean.out) == (0, "n1, n2, n3, s1: no kubeadm yet: its own checks come with k8s.bootstrap\n")
    inv("k8s.bootstrap")
    assert (inv("check.k8s").code, inv("check.k8s").out) == (0, "nothing found\n")
    inv("k8s.reset", yes=True)
    site.fleet["n1"].preflight_says = ["[WARNING Swap]: swap is supported for cgroup v2 only"]
    site.fleet["s1"].preflight_says = ["[ERROR Port-10250]: Port 10250 is in use"]
    before = str(site.fleet)
    site.fleet.calls.clear()
    said = inv("check.k8s")
    assert said.code == 1
    assert said.out.splitlines() == [
        "n1: kubeadm Swap: swap is supported for cgroup v2 only",
        "s1: ERROR kubeadm Port-10250: Port 10250 is in use",
    ]
    assert site.fleet.changing == []
    assert str(site.fleet) == before
    assert json.loads(inv("check.k8s", json=True, only="n1").out)["findings"][0]["error"] is False


@pytest.mark.parametrize(
    ("host", "spoil", "code", "said"),
    [
        ("n1", {"cpus": 1}, 1, "n1: ERROR cpus: 1, expected 2 on a control plane"),
        ("n1", {"memory_mb": 1600}, 1, "n1: ERROR memory: 1600 MB, expected 1700 on a control plane"),
        ("n2", {"memory_mb": 800}, 0, "n2: memory: 800 MB, 900 are the least that a node does well with"),
        ("n2", {"cpus": 1}, 0, ""),
        ("n2", {"clock": 1_795_416_865}, 1, "n2: ERROR clock: is 40 s away from that of n1"),
        ("s1", {"cgroup": "tmpfs"}, 0, "s1: cgroup: is v1, which Kubernetes refuses since 1.35 unless told otherwise"),
        ("s1", {"swap_mb": 2048}, 0, "s1: swap: 2048 MB: the kubelet is told to bear it, and pods do not use it"),
        (
            "s1",
            {"hostname": "n1.example"},
            0,
            "s1: hostname: is n1.example, as that of n1: Nodes have the inventory's names, but logs and metrics do not",
        ),
        (
            "n2",
            {"packages": {"containerd.io": "1.7.28-1~debian.12~bookworm"}},
            0,
            (
                "n2: containerd: containerd.io 1.7.28-1~debian.12~bookworm is older than 2.2, which k8s.bootstrap "
                "would put in its place"
            ),
        ),
        ("n2", {"packages": {"containerd.io": "2.2.0-1~debian.12~bookworm"}}, 0, ""),
        ("s1", {"disk_mb": 2900}, 0, "s1: disk: 2900 MB free below /var/lib, 3000 are the least to begin with"),
        ("s1", {"mesh_up": False}, 1, ""),
    ],
)
def test_what_speaks_against_a_host(
    inv: Any, site: Site, host: str, spoil: dict[str, Any], code: int, said: str
) -> None:
    for name, value in spoil.items():
        setattr(site.fleet[host], name, value)
    ended = inv("check.k8s")
    assert ended.code == code
    assert [line for line in ended.out.splitlines() if "no kubeadm yet" not in line] == ([said] if said else [])


def test_hosts_that_are_copies_are_told(inv: Any, site: Site) -> None:
    site.fleet["s1"].machine_id = site.fleet["n2"].machine_id
    said = inv("check.k8s")
    assert said.code == 1
    assert "s1: ERROR machine-id: is that of n2, too: these hosts are copies of one another" in said.out
