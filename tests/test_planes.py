"""Several control planes on hosts in memory: etcd's majority, certificates handed over, one that is off or leaves."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from fake_cluster import DiedError, FakeNode, Kube, ca
from test_bootstrap import HOSTS, Site, _no_waiting, nothing_left

from isthmus.cluster.bootstrap import write_kubeconfig
from isthmus.cluster.leaving import remove, reset
from isthmus.cluster.marking import mark
from isthmus.cluster.pods import check_pods
from isthmus.cluster.preflight import preflight
from isthmus.cluster.survey import on_plane
from isthmus.errors import HostError, UsageError
from isthmus.kubernetes.cluster import cluster_of
from isthmus.kubernetes.plan import Do
from isthmus.kubernetes.state import State
from isthmus.report.cluster import days_left

__all__ = ["_no_waiting"]

PLANES = ("n1", "n2", "n3")
ROLES = 'roles   = ["control-plane", "worker"]\n'
THREE = HOSTS.replace('public  = "203.0.113.2" ', f'{ROLES}public  = "203.0.113.2" ').replace(
    'address = "172.16.0.3"\n', f'address = "172.16.0.3"\n{ROLES}'
)
OFF = "no answer within 20 s"
BALANCER = "/etc/isthmus-kubernetes/haproxy.cfg"


class Planes(Site):
    """A workstation with three control planes in Nanjing and a worker in Shanghai."""

    @property
    def kube(self) -> Kube:
        return next(host.kube for host in self.fleet.hosts.values() if host.kube)

    def remove(self, host: str) -> Any:
        return remove(self.inventory(), self.fleet, host)  # type: ignore[arg-type]


@pytest.fixture
def site(tmp_path: Path) -> Planes:
    return Planes(tmp_path, THREE)


def wipe(host: FakeNode) -> None:
    """Make the machine anew: etcd and the cluster still know the old one."""
    host.kubeadm, host.servers, host.ca, host.kube = set(), [], "", None


# --- from nothing -------------------------------------------------------------------------------------------------


def test_control_planes_join_one_after_the_other_and_before_the_workers(site: Planes) -> None:
    site.well()
    order = [call for call in site.fleet.calls if call[1] in ("k8s-init", "k8s-certs", "k8s-join", "k8s-uncerts")]
    assert order == [
        ("n1", "k8s-init"),
        ("n1", "k8s-certs"),
        ("n2", "k8s-join"),
        ("n3", "k8s-join"),
        ("n1", "k8s-uncerts"),
        ("s1", "k8s-join"),
    ]
    assert site.kube.members == set(PLANES)
    assert set(site.states().values()) == {State.READY}
    nothing_left(site)


def test_workers_have_a_balancer_and_control_planes_ask_themselves_first(site: Planes) -> None:
    site.well()
    assert {name: host.endpoint for name, host in site.fleet.hosts.items()} == {
        "n1": "172.16.0.1 172.16.0.2 172.16.0.3",
        "n2": "172.16.0.2 172.16.0.1 172.16.0.3",
        "n3": "172.16.0.3 172.16.0.1 172.16.0.2",
        "s1": "127.0.0.1",
    }
    assert [name for name, host in site.fleet.hosts.items() if host.balancer_up or BALANCER in host.files] == ["s1"]


def test_the_key_of_the_certificates_is_made_for_the_join_and_in_no_script(site: Planes) -> None:
    site.well()
    assert len(site.kube.keys) == 1
    assert site.kube.certificates is None
    assert not any(site.kube.keys[0] in script for script in site.fleet.scripts)
    site.well()
    assert len(site.kube.keys) == 1  # nobody joined: nothing was handed over


def test_certificates_are_taken_back_when_a_join_fails_and_the_next_plane_waits(site: Planes) -> None:
    site.fleet["n2"].refuses["k8s-join"] = "[ERROR Port-2380]: Port 2380 is in use"
    report = site.up()
    assert site.kube.certificates is None
    assert "Port 2380 is in use" in report.failures["n2"].message
    assert report.failures["n3"].message == "waits for n2, which did not join: etcd takes one after the other"
    assert set(report.failures) == {"n2", "n3"}
    assert site.states() == {"n1": State.READY, "n2": State.CLEAN, "n3": State.CLEAN, "s1": State.READY}


@pytest.mark.parametrize(
    ("host", "point"),
    [
        ("n1", "init:half"),
        ("n1", "init:done"),
        ("n1", "certs:there"),
        ("n2", "join:begun"),
        ("n2", "join:half"),
        ("n2", "join:member"),
        ("n3", "join:member"),
        ("n3", "join:done"),
        ("s1", "balance:files"),
        ("s1", "join:half"),
    ],
)
def test_a_run_that_was_killed_is_resumed_by_the_next(site: Planes, host: str, point: str) -> None:
    site.fleet[host].dies_in = point
    with pytest.raises(DiedError):
        site.up()
    site.well()
    assert site.kube.members == set(PLANES)
    assert site.kube.certificates is None
    nothing_left(site)


def test_half_a_control_plane_leaves_etcd_before_its_disk_is_cleaned(site: Planes) -> None:
    site.fleet["n3"].dies_in = "join:member"
    with pytest.raises(DiedError):
        site.up()
    assert site.states()["n3"] is State.HALF_JOINED
    site.well()
    steps = [call for call in site.fleet.calls if call[1] in ("k8s-etcd", "k8s-reset", "k8s-join")]
    assert steps[:2] == [("n1", "k8s-etcd"), ("n3", "k8s-reset")]


def test_where_etcd_keeps_it_nothing_is_cleaned(site: Planes) -> None:
    site.fleet["n3"].dies_in = "join:member"
    with pytest.raises(DiedError):
        site.up()
    site.fleet["n1"].refuses["k8s-etcd"] = "etcd keeps n3: Error: etcdserver: unhealthy cluster"
    report = site.up()
    assert "etcd keeps n3" in report.failures["n1"].message
    assert site.fleet.ran("k8s-reset") == []


# --- one is off ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", PLANES)
def test_with_one_control_plane_off_everything_else_goes_on(site: Planes, victim: str) -> None:
    site.well()
    site.fleet[victim].unreachable = OFF
    site.fleet["s1"].images.clear()
    report = site.up()
    assert {name: error.message for name, error in report.failures.items()} == {victim: OFF}
    assert report.changed == ("n2" if victim == "n1" else "n1", "s1")  # the one that was asked, and s1
    assert site.well(only=["s1"]).changed == ()
    assert mark(site.inventory(), site.fleet).failures == {}  # type: ignore[arg-type]
    assert check_pods(site.inventory(), site.fleet).broken == ()  # type: ignore[arg-type]
    assert write_kubeconfig(site.fleet, report, site.folder / "kubeconfig")  # type: ignore[arg-type]
    assert days_left(report) == 73
    site.fleet[victim].unreachable = None
    nothing_left(site)


def test_the_certificates_that_end_first_are_told(site: Planes) -> None:
    report = site.well()
    assert days_left(report) == 73
    site.fleet["n3"].clock += 10 * 86_400
    assert days_left(site.plan()) == 63


def test_with_two_off_the_api_is_silent_and_nothing_is_touched(site: Planes) -> None:
    site.well()
    for name in ("n1", "n2"):
        site.fleet[name].unreachable = OFF
    report = site.up()
    assert report.failures["n3"].message == "its API does not answer"
    assert site.fleet.changing == []


def test_no_second_cluster_is_begun_beside_one_that_may_be_off(site: Planes) -> None:
    """N1 was made anew while the others, which hold the cluster, are off."""
    site.well()
    wipe(site.fleet["n1"])
    for name in ("n2", "n3"):
        site.fleet[name].unreachable = OFF
    report = site.up()
    assert report.failures["n1"].message == (
        "n2 may hold the cluster already, and could not be asked; n3 may hold the cluster already, and could not be"
        " asked"
    )
    assert site.fleet.changing == []


@pytest.mark.parametrize("victim", PLANES)
def test_a_machine_made_anew_joins_again_and_its_old_self_leaves_etcd(site: Planes, victim: str) -> None:
    site.well()
    wipe(site.fleet[victim])
    assert site.states()[victim] is State.STALE
    site.well()
    assert site.fleet.ran("k8s-init") == []
    assert site.kube.members == set(PLANES)
    nothing_left(site)


# --- leaving ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaver", PLANES)
def test_a_control_plane_is_removed_and_joins_again(site: Planes, leaver: str) -> None:
    site.well()
    site.fleet.calls.clear()
    report = site.remove(leaver)
    assert (report.changed, report.failures) == ((leaver,), {})
    left = " and ".join(name for name in PLANES if name != leaver).replace(" and ", ", ")
    assert report.notes == (
        f"the control planes {left} are left: with one of them off the API stops, until there is a third again",
    )
    assert site.kube.members == {*PLANES} - {leaver}
    steps = [script for _, script in site.fleet.calls if script in ("k8s-etcd", "k8s-reset")]
    assert steps == ["k8s-etcd", "k8s-reset"]
    assert site.states()[leaver] is State.CLEAN
    site.well()
    assert site.fleet.ran("k8s-init") == []
    nothing_left(site)


def test_one_that_is_off_is_forgotten_by_etcd_too_and_cleaned_when_it_is_back(site: Planes) -> None:
    site.well()
    site.fleet["n1"].unreachable = OFF
    report = site.remove("n1")
    assert report.failures == {}
    assert report.notes[0].startswith(f"n1: {OFF}: its Node is deleted, its files stay")
    assert site.kube.members == {"n2", "n3"}
    site.fleet["n1"].unreachable = None
    assert site.states()["n1"] is State.LOST
    site.well()
    assert site.fleet.ran("k8s-init") == []
    nothing_left(site)


@pytest.mark.parametrize("cordoned", [False, True])
def test_one_is_not_removed_while_another_is_off(site: Planes, cordoned: bool) -> None:
    """Nor is it left cordoned, unless it was."""
    site.well()
    site.kube.nodes["n2"].unschedulable = cordoned
    site.fleet["n1"].unreachable = OFF
    with pytest.raises(HostError, match="etcd keeps n2: Error: etcdserver: unhealthy cluster"):
        site.remove("n2")
    assert site.kube.members == set(PLANES)
    assert site.fleet.ran("k8s-reset") == []
    assert site.kube.nodes["n2"].unschedulable is cordoned


def test_a_worker_that_is_removed_loses_its_balancer(site: Planes) -> None:
    site.well()
    assert site.remove("s1").failures == {}
    host = site.fleet["s1"]
    assert (host.balancer_up, BALANCER in host.files) == (False, False)
    site.well()
    nothing_left(site)


def test_a_reset_takes_the_one_that_speaks_last(site: Planes) -> None:
    site.well()
    site.fleet.calls.clear()
    assert reset(site.inventory(), site.fleet).failures == {}  # type: ignore[arg-type]
    assert site.fleet.ran("k8s-reset") == ["s1", "n2", "n3", "n1"]
    assert set(site.states().values()) == {State.CLEAN}
    site.well()
    nothing_left(site)


# --- one becomes three, and three one -----------------------------------------------------------------------------


def test_one_control_plane_becomes_three(tmp_path: Path) -> None:
    """Those that were workers are removed first, and join anew; the API's name now leads workers to their balancer."""
    site = Planes(tmp_path, HOSTS)
    site.well()
    assert [host.balancer_up for host in site.fleet.hosts.values()] == [False] * 4
    site.text = f'{THREE}bundle = "bundle"\n'
    assert site.states()["n2"] is State.OTHER_ROLE
    report = site.up()
    assert report.failures["n2"].message == (
        "has joined as a worker, hosts.toml makes it a control plane: `inv k8s.remove n2` first, then it joins anew"
    )
    for name in ("n2", "n3"):
        assert site.remove(name).failures == {}
    site.well()
    assert site.fleet.ran("k8s-init") == []
    assert site.kube.members == set(PLANES)
    assert site.fleet["s1"].endpoint == "127.0.0.1"
    proxies = [line for script in site.fleet.scripts for line in script.splitlines() if "k8s-app=kube-proxy" in line]
    deleted = [line for line in proxies if line.startswith("kubectl delete pods")]
    # n1's own pod, too: it knows one address where now there are three.
    assert [line.partition("spec.nodeName=")[2].split()[0] for line in deleted] == ["n1", "s1"]
    nothing_left(site)


def test_three_control_planes_become_one(site: Planes) -> None:
    site.well()
    for name in ("n2", "n3"):
        assert site.remove(name).failures == {}
    site.text = f'{HOSTS}bundle = "bundle"\n'
    site.well()
    assert site.kube.members == {"n1"}
    assert {host.endpoint for host in site.fleet.hosts.values()} == {"172.16.0.1"}
    assert not any(host.balancer_up for host in site.fleet.hosts.values())
    nothing_left(site)


def test_a_control_plane_that_is_to_be_a_worker_is_told_to_leave_first(site: Planes) -> None:
    site.well()
    site.text = f'{HOSTS}bundle = "bundle"\n'
    assert site.up().failures["n3"].message == (
        "is a control plane, hosts.toml makes it a worker: `inv k8s.remove n3` first, then it joins anew"
    )
    assert site.remove("n3").failures == {}
    assert site.kube.members == {"n1", "n2"}


def test_the_only_one_is_not_removed(tmp_path: Path) -> None:
    site = Planes(tmp_path, HOSTS)
    site.well()
    with pytest.raises(UsageError, match=r"inv k8s\.reset"):
        site.remove("n1")


# --- the plan -----------------------------------------------------------------------------------------------------


def test_what_was_taken_off_by_hand_is_put_back(site: Planes) -> None:
    site.well()
    host = site.fleet["s1"]
    host.balancer_up = False
    del host.files[BALANCER]
    site.fleet["n2"].endpoint = "172.16.0.1"
    plans = site.plan().plans
    assert [str(todo) for todo in plans["s1"].todo] == [f"load balancer: {BALANCER}, start it"]
    assert [str(todo) for todo in plans["n2"].todo] == [
        "the API's name: api.isthmus.internal = 172.16.0.2 or 172.16.0.1 or 172.16.0.3"
    ]
    site.well()
    nothing_left(site)


def test_the_plan_of_bare_hosts_says_who_begins(site: Planes) -> None:
    plans = site.plan().plans
    assert {name: plan.has(Do.INITIALISE) for name, plan in plans.items()} == {
        **dict.fromkeys(PLANES, False),
        "n1": True,
        "s1": False,
    }
    assert "join: kubeadm join as a control plane" in map(str, plans["n2"].todo)


def test_an_earlier_cluster_of_the_same_name_is_of_another(site: Planes) -> None:
    site.well()
    site.fleet["n2"].ca = ca("an earlier one")
    found = site.plan().plans["n2"].found
    assert (found.state, found.evidence) == (State.FOREIGN, "its cluster's CA is not that of n1")


def test_another_cluster_on_a_control_plane_is_asked_for_nothing(site: Planes) -> None:
    """N1 left ours for somebody else's, which knows hosts by the same names; it comes first in hosts.toml."""
    site.well()
    ours = site.kube
    wipe(site.fleet["n1"])
    site.fleet["n1"].make_foreign("control plane")
    site.fleet["n1"].kubeadm.add("etcd")
    theirs = site.fleet["n1"].kube = deepcopy(ours)
    theirs.members = {"n1"}
    for kube in (ours, theirs):
        kube.nodes["s1"].labels.clear()
    before = str(theirs)
    assert site.states()["n1"] is State.FOREIGN
    assert mark(site.inventory(), site.fleet, ["s1"]).changed == ("s1",)  # type: ignore[arg-type]
    assert "topology.kubernetes.io/zone" in ours.nodes["s1"].labels
    ours.nodes["s1"].labels.clear()
    assert site.up(only=["s1"]).failures == {}
    assert "topology.kubernetes.io/zone" in ours.nodes["s1"].labels
    assert str(theirs) == before
    site.fleet.calls.clear()
    assert on_plane(site.fleet, cluster_of(site.inventory()), lambda remote: remote.name) == "n2"  # type: ignore[arg-type]
    for name in ("n2", "n3"):
        wipe(site.fleet[name])
    with pytest.raises(
        HostError, match=r"n1: of another cluster: its API is https://10\.9\.9\.9:6443; it is left alone"
    ):
        on_plane(site.fleet, cluster_of(site.inventory()), lambda remote: remote.name)  # type: ignore[arg-type]


def test_kubeadm_checks_those_that_join_as_control_planes(site: Planes) -> None:
    site.well()
    reset(site.inventory(), site.fleet)  # type: ignore[arg-type]
    site.fleet["n2"].preflight_says = ["[ERROR Port-2380]: Port 2380 is in use"]
    report = preflight(site.inventory(), site.fleet)  # type: ignore[arg-type]
    assert report.asked == PLANES  # s1 has no balancer any more: k8s.bootstrap prepares it first
    assert [str(finding.host) for finding in report.findings] == ["n2"]
