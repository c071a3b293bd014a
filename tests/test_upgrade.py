"""k8s.upgrade against hosts in memory: every step, every way to be interrupted, every refusal."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import bundles
import pytest
from fake_cluster import CORDONED, DiedError
from invoke import Exit
from test_bootstrap import ALL, HOSTS, Site, _no_waiting, nothing_left
from test_k8s_commands import CONTEXT, Said
from test_planes import OFF, THREE

import tasks
from isthmus.cluster.leaving import remove
from isthmus.cluster.upgrading import Upgrade
from isthmus.errors import InventoryError
from isthmus.kubernetes.upgrade import Act
from isthmus.kubernetes.versions import minors_between, next_minor, numbers
from isthmus.report.upgrade import upgrade_json, upgrade_text

__all__ = ["_no_waiting"]

OLD = (("1.36.2", "1.35.6"), ("3.10.2", "3.10.1"), ("1.14.2", "1.13.1"), ("3.6.8", "3.6.6"))
CONTAINERD = "/etc/containerd/config.toml"


class OldSite(Site):
    """A cluster of 1.35.6, and hosts.toml changed to the bundle of 1.36.2."""

    def __init__(self, folder: Path, text: str = HOSTS) -> None:
        super().__init__(folder, text)
        self.old_references = bundles.write_other(folder / "before", *OLD)
        self.back()
        self.well()
        self.forward()

    def back(self) -> None:
        """Ask for 1.35.6."""
        self.edit('version        = "1.36"', 'version        = "1.35"')
        self.edit('bundle = "bundle"', 'bundle = "before"')
        self.fleet.references = self.old_references

    def forward(self) -> None:
        """Ask for 1.36.2."""
        self.edit('version        = "1.35"', 'version        = "1.36"')
        self.edit('bundle = "before"', 'bundle = "bundle"')
        self.fleet.references = dict(bundles.REFERENCES)

    def look(self, **kwargs: Any) -> Upgrade:
        self.fleet.calls.clear()
        return Upgrade(self.inventory(), self.fleet, **kwargs)  # type: ignore[arg-type]

    def upgrade(self, **kwargs: Any) -> Upgrade:
        found = self.look(**kwargs)
        found.carry_out()
        return found

    def upgrade_well(self) -> Upgrade:
        done = self.upgrade()
        assert done.report.failures == {}
        return done

    def failures(self) -> dict[str, str]:
        """Try it; nothing may be touched; return why."""
        before = str(self.fleet)
        done = self.upgrade()
        assert str(self.fleet) == before
        assert done.report.failures
        return {name: error.message for name, error in done.report.failures.items()}


@pytest.fixture
def site(tmp_path: Path) -> OldSite:
    return OldSite(tmp_path)


def is_new(site: OldSite) -> None:
    """Every node runs the new version, as if it had been bootstrapped in it; nothing is left to do, by any command."""
    assert {name: node.version for name, node in site.kube.nodes.items()} == dict.fromkeys(ALL, "1.36.2")
    assert site.fleet["n1"].static_pods == "1.36.2"
    for host in site.fleet.hosts.values():
        assert host.kubelet_config == "1.36.2"
        assert {host.packages[name] for name in ("kubelet", "kubeadm", "kubectl")} == {"1.36.2-1.1"}
        assert "pause:3.10.2" in host.files[CONTAINERD][0]
        assert host.held == set(host.packages)
        assert host.bundle == {}
    for node in site.kube.nodes.values():
        assert not [name for name in node.annotations if "upgrade" in name]
    before = str(site.fleet)
    again = site.upgrade_well()
    assert not again.plan
    assert (again.report.changed, again.report.notes) == ((), ())
    assert site.fleet.changing == []
    assert str(site.fleet) == before
    nothing_left(site)


# --- the way ------------------------------------------------------------------------------------------------------


def test_the_control_plane_comes_first_and_then_one_node_after_the_other(site: OldSite) -> None:
    done = site.upgrade_well()
    assert done.report.changed == ALL
    assert site.fleet.cordoned == [(name, [name]) for name in ALL]
    ours = ("k8s-upgrade", "k8s-upgrade-kubelet")
    order = [(host, script) for host, script in site.fleet.calls if script in ours]
    assert order == [(name, script) for name in ALL for script in ours]
    is_new(site)


def test_the_steps_are_a_list_one_can_read(site: OldSite) -> None:
    lines = upgrade_text(site.look().plan).splitlines()
    assert lines[0] == "n1: 1.35.6 to 1.36.2"
    assert lines[1].startswith("  import images: registry.k8s.io/kube-apiserver:v1.36.2, ")
    assert lines[2:9] == [
        "  install kubeadm: 1.36.2-1.1",
        "  kubeadm upgrade: apply v1.36.2",
        "  drain",
        f"  install: kubelet 1.36.2-1.1, kubectl 1.36.2-1.1, {CONTAINERD}",
        "  restart the kubelet: 1.36.2",
        "  wait until it is ready: uncordon",
        "n2: 1.35.6 to 1.36.2",
    ]
    assert "  kubeadm upgrade: node" in lines
    assert upgrade_json(site.look().plan)["nodes"][3]["host"] == "s1"
    assert upgrade_text(site.upgrade_well().plan).splitlines() == lines
    assert upgrade_text(site.look().plan) == "nothing to do: all nodes run 1.36.2"


def test_each_step_is_timed(site: OldSite) -> None:
    titles = [title for title, _ in site.upgrade_well().report.times]
    assert titles[:9] == [
        "look at the hosts",
        "send the bundle",
        "import images",
        "n1: install kubeadm",
        "n1: kubeadm upgrade",
        "n1: drain",
        "n1: install",
        "n1: restart the kubelet",
        "n1: wait until it is ready",
    ]
    assert titles[-1] == "wait until all is ready"


def test_a_patch_is_an_upgrade_too(tmp_path: Path) -> None:
    site = OldSite(tmp_path)
    site.upgrade_well()
    references = bundles.write_other(tmp_path / "patch", ("1.36.2", "1.36.3"))
    site.edit('bundle = "bundle"', 'bundle = "patch"')
    site.fleet.references = references
    done = site.upgrade_well()
    assert {node.version for node in site.kube.nodes.values()} == {"1.36.3"}
    assert CONTAINERD not in upgrade_text(done.plan)
    assert site.plan().waiting == ()


def test_another_containerd_or_flannel_of_the_same_kubernetes_is_an_upgrade_without_kubeadm(tmp_path: Path) -> None:
    site = OldSite(tmp_path)
    site.upgrade_well()
    site.fleet.cordoned.clear()
    site.fleet.references = bundles.write_other(tmp_path / "other", ("2.2.7", "2.3.0"), ("0.28.9", "0.29.0"))
    site.edit('bundle = "bundle"', 'bundle = "other"')
    done = site.upgrade_well()
    assert site.fleet.ran("k8s-upgrade", "k8s-upgrade-kubelet") == []
    assert site.fleet.cordoned == [(name, [name]) for name in ALL]
    assert done.plan.manifests == ("DaemonSet kube-flannel/isthmus-flannel",)
    assert {host.packages["containerd.io"][:5] for host in site.fleet.hosts.values()} == {"2.3.0"}
    nothing_left(site)


def test_what_disturbs_no_pod_is_left_to_bootstrap(tmp_path: Path) -> None:
    site = OldSite(tmp_path)
    site.upgrade_well()
    del site.fleet["n2"].files["/etc/crictl.yaml"]
    assert not site.look().plan
    assert site.plan().waiting == ("n2",)


# --- interrupted --------------------------------------------------------------------------------------------------

POINTS = [
    ("n1", "receive:begun"),
    ("n3", "fetch:one"),
    ("n2", "prepare:image"),
    ("n1", "prepare:packages"),
    ("n1", "upgrade:begun"),
    ("n1", "upgrade:done"),
    ("n1", "upgrade:half"),
    ("n1", "drain:cordoned"),
    ("n1", "drain:done"),
    ("n1", "kubelet:begun"),
    ("n1", "kubelet:done"),
    ("n1", "finish:begun"),
    ("n1", "finish:done"),
    ("n2", "prepare:packages"),
    ("n2", "upgrade:begun"),
    ("n2", "upgrade:done"),
    ("n2", "kubelet:begun"),
    ("n2", "kubelet:done"),
    ("s1", "prepare:files"),
    ("s1", "upgrade:done"),
    ("s1", "kubelet:done"),
]


@pytest.mark.parametrize(("host", "point"), POINTS)
def test_an_upgrade_that_was_killed_is_resumed_by_the_next(site: OldSite, host: str, point: str) -> None:
    site.fleet[host].dies_in = point
    with pytest.raises(DiedError):
        site.upgrade()
    site.upgrade_well()
    is_new(site)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("point", ["drain:cordoned", "drain:done", "finish:begun", "finish:done"])
def test_it_is_resumed_from_whichever_nodes_turn_it_was(site: OldSite, number: int, point: str) -> None:
    """These scripts run on the control plane; they die in the turn of its first, second, third, fourth node."""
    plane = site.fleet["n1"]
    turns = iter(range(100))
    real = plane._point

    def die_in_turn(where: str) -> None:
        if where == point and next(turns) == number:
            raise DiedError(where)
        real(where)

    plane._point = die_in_turn  # type: ignore[method-assign]
    with pytest.raises(DiedError):
        site.upgrade()
    site.upgrade_well()
    is_new(site)


def test_an_upgrade_killed_again_and_again_comes_to_its_end(site: OldSite) -> None:
    for host, point in POINTS:
        site.fleet[host].dies_in = point
        with suppress(DiedError):
            site.upgrade()
    for host, _ in POINTS:
        site.fleet[host].dies_in = None
    site.upgrade_well()
    is_new(site)


def test_a_node_that_is_not_ready_in_the_middle_of_its_upgrade_is_gone_on_with(site: OldSite) -> None:
    site.fleet["n2"].dies_in = "kubelet:begun"
    with pytest.raises(DiedError):
        site.upgrade()
    site.kube.nodes["n2"].up = False
    site.upgrade_well()
    is_new(site)


def test_a_node_that_somebody_uncordoned_meanwhile_is_drained_again(site: OldSite) -> None:
    site.fleet["n2"].dies_in = "kubelet:begun"
    with pytest.raises(DiedError):
        site.upgrade()
    site.kube.nodes["n2"].unschedulable, site.kube.nodes["n2"].pods = False, True
    site.upgrade_well()
    is_new(site)


def test_what_was_cordoned_comes_first_whatever_the_order_of_hosts_toml_is_now(site: OldSite) -> None:
    site.fleet["n3"].dies_in = "kubelet:begun"
    with pytest.raises(DiedError):
        site.upgrade()
    section = re.search(r"\[hosts\.s1\]\n(?:.+\n)+\n", site.text)
    assert section is not None
    site.edit(section[0], "")
    site.edit("[hosts.n1]", f"{section[0]}[hosts.n1]")
    assert [node.host for node in site.upgrade_well().plan.nodes] == ["n3", "s1"]


def test_of_two_runs_at_once_one_says_that_the_other_is_at_work(site: OldSite) -> None:
    found = site.look()
    site.kube.nodes["s1"].annotations[CORDONED] = "yes"
    found.carry_out()
    assert "another run upgrades s1 just now" in found.report.failures["n1"].message
    assert not site.kube.nodes["n1"].unschedulable


def test_what_kubeadm_has_done_is_not_done_again(site: OldSite) -> None:
    site.fleet["n1"].dies_in = "drain:done"
    with pytest.raises(DiedError):
        site.upgrade()
    assert site.fleet.ran("k8s-upgrade") == ["n1"]
    site.upgrade_well()
    assert site.fleet.ran("k8s-upgrade") == ["n2", "n3", "s1"]


def test_while_it_is_under_way_bootstrap_and_plan_say_so_and_touch_nothing(site: OldSite) -> None:
    site.fleet["n2"].dies_in = "kubelet:done"
    with pytest.raises(DiedError):
        site.upgrade()
    before = str(site.fleet)
    failures = site.up().failures
    assert str(site.fleet) == before
    waits = "the upgrade of n2 has begun and not ended: `inv k8s.upgrade` goes on with it"
    assert {name: failures[name].message for name in ("n1", "n2")} == {"n1": waits, "n2": waits}
    assert failures["s1"].message == "runs kubelet 1.35.6-1.1, the bundle has 1.36.2: `inv k8s.upgrade` upgrades it"


# --- several control planes ---------------------------------------------------------------------------------------


def test_control_planes_come_one_after_the_other_and_the_first_one_upgrades_the_cluster(tmp_path: Path) -> None:
    site = OldSite(
        tmp_path, THREE.replace("[hosts.n1]", "[hosts.z1]\nsite = 'nanjing'\naddress = '172.16.0.9'\n[hosts.n1]")
    )
    done = site.upgrade_well()
    assert site.fleet.cordoned == [(name, [name]) for name in ("n1", "n2", "n3", "z1", "s1")]
    how = {node.host: step.what[0] for node in done.plan.nodes for step in node.steps if step.act is Act.UPGRADE}
    assert how == {"n1": "apply v1.36.2", **dict.fromkeys(("n2", "n3", "z1", "s1"), "node")}
    assert {site.fleet[name].static_pods for name in ("n1", "n2", "n3")} == {"1.36.2"}
    assert not site.look().plan
    nothing_left(site)


def test_a_control_plane_that_is_off_is_waited_for(tmp_path: Path) -> None:
    site = OldSite(tmp_path, THREE)
    site.fleet["n1"].unreachable = OFF
    assert site.failures() == {"n1": OFF}


def test_control_planes_that_are_more_than_a_minor_apart_are_refused(tmp_path: Path) -> None:
    site = OldSite(tmp_path, THREE)
    site.fleet["n3"].static_pods = "1.33.1"
    assert "one minor at a time, 1.34 comes first" in site.failures()["n3"]
    assert site.failures()["n1"] == "its API runs 1.35.6, that of n3 1.33.1: more than one minor apart"


@pytest.mark.parametrize("host", ["n1", "n2", "n3"])
@pytest.mark.parametrize("point", ["upgrade:begun", "upgrade:done", "kubelet:begun", "kubelet:done"])
def test_it_is_resumed_on_any_control_plane(tmp_path: Path, host: str, point: str) -> None:
    site = OldSite(tmp_path, THREE)
    site.fleet[host].dies_in = point
    with pytest.raises(DiedError):
        site.upgrade()
    site.upgrade_well()
    assert not site.look().plan
    assert {node.version for node in site.kube.nodes.values()} == {"1.36.2"}
    nothing_left(site)


# --- drains -------------------------------------------------------------------------------------------------------


def test_a_node_that_the_user_has_cordoned_stays_so(site: OldSite) -> None:
    site.kube.nodes["n2"].unschedulable = True
    site.fleet["n2"].dies_in = "kubelet:done"
    with pytest.raises(DiedError):
        site.upgrade()
    assert CORDONED not in site.kube.nodes["n2"].annotations
    done = site.upgrade_well()
    assert "  wait until it is ready: it stays cordoned, as it was" in upgrade_text(done.plan)
    assert [name for name, node in site.kube.nodes.items() if node.unschedulable] == ["n2"]
    is_new(site)


def test_pods_that_do_not_leave_end_it_and_the_node_is_given_back(site: OldSite) -> None:
    site.fleet.stuck_pods["n2"] = "default/web-1 default/web-2"
    done = site.upgrade(drain_s=60)
    assert {name: error.message for name, error in done.report.failures.items()} == {
        "n2": "k8s-upgrade-drain: status 1: these pods did not leave within 60 s: default/web-1 default/web-2"
    }
    assert done.report.notes == ("not begun: n3, s1; the next k8s.upgrade goes on where this one ended",)
    assert not any(node.unschedulable for node in site.kube.nodes.values())
    assert {name: node.version for name, node in site.kube.nodes.items()} == {
        **dict.fromkeys(ALL, "1.35.6"),
        "n1": "1.36.2",
    }
    site.fleet.stuck_pods.clear()
    site.upgrade_well()
    is_new(site)


def test_a_pod_that_nothing_would_bring_back_is_told_before_anything_is_touched(site: OldSite) -> None:
    site.fleet.bare_pods["s1"] = "default/alone"
    assert site.failures() == {
        "s1": "k8s-upgrade-drain: status 1: cannot delete Pods that declare no controller: default/alone"
    }
    assert site.fleet.ran("k8s-receive", "k8s-prepare", "k8s-upgrade") == []


def test_a_cluster_of_one_host_is_drained_and_upgraded_too(tmp_path: Path) -> None:
    site = OldSite(tmp_path)
    for name in ALL[1:]:
        del site.kube.nodes[name]
        site.text = re.sub(rf"\[hosts\.{name}\]\n(?:.+\n)+\n", "", site.text)
    site.text = re.sub(r"\[(?:sites\.shanghai|resources\.mysql)\][^\n]*\n(?:.+\n)+\n", "", site.text)
    assert site.upgrade_well().report.changed == ("n1",)
    assert site.fleet.cordoned == [("n1", ["n1"])]
    assert not site.look().plan


# --- what fails ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["k8s-prepare", "k8s-upgrade", "k8s-upgrade-kubelet"])
def test_the_first_node_that_fails_ends_it(site: OldSite, script: str) -> None:
    site.fleet["n2"].refuses[script] = "it fails"
    done = site.upgrade()
    assert list(done.report.failures) == ["n2"]
    assert "it fails" in done.report.failures["n2"].message
    versions = {name: node.version for name, node in site.kube.nodes.items()}
    assert (versions["n3"], versions["s1"]) == ("1.35.6", "1.35.6")
    del site.fleet["n2"].refuses[script]
    site.upgrade_well()
    is_new(site)


def test_a_control_plane_that_fails_leaves_all_others_as_they_are(site: OldSite) -> None:
    site.fleet["n1"].refuses["k8s-upgrade"] = "[ERROR CreateJob]: Job did not complete"
    done = site.upgrade()
    assert "[ERROR CreateJob]" in done.report.failures["n1"].message
    assert done.report.notes[0].startswith("not begun: n2, n3, s1;")
    assert site.fleet.cordoned == []
    assert {node.version for node in site.kube.nodes.values()} == {"1.35.6"}


def test_a_wrong_sum_stops_it_before_anything_is_touched(site: OldSite) -> None:
    (site.folder / "bundle/images/etcd.tar").write_text("something else")
    before = str(site.fleet)
    with pytest.raises(InventoryError, match=r"images/etcd\.tar: found the sum"):
        site.upgrade()
    assert str(site.fleet) == before


def test_a_full_disk_is_one_line(site: OldSite) -> None:
    site.fleet["s1"].disk_mb = 499
    done = site.upgrade()
    assert done.report.failures["s1"].message == "499 MB free below /var/lib, expected 500"
    assert site.fleet.ran("k8s-upgrade") == []


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "spoil", "said"),
    [
        ("n2", {"unreachable": "no answer within 20 s"}, "no answer within 20 s"),
        ("n1", {"unreachable": "no answer within 20 s"}, "no answer within 20 s"),
        ("n2", {"mesh_up": False}, "the mesh is not up: wg0 has no address 172.16.0.2; run `inv mesh.up` first"),
        ("n2", {"unfinished": "join"}, "half-joined: kubeadm join was begun and not finished; `inv k8s.remove n2`"),
        ("n2", {"kubeadm": set()}, "stale: the cluster has a Node of this name, the host has nothing"),
        ("n1", {"static_pods": "1.37.0"}, "runs 1.37.0, the bundle has 1.36.2: Kubernetes does not go back"),
        ("n2", {"busy": 10_000}, "another run is still at work here"),
    ],
)
def test_what_speaks_against_it_is_one_line_and_nothing_is_touched(
    site: OldSite, host: str, spoil: dict[str, Any], said: str
) -> None:
    for name, value in spoil.items():
        setattr(site.fleet[host], name, value)
    failures = site.failures() if "busy" not in spoil else _busy_failures(site)
    assert list(failures) == [host]
    assert failures[host].startswith(said)


def _busy_failures(site: OldSite) -> dict[str, str]:
    done = site.upgrade()
    assert site.fleet.changing == []
    return {name: error.message for name, error in done.report.failures.items()}


@pytest.mark.parametrize(
    ("node", "spoil", "said"),
    [
        ("n2", {"up": False}, "its Node is not Ready: an upgrade begins with all of them well"),
        ("n2", {"version": "1.37.1"}, "runs 1.37.1, the bundle has 1.36.2: Kubernetes does not go back"),
        ("n2", {"version": "1.36.0"}, "its kubelet 1.36.0 is newer than the API, which runs 1.35.6 on n1"),
        ("n2", {"version": "1.32.9"}, "its kubelet 1.32.9 would be too old for an API of 1.36.2: 3 minors at most"),
    ],
)
def test_a_node_that_is_not_well_or_of_a_version_too_far_away_is_refused(
    site: OldSite, node: str, spoil: dict[str, Any], said: str
) -> None:
    for name, value in spoil.items():
        setattr(site.kube.nodes[node], name, value)
    assert site.failures() == {node: said}


def test_no_minor_is_skipped(site: OldSite) -> None:
    site.fleet["n1"].static_pods = "1.34.9"
    for node in site.kube.nodes.values():
        node.version = "1.34.9"
    assert site.failures() == {"n1": "runs 1.34.9, the bundle has 1.36.2: one minor at a time, 1.35 comes first"}


def test_without_a_cluster_there_is_nothing_to_upgrade(tmp_path: Path) -> None:
    site = OldSite(tmp_path)
    for host in site.fleet.hosts.values():
        host.kubeadm, host.servers, host.kube = set(), [], None
    assert site.failures() == {"n1": "holds no cluster: `inv k8s.bootstrap` makes one, in the bundle's version"}


def test_a_silent_api_is_waited_for_and_ended_certificates_are_named(site: OldSite) -> None:
    site.kube.answers = False
    assert site.failures() == {"n1": "silent: its API does not answer"}
    site.fleet["n1"].clock = 4_000_000_000
    assert "its certificates ended on 2027-02-05: `kubeadm certs renew all`" in site.failures()["n1"]


def test_a_bundle_of_another_version_than_hosts_toml_is_refused(site: OldSite) -> None:
    site.edit('bundle = "bundle"', 'bundle = "before"')
    with pytest.raises(InventoryError, match=r'bundle\.kubernetes: found "1\.35\.6", expected the version of hosts'):
        site.look()


def test_it_does_not_go_back(site: OldSite) -> None:
    site.upgrade_well()
    site.back()
    assert set(site.failures().values()) == {"runs 1.36.2, the bundle has 1.35.6: Kubernetes does not go back"}


def test_kubeadm_alone_may_go_back_while_the_cluster_has_not_begun(site: OldSite) -> None:
    site.fleet["n1"].dies_in = "upgrade:begun"
    with pytest.raises(DiedError):
        site.upgrade()
    site.back()
    assert "  install kubeadm: 1.35.6-1.1" in upgrade_text(site.upgrade_well().plan)
    nothing_left(site)


# --- hosts that are no nodes --------------------------------------------------------------------------------------


def test_a_new_host_joins_after_the_upgrade(tmp_path: Path) -> None:
    site = OldSite(tmp_path)
    site.back()
    host = site.fleet["n3"]
    host.kubeadm, host.servers, host.ca = set(), [], ""
    del site.kube.nodes["n3"]
    site.forward()
    first = "n1 runs Kubernetes 1.35.6, the bundle has 1.36.2: `inv k8s.upgrade` first"
    assert site.up().failures["n3"].message == first
    assert site.fleet.changing == []
    done = site.upgrade_well()
    assert done.report.notes[0] == "n3 is no node of the cluster (clean): `inv k8s.bootstrap` makes it one afterwards"
    assert done.report.changed == ("n1", "n2", "s1")
    site.well()
    nothing_left(site)


@pytest.mark.parametrize("spoil", [{"unfinished": "join"}, {"kubeadm": set(), "servers": [], "ca": ""}])
def test_a_node_that_is_lost_in_the_middle_is_removed_and_joins_in_the_new_version(
    site: OldSite, spoil: dict[str, Any]
) -> None:
    """Neither bundle could be bootstrapped there: some nodes run the one version, some the other."""
    site.fleet["n2"].dies_in = "upgrade:begun"
    with pytest.raises(DiedError):
        site.upgrade()
    for name, value in spoil.items():
        setattr(site.fleet["n2"], name, value)
    assert site.upgrade().report.failures["n2"].message.endswith("`inv k8s.remove n2` first, it joins again afterwards")
    assert site.up().failures
    assert remove(site.inventory(), site.fleet, "n2").failures == {}  # type: ignore[arg-type]
    site.upgrade_well()
    site.well()
    is_new(site)


def test_a_host_that_does_not_answer_and_is_no_node_keeps_nobody(site: OldSite) -> None:
    del site.kube.nodes["n3"]
    site.fleet["n3"].unreachable = "no answer within 20 s"
    found = site.look()
    assert found.report.failures == {}
    assert found.report.notes == ("n3: no answer within 20 s; it is no node, and left out",)
    found.carry_out()
    assert found.report.failures == {}
    assert found.report.changed == ("n1", "n2", "s1")


def test_a_node_that_is_not_in_hosts_toml_is_told(site: OldSite) -> None:
    site.kube.nodes["old"] = site.kube.nodes.pop("n3")
    site.fleet["n3"].kubeadm = set()
    assert site.look().report.notes[0] == "old is a node and not in hosts.toml: it is left at 1.35.6"
    site.kube.nodes["old"].version = "1.31.0"
    assert site.failures()["old"].startswith("is not in hosts.toml, and its kubelet 1.31.0 would be too old")


def test_an_api_that_comes_back_is_waited_for(site: OldSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.kube.answers = False
    looks = iter(range(100))
    real = site.fleet["n1"]._probe

    def probe(*arguments: Any) -> str:
        site.kube.answers = next(looks) > 0
        return real(*arguments)

    site.fleet["n1"]._probe = probe  # type: ignore[method-assign]
    monkeypatch.setattr("isthmus.cluster.upgrading.API_S", 10_000)
    site.upgrade_well()


# --- versions -----------------------------------------------------------------------------------------------------


def test_versions_are_numbers() -> None:
    assert numbers("v1.36.2-1.1") == (1, 36, 2)
    assert numbers("1.9.1") < numbers("1.10.0")
    assert (minors_between("1.35.6", "1.36.2"), minors_between("1.36.2", "1.35.6")) == (1, -1)
    assert minors_between("1.36.2", "2.0.0") > 1
    assert next_minor("1.35.6") == "1.36"


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def inv(site: OldSite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that calls `inv k8s.NAME` with flags."""

    def call(name: str, **flags: Any) -> Said:
        (site.folder / "hosts.toml").write_text(site.text, encoding="utf-8")
        monkeypatch.setattr("isthmus.remote.Fleet", lambda *_, **__: site.fleet)
        code, message = 0, ""
        try:
            tasks.ns.collections["k8s"].tasks[name].body(CONTEXT, file=str(site.folder / "hosts.toml"), **flags)
        except Exit as end:
            code, message = end.code, end.message or ""
        out, err = capsys.readouterr()
        return Said(code, message, out, err)

    return call


def test_from_the_steps_to_the_new_version_and_nothing_to_do(inv: Any, site: OldSite) -> None:
    before = str(site.fleet)
    shown = inv("upgrade", dry_run=True)
    assert (shown.code, str(site.fleet)) == (4, before)
    assert shown.out.startswith("n1: 1.35.6 to 1.36.2\n  import images: ")
    plan = inv("plan")
    assert plan.code == 1
    assert "n1: runs kubelet 1.35.6-1.1, the bundle has 1.36.2: `inv k8s.upgrade` upgrades it" in plan.err
    done = inv("upgrade")
    assert done.code == 0
    assert done.out.startswith(shown.out)
    assert "s1: wait until it is ready\n" in done.out
    assert "together\n" in done.out
    assert (site.folder / "kubeconfig").stat().st_mode & 0o777 == 0o600
    for flags in ({}, {"dry_run": True}):
        again = inv("upgrade", **flags)
        assert (again.code, again.out, again.err.replace(": observed", "")) == (
            0,
            "nothing to do: all nodes run 1.36.2\n",
            "",
        )
    assert inv("plan").code == 0


def test_as_json(inv: Any, site: OldSite) -> None:
    shown = json.loads(inv("upgrade", dry_run=True, json=True).out)
    assert (shown["upgrade"]["target"], shown["changed"]) == ("1.36.2", [])
    assert shown["upgrade"]["nodes"][0]["steps"][3] == {"step": "drain", "what": []}
    done = json.loads(inv("upgrade", json=True).out)
    assert done["changed"] == list(ALL)
    assert done["nodes"]["s1"]["version"] == "1.36.2"
    assert "n1: kubeadm upgrade" in done["seconds"]


def test_what_is_refused_or_fails_is_exit_code_1_and_the_rest_is_told(inv: Any, site: OldSite) -> None:
    site.kube.nodes["n2"].up = False
    refused = inv("upgrade")
    assert (refused.code, refused.out) == (1, "")
    assert "n2: its Node is not Ready" in refused.err
    site.kube.nodes["n2"].up = True
    site.fleet.stuck_pods["n2"] = "default/web"
    stuck = inv("upgrade", drain_timeout="60")
    assert stuck.code == 1
    assert "these pods did not leave within 60 s: default/web" in stuck.err
    assert "note: not begun: n3, s1; the next k8s.upgrade goes on where this one ended\n" in stuck.err


@pytest.mark.parametrize("text", ["", "x", "9", "-1", "86401"])
def test_a_drain_timeout_that_is_none(inv: Any, site: OldSite, text: str) -> None:
    site.fleet.calls.clear()
    ended = inv("upgrade", drain_timeout=text)
    found = text or "nothing"
    assert (ended.code, ended.message) == (2, f"--drain-timeout: found {found}, expected 10 to 86400 seconds")
    assert site.fleet.calls == []
