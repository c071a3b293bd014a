"""The cluster: plans, nodes, pods that ask each other, and how long a bootstrap took."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.cluster.delivery import size
from isthmus.cluster.pods import DNS, PodReport
from isthmus.cluster.preflight import PreflightReport
from isthmus.cluster.survey import ClusterReport, nodes_of
from isthmus.kubernetes.bundle import Bundle
from isthmus.kubernetes.cluster import ZONE
from isthmus.kubernetes.drift import drift
from isthmus.kubernetes.plan import NodePlan
from isthmus.kubernetes.state import speaker
from isthmus.report.failures import failures_json

if TYPE_CHECKING:
    from rich.table import Table

SECONDS_A_DAY = 86_400


def cluster_text(plans: Mapping[str, NodePlan]) -> str:
    """Return every host with its state and what is left to do on it, a step a line."""
    lines = []
    for name, plan in plans.items():
        evidence = f" ({plan.found.evidence})" if plan.found.evidence else ""
        left = "" if plan.todo or plan.against else ": nothing to do"
        lines.append(f"{name}: {plan.found.state.value}{evidence}{left}")
        lines += [f"  {todo}" for todo in plan.todo]
        lines += [f"  left alone: {text}" for text in plan.against]
    return "\n".join(lines)


def cluster_json(report: ClusterReport) -> dict[str, Any]:
    """Return a report as JSON values: hosts with state and steps, nodes, what was changed, failures, times, notes."""
    hosts = {
        name: {
            "state": plan.found.state.value,
            "evidence": plan.found.evidence,
            "todo": [
                {"title": todo.title, "phase": todo.do.value, "missing": list(todo.missing)} for todo in plan.todo
            ],
            "against": list(plan.against),
        }
        for name, plan in report.plans.items()
    }
    return {
        "hosts": hosts,
        "nodes": {name: _node_json(report, name) for name in nodes_of(report.facts, report.cluster)},
        "changed": list(report.changed),
        "failures": failures_json(report.failures),
        "seconds": {title: round(seconds, 1) for title, seconds in report.times},
        "notes": list(report.notes),
    }


def _node_json(report: ClusterReport, name: str) -> dict[str, Any]:
    node = nodes_of(report.facts, report.cluster)[name]
    wanted = report.cluster.nodes.get(name)
    return {
        "ready": node.ready,
        "schedulable": not node.unschedulable,
        "address": node.address,
        "flannel": node.public_ip,
        "version": node.version,
        "runtime": node.runtime,
        "labels": dict(node.labels),
        "taints": sorted(map(str, node.taints)),
        "drift": list(drift(wanted, node)) if wanted else ["is not in hosts.toml"],
    }


def cluster_table(report: ClusterReport) -> Table:
    """Return the nodes: state, version, address, zone, pods of the system, drift."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("node", "state", "version", "runtime", "address", "zone", "system pods", "taints", "drift"):
        table.add_column(title)
    nodes = nodes_of(report.facts, report.cluster)
    for name in dict.fromkeys([*report.cluster.nodes, *nodes]):
        plan, node, wanted = report.plans.get(name), nodes.get(name), report.cluster.nodes.get(name)
        state = "?" if name in report.cluster.nodes else "not in hosts.toml"
        if plan is not None:
            state = plan.found.state.value
        if node is None:
            table.add_row(name, state)
            continue
        drifted = ", ".join(drift(wanted, node)) if wanted else ""
        table.add_row(
            name,
            state if not node.unschedulable else f"{state}, cordoned",
            node.version,
            node.runtime.replace("://", " "),
            node.address,
            node.labels.get(ZONE, ""),
            _pods_of(report, name),
            ", ".join(sorted(map(str, node.taints))),
            drifted,
        )
    return table


def _pods_of(report: ClusterReport, name: str) -> str:
    plane = speaker(report.cluster, report.facts)
    pods = [ready for _, node, ready in plane.api.system_pods if node == name] if plane and plane.api else []
    return f"{sum(pods)} of {len(pods)} ready"


def days_left(report: ClusterReport) -> int | None:
    """Return for how many days every control plane's certificates last, by its own clock; None where there are none."""
    planes = [report.facts[node.name] for node in report.cluster.control_planes if node.name in report.facts]
    days = [
        int((plane.certificates[0].timestamp() - plane.clock) // SECONDS_A_DAY)
        for plane in planes
        if plane.certificates
    ]
    return min(days, default=None)


def times_text(report: ClusterReport) -> str:
    """Return how long each phase took."""
    whole = sum(seconds for _, seconds in report.times)
    lines = [f"{seconds:7.1f} s  {title}" for title, seconds in report.times]
    return "\n".join([*lines, f"{whole:7.1f} s  together"])


def pods_json(report: PodReport) -> dict[str, Any]:
    """Return {"pairs": [{"source", "destination", "crossed", "whole", "fault"}…], "failures"}."""
    pairs = [
        {
            "source": pair.source,
            "destination": pair.destination,
            "crossed": pair.crossed,
            "whole": pair.whole,
            "fault": pair.fault,
        }
        for pair in report.pairs
    ]
    return {"pairs": pairs, "failures": failures_json(report.failures)}


def pods_table(report: PodReport) -> Table:
    """Return who reaches whom: a row a pod that asks, a column a pod that is asked; `sites` where the two are apart."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("pods")
    destinations = dict.fromkeys(pair.destination for pair in report.pairs)
    for name in destinations:
        table.add_column("DNS" if name == DNS else name)
    cells = {(pair.source, pair.destination): pair for pair in report.pairs}
    for source in dict.fromkeys(pair.source for pair in report.pairs):
        row = []
        for destination in destinations:
            pair = cells[source, destination]
            row.append("[bold red]broken[/bold red]" if pair.fault else "across sites" if pair.crossed else "ok")
        table.add_row(source, *row)
    return table


def preflight_json(report: PreflightReport) -> dict[str, Any]:
    """Return {"findings": [{"host", "error", "check", "text"}…], "unprepared", "asked", "failures"}."""
    found = [{"host": one.host, "error": one.error, "check": one.check, "text": one.text} for one in report.findings]
    hosts = {"unprepared": list(report.unprepared), "asked": list(report.asked)}
    return {"findings": found, **hosts, "failures": failures_json(report.failures)}


def preflight_text(report: PreflightReport) -> str:
    """Return a line a finding, errors with that word; then where kubeadm could not be asked."""
    lines = [f"{one.host}: {'ERROR ' if one.error else ''}{one.check}: {one.text}" for one in report.findings]
    if report.unprepared:
        hosts = ", ".join(report.unprepared)
        lines.append(f"{hosts}: no kubeadm yet: its own checks come with k8s.bootstrap")
    return "\n".join(lines or ["nothing found"])


def bundle_json(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Return where a bundle is and what is in it as JSON values."""
    files = {file.path: file.sha256 for file in (*bundle.debs, *bundle.images)}
    versions = {"kubernetes": bundle.kubernetes, "containerd": bundle.containerd, "flannel": bundle.flannel}
    references = [reference for image in bundle.images for reference in image.references]
    whole = size(folder, (*bundle.debs, *bundle.images))
    return {"folder": str(folder), "versions": versions, "bytes": whole, "files": files, "images": references}


def bundle_words(bundle: Bundle, folder: Path) -> str:
    """Return what is in a bundle, in a line."""
    megabytes = size(folder, (*bundle.debs, *bundle.images)) / 1e6
    what = f"Kubernetes {bundle.kubernetes}, containerd {bundle.containerd}, flannel {bundle.flannel}"
    return f"{folder}: {what}; {len(bundle.debs)} packages and {len(bundle.images)} images, {megabytes:.0f} MB"
