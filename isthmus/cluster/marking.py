"""Labels and taints of nodes that exist, as hosts.toml says; what others have set is left alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from isthmus.cluster.survey import ClusterReport, kubectl, look, nodes_of, on_plane, planes_and
from isthmus.errors import HostError
from isthmus.kubernetes.cluster import Cluster, cluster_of
from isthmus.kubernetes.drift import drift
from isthmus.kubernetes.facts import NodeFacts, NodeObject
from isthmus.kubernetes.state import State, states
from isthmus.model import Inventory
from isthmus.remote import Fleet
from isthmus.survey import Progress, silent


def marks(cluster: Cluster, known: Mapping[str, NodeObject], hosts: Collection[str]) -> list[tuple[str, ...]]:
    """Return the words of the kubectl commands that give these hosts' Nodes their labels and taints."""
    there = [name for name in hosts if name in known]
    return [words for name in there for words in drift(cluster.nodes[name], known[name]).commands(name)]


def mark(
    inventory: Inventory, fleet: Fleet, only: Collection[str] | None = None, progress: Progress = silent
) -> ClusterReport:
    """Set and take off labels and taints of the hosts of `only` (all by default); ones that have not joined fail."""
    report = ClusterReport(cluster_of(inventory))
    found = look(fleet, report.cluster, planes_and(report.cluster))
    report.facts = {name: facts for name, facts in found.items() if isinstance(facts, NodeFacts)}
    plane = states(report.cluster, report.facts).get(report.plane)
    if plane and plane.state is State.FOREIGN:
        words = f"of another cluster: {plane.evidence}; it is left alone"
        report.failures[report.plane] = HostError(report.plane, words)
        return report
    known = nodes_of(report.facts, report.cluster)
    if not known:
        error = found[report.plane]
        silence = HostError(report.plane, "its API does not answer")
        report.failures[report.plane] = error if isinstance(error, HostError) else silence
        return report
    hosts = [name for name in report.cluster.nodes if only is None or name in only]
    for name in hosts:
        if name not in known:
            report.failures[name] = HostError(name, "is no node of the cluster: `inv k8s.bootstrap` makes it one")
        elif differing := tuple(drift(report.cluster.nodes[name], known[name])):
            progress(name, ", ".join(differing))
            report.changed = (*report.changed, name)
    if commands := marks(report.cluster, known, hosts):
        on_plane(fleet, report.cluster, lambda remote: kubectl(remote, *commands))
    return report
