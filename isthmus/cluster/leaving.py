"""Takes hosts out of the cluster: drained, forgotten, cleaned. Packages, images and the mesh stay."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from isthmus.cluster.phases import KUBEADM_TIMEOUT_S, LOCK_WAIT_S, forget_nodes
from isthmus.cluster.planes import is_plane, leave_etcd, majority_note
from isthmus.cluster.staging import unbalance_script
from isthmus.cluster.survey import ClusterReport, kubectl, look, planes_and
from isthmus.errors import HostError, UnreachableError, UsageError
from isthmus.host_scripts import host_script
from isthmus.kubernetes.cluster import ROLE_LABEL, cluster_of
from isthmus.kubernetes.configs import BALANCER, BALANCER_UNIT
from isthmus.kubernetes.facts import NodeFacts, NodeObject
from isthmus.kubernetes.state import State, speaker, states
from isthmus.model import Inventory
from isthmus.remote import Fleet, Remote
from isthmus.survey import Progress, silent

DRAIN_S = 300


def remove(inventory: Inventory, fleet: Fleet, host: str, progress: Progress = silent) -> ClusterReport:
    """Drain a node, delete its Node and clean the host. One that is off is forgotten all the same, and told.

    A control plane leaves etcd first, which refuses where those that stay would be no majority.
    """
    report = ClusterReport(cluster_of(inventory))
    cluster = report.cluster
    if [host] == planes_and(cluster):
        raise UsageError(f"{host} holds the cluster's API: `inv k8s.reset` ends the whole cluster")
    _look(report, fleet, planes_and(cluster, [host]), progress)
    plane = _other_plane(report, host)
    report.failures = {name: error for name, error in report.failures.items() if name in (plane, host)}
    if plane in report.failures:
        return report
    api = report.facts[plane].api
    if api is None:
        report.failures[plane] = HostError(plane, "its API does not answer; without it no host can be drained")
        return report
    off = isinstance(report.failures.get(host), UnreachableError)
    if host in report.failures and not off:
        return report
    _forget(report, fleet, plane, host, api.nodes.get(host), progress)
    if off:
        what = f"{report.failures.pop(host).message}: its Node is deleted, its files stay"
        left = f"{host}: {what}; it is cleaned by the next k8s.remove or k8s.bootstrap that reaches it"
        report.notes = (left, *report.notes)
        return report
    if report.facts[host].is_member or report.facts[host].unfinished:
        _clean(report, fleet, [host], progress)
    return report


def _forget(
    report: ClusterReport, fleet: Fleet, plane: str, host: str, known: NodeObject | None, progress: Progress
) -> None:
    """Drain a node if it is well, take it out of etcd if it is in, and delete its Node."""

    def ask(function: Callable[[Remote], object]) -> None:
        result = fleet.each([plane], function)[plane]
        if isinstance(result, HostError):
            raise result

    drained = known is not None and known.ready and host in report.facts
    try:
        if drained:
            flags = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={DRAIN_S}s")
            progress(host, "draining")
            ask(lambda remote: kubectl(remote, ("drain", host, *flags), timeout=DRAIN_S + 60))
        was_plane = is_plane(report.facts.get(host)) or (known is not None and ROLE_LABEL in known.labels)
        if was_plane:
            ask(lambda remote: leave_etcd(remote, report.cluster.nodes[host]))
    except HostError:
        # It stays in the cluster, so pods may come again; what the user has cordoned stays so.
        if drained and known and not known.unschedulable:
            fleet.each([plane], lambda remote: kubectl(remote, ("uncordon", host)))
        raise
    if was_plane:
        progress(host, "has left etcd")
        report.notes = majority_note(report.cluster, host)
    if known:
        ask(lambda remote: forget_nodes(remote, [host]))
        progress(host, "its Node is deleted")
        report.changed = (host,)


def reset(inventory: Inventory, fleet: Fleet, progress: Progress = silent) -> ClusterReport:
    """Take every host out of the cluster, the control planes last. Hosts of other clusters are left alone."""
    report = ClusterReport(cluster_of(inventory))
    _look(report, fleet, list(report.cluster.nodes), progress)
    plane = report.plane
    members = [name for name, facts in report.facts.items() if facts.is_member or facts.unfinished]
    going = [name for name in members if name != plane and name not in report.failures]
    others = [name for name in going if is_plane(report.facts[name])]
    _clean(report, fleet, [name for name in going if name not in others], progress)
    for name in others:  # one by one, so that kubeadm can take each out of etcd
        _clean(report, fleet, [name], progress)
    if plane in members and plane not in report.failures:
        if any(name != plane for name in report.failures):
            text = "it is kept until the other hosts are reset: without its CA nobody could tell that they are its own"
            report.failures[plane] = HostError(plane, text)
        else:
            _clean(report, fleet, [plane], progress)
    return report


def _other_plane(report: ClusterReport, host: str) -> str:
    """Return the control plane to ask about a host that leaves: not itself, if another one can be asked."""
    others = {name: facts for name, facts in report.facts.items() if name != host}
    found = speaker(report.cluster, others)
    if found and found.api:
        return found.host
    return next(name for name in planes_and(report.cluster) if name != host)


def _look(report: ClusterReport, fleet: Fleet, hosts: Collection[str], progress: Progress) -> None:
    """Look at hosts; those of other clusters become failures, and so do those of which nobody can tell."""
    found = look(fleet, report.cluster, hosts, progress)
    report.facts = {name: facts for name, facts in found.items() if isinstance(facts, NodeFacts)}
    report.failures = {name: error for name, error in found.items() if isinstance(error, HostError)}
    for name, state in states(report.cluster, report.facts).items():
        if state.state is State.FOREIGN:
            report.failures[name] = HostError(name, f"of another cluster: {state.evidence}; it is left alone")
        elif state.state is State.SILENT and speaker(report.cluster, report.facts) is None:
            words = f"{state.evidence} whether this host is in its cluster or another: it is left alone"
            report.failures[name] = HostError(name, words)


def _clean(report: ClusterReport, fleet: Fleet, hosts: Iterable[str], progress: Progress) -> None:
    script = host_script("k8s-reset", only_unfinished="no", wait_s=LOCK_WAIT_S)

    def clean(remote: Remote) -> None:
        remote.run(script, timeout=KUBEADM_TIMEOUT_S)
        if {BALANCER, BALANCER_UNIT} & report.facts[remote.name].files.keys():
            remote.run(unbalance_script(), timeout=KUBEADM_TIMEOUT_S)

    results = fleet.each(
        hosts,
        clean,
        on_done=lambda name, result: progress(name, result.message if isinstance(result, HostError) else "cleaned"),
    )
    for name, result in results.items():
        if isinstance(result, HostError):
            report.failures[name] = result
    done = [name for name, result in results.items() if not isinstance(result, HostError)]
    report.changed = tuple(dict.fromkeys([*report.changed, *done]))
