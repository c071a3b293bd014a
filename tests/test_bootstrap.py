"""k8s.bootstrap and its kin against hosts in memory: every state, every step, every way to be interrupted."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import bundles
import pytest
from fake_cluster import DiedError, FakeClusterFleet, ca

from isthmus.cluster import bootstrap as module
from isthmus.cluster.bootstrap import bootstrap, write_kubeconfig
from isthmus.cluster.leaving import remove, reset
from isthmus.cluster.marking import mark
from isthmus.cluster.pods import check_pods
from isthmus.cluster.survey import ClusterReport, survey
from isthmus.errors import InventoryError, UsageError
from isthmus.inventory import parse_inventory
from isthmus.kubernetes.plan import Do
from isthmus.kubernetes.state import State

HOSTS = (Path(__file__).parent.parent / "hosts.toml").read_text(encoding="utf-8")
ALL = ("n1", "n2", "n3", "s1")
TAINT = "zone=shanghai:PreferNoSchedule"
ZONE = "topology.kubernetes.io/zone"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for real: each look at the clock is a minute later."""
    minutes = iter(range(0, 10_000_000, 60))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(minutes)))
    monkeypatch.setattr(module.time, "sleep", lambda _: None)


class Site:
    """A workstation with the article's cluster, a bundle and hosts that the mesh has reached."""

    def __init__(self, folder: Path, text: str = HOSTS) -> None:
        self.folder = folder
        bundles.write(folder / "bundle")
        self.text = f'{text}bundle = "bundle"\n'
        self.fleet = FakeClusterFleet(self.inventory(), dict(bundles.REFERENCES))

    def inventory(self) -> Any:
        return parse_inventory(self.text, str(self.folder / "hosts.toml"))

    def edit(self, old: str, new: str) -> None:
        assert old in self.text
        self.text = self.text.replace(old, new)

    def up(self, only: Collection[str] | None = None, forced: Collection[str] = ()) -> ClusterReport:
        self.fleet.calls.clear()
        return bootstrap(self.inventory(), self.fleet, only, forced)  # type: ignore[arg-type]

    def well(self, only: Collection[str] | None = None, forced: Collection[str] = ()) -> ClusterReport:
        report = self.up(only, forced)
        assert report.failures == {}
        return report

    def plan(self, forced: Collection[str] = ()) -> ClusterReport:
        return survey(self.inventory(), self.fleet, None, forced)[0]  # type: ignore[arg-type]

    def states(self) -> dict[str, State]:
        return {name: plan.found.state for name, plan in self.plan().plans.items()}

    @property
    def kube(self) -> Any:
        return self.fleet["n1"].kube


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def nothing_left(site: Site) -> None:
    """The plan is empty and a run touches nothing: every host is what it was, to the letter."""
    assert site.plan().waiting == ()
    before = str(site.fleet)
    assert site.well().changed == ()
    assert site.fleet.changing == []
    assert str(site.fleet) == before


# --- from nothing -------------------------------------------------------------------------------------------------


def test_bare_hosts_become_a_cluster_and_a_second_run_changes_nothing(site: Site) -> None:
    assert set(site.states().values()) == {State.CLEAN}
    report = site.well()
    assert report.changed == ALL
    assert set(site.states().values()) == {State.READY}
    assert sorted(site.kube.nodes) == sorted(ALL)
    nothing_left(site)


def test_the_times_of_every_phase_are_told_in_order(site: Site) -> None:
    assert [title for title, _ in site.well().times] == [
        "look at the hosts",
        "send the bundle",
        "prepare the hosts",
        "initialise the control plane",
        "apply flannel and Services",
        "join",
        "label and taint",
        "wait until all is ready",
    ]


def test_the_control_plane_comes_first_and_the_others_join_with_flannel_there(site: Site) -> None:
    site.well()
    order = [call for call in site.fleet.calls if call[1] in ("k8s-prepare", "k8s-init", "k8s-join")]
    assert order == [*((name, "k8s-prepare") for name in ALL), ("n1", "k8s-init"), *((n, "k8s-join") for n in ALL[1:])]


def test_each_file_is_sent_once_to_each_site_and_handed_on(site: Site) -> None:
    site.well()
    sent = site.fleet.ran("k8s-receive")
    assert sent.count("n1") == len(bundles.DEBS) + len(bundles.IMAGES)
    # Shanghai's only host is a worker: it is not sent what only a control plane needs.
    assert sent.count("s1") == len(bundles.DEBS) + len(bundles.IMAGES) - 4
    assert set(sent) == {"n1", "s1"}
    assert site.fleet.ran("k8s-fetch") == ["n2", "n3"]
    assert all(host.serving == {} and host.bundle == {} for host in site.fleet.hosts.values())


def test_where_a_host_cannot_fetch_the_workstation_sends(site: Site) -> None:
    site.fleet["n3"].refuses["k8s-fetch"] = "no connection to 172.16.0.1"
    site.well()
    assert site.fleet.ran("k8s-receive").count("n3") == len(bundles.DEBS) + len(bundles.IMAGES) - 4


def test_nodes_have_their_labels_and_taints(site: Site) -> None:
    site.edit('taints  = ["zone', 'labels  = ["disk=ssd"]\ntaints  = ["zone')
    site.well()
    nodes = site.kube.nodes
    assert {name: node.labels[ZONE] for name, node in nodes.items()} == {
        "n1": "nanjing",
        "n2": "nanjing",
        "n3": "nanjing",
        "s1": "shanghai",
    }
    assert nodes["s1"].labels["disk"] == "ssd"
    assert nodes["s1"].taints == {TAINT}
    assert nodes["n1"].taints == {"node-role.kubernetes.io/control-plane:NoSchedule"}
    assert nodes["n2"].taints == set()


def test_a_control_plane_that_is_also_a_worker_has_no_taint(site: Site) -> None:
    site.edit('["control-plane"]', '["control-plane", "worker"]')
    site.well()
    assert site.kube.nodes["n1"].taints == set()


# --- secrets ------------------------------------------------------------------------------------------------------


def test_tokens_are_in_no_script_and_deleted_afterwards(site: Site) -> None:
    site.well()
    assert len(site.kube.minted) == 3
    assert site.kube.tokens == set()
    for token in site.kube.minted:
        secret = token.partition(".")[2]
        assert not any(secret in script for script in site.fleet.scripts)


def test_a_token_is_deleted_when_the_join_fails(site: Site) -> None:
    site.fleet["s1"].refuses["k8s-join"] = "[ERROR Port-10250]: Port 10250 is in use"
    report = site.up()
    assert site.kube.tokens == set()
    assert "Port 10250 is in use" in report.failures["s1"].message
    assert site.states() == {"n1": State.READY, "n2": State.READY, "n3": State.READY, "s1": State.CLEAN}


def test_the_kubeconfig_is_the_owners_only_and_written_once(site: Site) -> None:
    report = site.well()
    path = site.folder / "kubeconfig"
    assert write_kubeconfig(site.fleet, report, path)  # type: ignore[arg-type]
    assert path.stat().st_mode & 0o777 == 0o600
    assert not write_kubeconfig(site.fleet, report, path)  # type: ignore[arg-type]
    assert [child.name for child in site.folder.iterdir() if "kubeconfig" in child.name] == ["kubeconfig"]


# --- interrupted --------------------------------------------------------------------------------------------------

POINTS = [
    ("n1", "receive:begun"),
    ("n2", "fetch:one"),
    ("n1", "prepare:files"),
    ("n2", "prepare:packages"),
    ("s1", "prepare:image"),
    ("n1", "init:begun"),
    ("n1", "init:half"),
    ("n1", "init:done"),
    ("n1", "apply:begun"),
    ("n1", "tokens:made"),
    ("n2", "join:begun"),
    ("s1", "join:half"),
    ("n3", "join:done"),
    ("n1", "kubectl:one"),
]


@pytest.mark.parametrize(("host", "point"), POINTS)
def test_a_run_that_was_killed_is_resumed_by_the_next(site: Site, host: str, point: str) -> None:
    site.fleet[host].dies_in = point
    with pytest.raises(DiedError):
        site.up()
    site.well()
    assert set(site.states().values()) == {State.READY}
    nothing_left(site)


def test_a_run_killed_again_and_again_comes_to_its_end(site: Site) -> None:
    for host, point in POINTS:
        site.fleet[host].dies_in = point
        with suppress(DiedError):  # n3 has joined already when s1 dies
            site.up()
    for host, _ in POINTS:
        site.fleet[host].dies_in = None
    site.well()
    nothing_left(site)


def test_a_reset_that_was_killed_is_finished_by_the_next(site: Site) -> None:
    site.well()
    site.fleet["n2"].dies_in = "reset:begun"
    with pytest.raises(DiedError):
        reset(site.inventory(), site.fleet)  # type: ignore[arg-type]
    assert site.states()["n2"] is State.HALF_JOINED
    assert reset(site.inventory(), site.fleet).failures == {}  # type: ignore[arg-type]
    assert set(site.states().values()) == {State.CLEAN}


# --- states -------------------------------------------------------------------------------------------------------


def test_a_host_that_is_added_costs_one_hosts_work(site: Site) -> None:
    site.well(only=["n1", "n2", "s1"])
    before = {name: str(site.fleet[name]) for name in ("n2", "s1")}
    assert site.well().changed == ("n1", "n3")
    assert {host for host, _ in site.fleet.changing} == {"n1", "n3"}
    assert {name: str(site.fleet[name]) for name in before} == before
    assert [script for host, script in site.fleet.changing if host == "n1"] == [
        "k8s-tokens",
        "k8s-forget",
        "k8s-kubectl",
        "k8s-kubectl",
    ]


def test_workers_alone_are_refused_before_there_is_a_control_plane(site: Site) -> None:
    report = site.up(only=["n2"])
    assert report.failures["n1"].message == "holds no cluster yet: begin with it"
    assert site.fleet.changing == []


def test_a_host_of_another_cluster_is_left_alone(site: Site) -> None:
    site.fleet["s1"].make_foreign()
    before = str(site.fleet["s1"])
    report = site.up()
    assert str(site.fleet["s1"]) == before
    assert report.failures["s1"].message == (
        "of another cluster: its API is https://10.9.9.9:6443; it is left alone without --force-reset s1"
    )
    assert site.states() == {"n1": State.READY, "n2": State.READY, "n3": State.READY, "s1": State.FOREIGN}


def test_it_is_taken_out_of_it_when_told_to(site: Site) -> None:
    site.fleet["s1"].make_foreign()
    site.well(forced=["s1"])
    assert set(site.states().values()) == {State.READY}
    assert site.fleet["s1"].ca == ca("ours")


def test_a_control_plane_of_another_cluster_stops_everything(site: Site) -> None:
    site.fleet["n1"].make_foreign("control plane")
    before = str(site.fleet)
    report = site.up()
    assert "of another cluster" in report.failures["n1"].message
    assert str(site.fleet) == before


def test_a_worker_of_an_earlier_cluster_of_the_same_name_is_of_another(site: Site) -> None:
    """The control plane was lost and is made anew: its CA is another."""
    site.well()
    site.fleet["s1"].ca = ca("an earlier one")
    plan = site.plan().plans["s1"]
    assert plan.found.state is State.FOREIGN
    assert plan.found.evidence == "its cluster's CA is not that of n1"


def test_what_somebody_began_by_hand_is_of_another_cluster(site: Site) -> None:
    site.fleet["n1"].kubeadm = {"pki/ca.crt", "manifests/kube-apiserver.yaml", "etcd"}
    assert site.states()["n1"] is State.FOREIGN
    site.up()
    assert site.fleet["n1"].kubeadm == {"pki/ca.crt", "manifests/kube-apiserver.yaml", "etcd"}


def test_a_silent_api_is_waited_for_and_never_reset(site: Site) -> None:
    site.well()
    site.kube.answers = False
    before = str(site.fleet)
    report = site.up()
    assert report.failures["n1"].message == "its API does not answer"
    assert report.failures["s1"].message == "the API on n1 does not answer"
    assert str(site.fleet) == before


def test_a_pod_that_is_replaced_while_it_is_waited_for_is_no_failure(site: Site) -> None:
    site.fleet["n1"].pod_replaced = True
    site.well()
    assert not site.fleet["n1"].pod_replaced
    nothing_left(site)


def test_what_another_run_has_begun_is_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.fleet["n2"].busy = 3
    site.well()
    assert site.fleet.ran("k8s-probe").count("n2") >= 4
    site.fleet["n2"].busy = 10_000
    report = site.up()
    assert report.failures["n2"].message == "another run is still at work here"
    assert site.fleet.changing == []


def test_an_api_that_comes_back_in_time_is_waited_for(site: Site) -> None:
    site.well()
    site.kube.answers = False
    answers = iter([False, True, True, True])
    real = module.replan

    def replan(*arguments: Any) -> None:
        site.kube.answers = next(answers)
        real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "replan", replan)
        patch.setattr(module, "API_S", 10_000)
        assert site.well().changed == ()


def test_a_stale_node_is_deleted_before_its_host_joins_anew(site: Site) -> None:
    site.well()
    host = site.fleet["s1"]
    host.kubeadm, host.servers, host.ca = set(), [], ""
    assert site.states()["s1"] is State.STALE
    site.well()
    nothing_left(site)


def test_a_host_whose_node_was_deleted_joins_anew(site: Site) -> None:
    site.well()
    del site.kube.nodes["s1"]
    assert site.states()["s1"] is State.LOST
    site.well()
    nothing_left(site)


def test_a_control_plane_whose_node_was_deleted_is_not_reset(site: Site) -> None:
    site.well()
    del site.kube.nodes["n1"]
    site.up()
    assert site.kube is not None
    assert sorted(site.kube.nodes) == ["n2", "n3", "s1"]


def test_what_was_taken_off_by_hand_is_put_back(site: Site) -> None:
    site.well()
    host = site.fleet["n2"]
    host.images.discard("registry.k8s.io/pause:3.10.2")
    del host.files["/etc/crictl.yaml"]
    host.endpoint = None
    host.running.discard("containerd")
    site.kube.manifests.pop("DaemonSet kube-flannel/isthmus-flannel")
    site.kube.nodes["s1"].taints.clear()
    plans = site.plan().plans
    assert [str(todo) for todo in plans["n2"].todo] == [
        "files: /etc/crictl.yaml",
        "the API's name: api.isthmus.internal = 172.16.0.1",
        "services: start containerd",
        "images: registry.k8s.io/pause:3.10.2",
    ]
    assert [str(todo) for todo in plans["n1"].todo] == ["apply: DaemonSet kube-flannel/isthmus-flannel"]
    assert [str(todo) for todo in plans["s1"].todo] == [f"label and taint: taint {TAINT}"]
    site.well()
    nothing_left(site)


# --- objections ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"mesh_up": False}, "the mesh is not up: wg0 has no address 172.16.0.2; run `inv mesh.up` first"),
        ({"system": "ubuntu 24.04"}, "runs ubuntu 24.04, expected one of debian 11, debian 12, debian 13"),
        ({"packages": {"docker.io": "20.10"}}, "has the package docker.io, which containerd.io would replace"),
        ({"nameservers": 0}, "has no name server in /etc/resolv.conf that is not itself"),
        ({"unreachable": "no answer within 20 s"}, "no answer within 20 s"),
        ({"disk_mb": 499}, "499 MB free below /var/lib, expected 500"),
        ({"refuses": {"k8s-prepare": "E: dpkg was interrupted"}}, "E: dpkg was interrupted"),
    ],
)
def test_a_worker_that_cannot_be_worked_on_is_one_line_and_the_others_are_finished(
    site: Site, spoil: dict[str, Any], said: str
) -> None:
    for name, value in spoil.items():
        setattr(site.fleet["n2"], name, value)
    report = site.up()
    assert list(report.failures) == ["n2"]
    assert said in report.failures["n2"].message
    assert sorted(site.kube.nodes) == ["n1", "n3", "s1"]


@pytest.mark.parametrize("spoil", [{"mesh_up": False}, {"unreachable": "no answer"}, {"refuses": {"k8s-init": "no"}}])
def test_without_the_control_plane_nobody_joins(site: Site, spoil: dict[str, Any]) -> None:
    for name, value in spoil.items():
        setattr(site.fleet["n1"], name, value)
    report = site.up()
    assert "n1" in report.failures
    assert site.fleet.ran("k8s-join") == []


def test_another_version_of_kubernetes_is_an_upgrade_and_refused(site: Site) -> None:
    site.well()
    site.fleet["n2"].packages["kubelet"] = "1.35.4-1.1"
    before = str(site.fleet)
    report = site.up()
    assert report.failures["n2"].message == (
        "runs kubelet 1.35.4-1.1, the bundle has 1.36.2: `inv k8s.upgrade` upgrades it"
    )
    assert str(site.fleet) == before


def test_a_bundle_with_a_wrong_sum_stops_the_run_before_anything_is_touched(site: Site) -> None:
    (site.folder / "bundle/images/etcd.tar").write_text("something else")
    (site.folder / "bundle/images/pause.tar").unlink()
    before = str(site.fleet)
    with pytest.raises(InventoryError) as caught:
        site.up()
    assert str(site.fleet) == before
    assert [problem.where for problem in caught.value.problems] == ["images/etcd.tar", "images/pause.tar"]
    assert f"expected {bundles.digest('images/etcd.tar')}" in str(caught.value)


def test_a_file_that_changes_on_its_way_is_refused_there(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.cluster.phases.check_files", lambda *_: None)
    (site.folder / "bundle/images/etcd.tar").write_text("something else")
    report = site.up()
    assert "images/etcd.tar arrived with another sum than it left with" in report.failures["n1"].message


def test_without_a_bundle_nothing_begins(site: Site) -> None:
    site.edit('bundle = "bundle"\n', "")
    with pytest.raises(InventoryError, match=r"kubernetes\.bundle: found nothing, expected a source = "):
        site.up()


def test_a_kubeadm_that_wants_another_image_than_the_bundle_has_initialises_nothing(site: Site) -> None:
    etcd = "registry.k8s.io/etcd:3.6.9-0"
    site.fleet.references["images/other.tar"] = (etcd,)
    report = site.up()
    assert report.failures["n1"].message == f"kubeadm wants {etcd}, which the bundle does not have"
    assert site.fleet.ran("k8s-init", "k8s-join") == []


# --- resources ----------------------------------------------------------------------------------------------------


def test_a_resource_gets_its_service_and_loses_it_again(site: Site) -> None:
    site.edit("port    = 3306", 'port    = 3306\nservice = "shop/db"')
    site.well()
    assert {"Service shop/db", "EndpointSlice shop/db-isthmus"} <= site.kube.manifests.keys()
    nothing_left(site)
    site.edit('service = "shop/db"', "")
    assert [str(todo) for todo in site.plan().plans["n1"].todo] == ["apply: no Service shop/db"]
    site.well()
    assert not [name for name in site.kube.manifests if "shop" in name]
    nothing_left(site)


def test_a_service_of_somebody_else_is_left_alone(site: Site) -> None:
    site.well()
    site.kube.manifests["Service default/mysql"] = ""
    site.edit("port    = 3306", 'port    = 3306\nservice = "default/mysql"')
    report = site.up()
    assert "Service default/mysql of somebody else's" in report.failures["n1"].message
    assert site.kube.manifests["Service default/mysql"] == ""


# --- labels and taints --------------------------------------------------------------------------------------------


def test_a_host_that_lacks_only_its_labels_is_one_that_was_changed(site: Site) -> None:
    """As after a run that was interrupted once the host had joined."""
    site.well()
    site.kube.nodes["s1"].labels.pop(ZONE)
    report = site.well()
    assert (report.failures, "s1" in report.changed, "n2" in report.changed) == ({}, True, False)
    assert site.well().changed == ()


def test_taints_follow_hosts_toml_and_others_stay(site: Site) -> None:
    site.well()
    site.kube.nodes["s1"].taints.add("mine=1:NoExecute")
    site.kube.nodes["s1"].labels["mine"] = "1"
    site.edit(f'taints  = ["{TAINT}"]', 'labels = ["disk=ssd"]\ntaints = ["zone=sh:NoSchedule"]')
    report = mark(site.inventory(), site.fleet)  # type: ignore[arg-type]
    assert (report.changed, report.failures) == (("s1",), {})
    assert site.kube.nodes["s1"].taints == {"mine=1:NoExecute", "zone=sh:NoSchedule"}
    assert site.kube.nodes["s1"].labels["disk"] == "ssd"
    site.edit('labels = ["disk=ssd"]\ntaints = ["zone=sh:NoSchedule"]', "")
    assert mark(site.inventory(), site.fleet).changed == ("s1",)  # type: ignore[arg-type]
    assert site.kube.nodes["s1"].taints == {"mine=1:NoExecute"}
    assert site.kube.nodes["s1"].labels.keys() == {"kubernetes.io/hostname", ZONE, "mine"}
    assert mark(site.inventory(), site.fleet).changed == ()  # type: ignore[arg-type]


# --- leaving ------------------------------------------------------------------------------------------------------


def test_a_host_is_removed_and_joins_again(site: Site) -> None:
    site.well()
    report = remove(site.inventory(), site.fleet, "s1")  # type: ignore[arg-type]
    assert (report.changed, report.failures) == (("s1",), {})
    assert "s1" not in site.kube.nodes
    assert site.states()["s1"] is State.CLEAN
    assert remove(site.inventory(), site.fleet, "s1").changed == ()  # type: ignore[arg-type]
    site.well()
    assert site.kube.nodes["s1"].taints == {TAINT}
    nothing_left(site)


def test_a_host_that_is_off_is_forgotten_and_cleaned_when_it_is_back(site: Site) -> None:
    site.well()
    site.fleet["s1"].unreachable = "no answer within 20 s"
    report = remove(site.inventory(), site.fleet, "s1")  # type: ignore[arg-type]
    assert report.failures == {}
    assert report.notes[0].startswith("s1: no answer within 20 s: its Node is deleted, its files stay")
    assert "s1" not in site.kube.nodes
    site.fleet["s1"].unreachable = None
    assert remove(site.inventory(), site.fleet, "s1").changed == ("s1",)  # type: ignore[arg-type]
    assert site.states()["s1"] is State.CLEAN


def test_the_control_plane_is_not_removed(site: Site) -> None:
    site.well()
    with pytest.raises(UsageError, match=r"inv k8s\.reset"):
        remove(site.inventory(), site.fleet, "n1")  # type: ignore[arg-type]


def test_a_reset_ends_the_cluster_the_control_plane_last_and_a_bootstrap_makes_it_anew(site: Site) -> None:
    site.well()
    site.fleet.calls.clear()
    assert reset(site.inventory(), site.fleet).failures == {}  # type: ignore[arg-type]
    assert site.fleet.ran("k8s-reset") == ["n2", "n3", "s1", "n1"]
    assert set(site.states().values()) == {State.CLEAN}
    assert all(not plan.has(Do.PREPARE) for plan in site.plan().plans.values())
    site.well()
    nothing_left(site)


def test_a_reset_keeps_the_control_plane_while_a_host_is_off_and_leaves_others_clusters_alone(site: Site) -> None:
    site.well()
    site.fleet["n2"].unreachable = "no answer within 20 s"
    report = reset(site.inventory(), site.fleet)  # type: ignore[arg-type]
    assert "it is kept until the other hosts are reset" in report.failures["n1"].message
    site.fleet["n2"].make_foreign()
    site.fleet["n2"].unreachable = None
    before = str(site.fleet["n2"])
    reset(site.inventory(), site.fleet)  # type: ignore[arg-type]
    assert str(site.fleet["n2"]) == before
    assert site.kube is not None


# --- pods ---------------------------------------------------------------------------------------------------------


def test_pods_are_asked_and_taken_off(site: Site) -> None:
    site.well()
    before = str(site.fleet)
    report = check_pods(site.inventory(), site.fleet)  # type: ignore[arg-type]
    assert report.broken == ()
    assert len(report.pairs) == 4 * 5
    assert {(pair.source, pair.destination) for pair in report.pairs if pair.crossed} == {
        *((name, "s1") for name in ("n1", "n2", "n3")),
        *(("s1", name) for name in ("n1", "n2", "n3")),
    }
    assert str(site.fleet) == before


def test_a_pair_that_is_broken_or_not_asked_is_told(site: Site) -> None:
    site.well()
    site.fleet.unheard["n2", "s1"] = "8192 of 262144 bytes arrived"
    del site.kube.nodes["n3"]
    report = check_pods(site.inventory(), site.fleet)  # type: ignore[arg-type]
    faults = {(pair.source, pair.destination): pair.fault for pair in report.broken}
    assert faults["n2", "s1"] == "8192 of 262144 bytes arrived"
    assert faults["n3", "n1"] == faults["n1", "n3"] == "no pod was asked"


def test_pods_are_taken_off_even_when_asking_fails(site: Site) -> None:
    site.well()
    site.fleet["n1"].refuses["k8s-pods"] = "error: unable to upgrade connection"
    report = check_pods(site.inventory(), site.fleet)  # type: ignore[arg-type]
    assert "unable to upgrade connection" in report.failures["n1"].message
    assert "isthmus-check" not in site.kube.namespaces


def test_no_script_has_a_secret_in_its_inputs(site: Site) -> None:
    site.well()
    for script in site.fleet.scripts:
        assert not re.search(r"[a-z0-9]{6}\.[a-z0-9]{16}", script)
