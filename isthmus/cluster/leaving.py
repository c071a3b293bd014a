"""Takes hosts out of the cluster: drained, forgotten, cleaned. Packages, images and the mesh stay."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from isthmus.cluster.phases import KUBEADM_TIMEOUT_S, LOCK_WAIT_S, forget_nodes
from isthmus.cluster.survey import ClusterReport, kubectl, look, nodes_of, on_plane
from isthmus.errors import HostError, UnreachableError, UsageError
from isthmus.host_scripts import host_script
from isthmus.kubernetes.cluster import cluster_of
from isthmus.kubernetes.facts import NodeFacts
from isthmus.kubernetes.state import State, states
from isthmus.model import Inventory
from isthmus.remote import Fleet
from isthmus.survey import Progress, silent

DRAIN_S = 300


def remove(inventory: Inventory, fleet: Fleet, host: str, progress: Progress = silent) -> ClusterReport:
    """Drain a worker, delete its Node and clean the host. One that is off is forgotten all the same, and told."""
    report = ClusterReport(cluster_of(inventory))
    plane = report.cluster.control_plane.name
    if host == plane:
        raise UsageError(f"{host} holds the cluster's API: `inv k8s.reset` ends the whole cluster")
    _look(report, fleet, [plane, host], progress)
    if plane in report.failures:
        return report
    if report.facts[plane].api is None:
        report.failures[plane] = HostError(plane, "its API does not answer; without it no host can be drained")
        return report
    off = isinstance(report.failures.get(host), UnreachableError)
    if host in report.failures and not off:
        return report
    known = nodes_of(report.facts, report.cluster).get(host)
    if known:
        if known.ready and not off:
            flags = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={DRAIN_S}s")
            progress(host, "draining")
            on_plane(
                fleet, report.cluster, lambda remote: kubectl(remote, ("drain", host, *flags), timeout=DRAIN_S + 60)
            )
        on_plane(fleet, report.cluster, lambda remote: forget_nodes(remote, [host]))
        progress(host, "its Node is deleted")
        report.changed = (host,)
    if off:
        what = f"{report.failures.pop(host).message}: its Node is deleted, its files stay"
        report.notes = (f"{host}: {what}; it is cleaned by the next k8s.remove or k8s.bootstrap that reaches it",)
        return report
    if report.facts[host].is_member or report.facts[host].unfinished:
        _clean(report, fleet, [host], progress)
    return report


def reset(inventory: Inventory, fleet: Fleet, progress: Progress = silent) -> ClusterReport:
    """Take every host out of the cluster, the control plane last. Hosts of other clusters are left alone."""
    report = ClusterReport(cluster_of(inventory))
    plane = report.cluster.control_plane.name
    _look(report, fleet, list(report.cluster.nodes), progress)
    members = [name for name, facts in report.facts.items() if facts.is_member or facts.unfinished]
    _clean(report, fleet, [name for name in members if name != plane and name not in report.failures], progress)
    if plane in members and plane not in report.failures:
        if any(name != plane for name in report.failures):
            text = "it is kept until the other hosts are reset: without its CA nobody could tell that they are its own"
            report.failures[plane] = HostError(plane, text)
        else:
            _clean(report, fleet, [plane], progress)
    return report


def _look(report: ClusterReport, fleet: Fleet, hosts: Collection[str], progress: Progress) -> None:
    """Look at hosts; those of other clusters become failures."""
    found = look(fleet, report.cluster, hosts, progress)
    report.facts = {name: facts for name, facts in found.items() if isinstance(facts, NodeFacts)}
    report.failures = {name: error for name, error in found.items() if isinstance(error, HostError)}
    for name, state in states(report.cluster, report.facts).items():
        if state.state is State.FOREIGN:
            report.failures[name] = HostError(name, f"of another cluster: {state.evidence}; it is left alone")


def _clean(report: ClusterReport, fleet: Fleet, hosts: Iterable[str], progress: Progress) -> None:
    script = host_script("k8s-reset", only_unfinished="no", wait_s=LOCK_WAIT_S)
    results = fleet.each(
        hosts,
        lambda remote: remote.run(script, timeout=KUBEADM_TIMEOUT_S),
        on_done=lambda name, result: progress(name, result.message if isinstance(result, HostError) else "cleaned"),
    )
    for name, result in results.items():
        if isinstance(result, HostError):
            report.failures[name] = result
    done = [name for name, result in results.items() if not isinstance(result, HostError)]
    report.changed = tuple(dict.fromkeys([*report.changed, *done]))
