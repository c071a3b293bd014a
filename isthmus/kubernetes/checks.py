"""NodeFacts -> what speaks against Kubernetes on a host, or for having a look: ours, beside kubeadm's own preflight."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from isthmus.kubernetes.bundle import OLDEST_CONTAINERD
from isthmus.kubernetes.cluster import Cluster
from isthmus.kubernetes.facts import NodeFacts
from isthmus.kubernetes.versions import numbers

SKEW_S = 10
"""Certificates and tokens bear a few seconds; probes of all hosts begin within as many."""
CONTROL_PLANE_CPUS = 2
CONTROL_PLANE_MB = 1700
WORKER_MB = 900
"""kubeadm has no minimum for workers; with less the kubelet begins to evict."""
FREE_MB = 3000

_LINE = re.compile(r"\[(ERROR|WARNING) ([^\]]+)\]: (.*)")


@dataclass(frozen=True, order=True)
class Finding:
    """One thing found on one host."""

    host: str
    error: bool
    """Kubernetes does not start, or not well; else it is worth a look."""
    check: str
    text: str


def parse_preflight(host: str, text: str) -> Iterator[Finding]:
    """Yield what kubeadm's preflight complained of."""
    for line in text.splitlines():
        if match := _LINE.match(line.strip()):
            yield Finding(host, match[1] == "ERROR", f"kubeadm {match[2]}", match[3])


def findings(cluster: Cluster, facts: Mapping[str, NodeFacts]) -> Iterator[Finding]:
    """Yield what our own checks find, host by host."""
    plane = next((facts[node.name] for node in cluster.control_planes if node.name in facts), None)
    machines: dict[str, str] = {}
    hostnames: dict[str, str] = {}
    for name, host in facts.items():
        yield from _of_machine(cluster, host)
        other = machines.setdefault(host.machine_id, name)
        if host.machine_id and other != name:
            yield Finding(name, True, "machine-id", f"is that of {other}, too: these hosts are copies of one another")
        other = hostnames.setdefault(host.hostname, name)
        if host.hostname and other != name:
            text = (
                f"is {host.hostname}, as that of {other}: Nodes have the inventory's names, but logs and metrics do not"
            )
            yield Finding(name, False, "hostname", text)
        if plane and abs(host.clock - plane.clock) > SKEW_S:
            seconds = abs(host.clock - plane.clock)
            yield Finding(name, True, "clock", f"is {seconds} s away from that of {plane.host}")


def _of_machine(cluster: Cluster, host: NodeFacts) -> Iterator[Finding]:
    def found(check: str, text: str, *, error: bool = True) -> Finding:
        return Finding(host.host, error, check, text)

    if host.cgroup != "cgroup2fs":
        yield found("cgroup", "is v1, which Kubernetes refuses since 1.35 unless told otherwise", error=False)
    if cluster.nodes[host.host].control_plane:
        if host.cpus < CONTROL_PLANE_CPUS:
            yield found("cpus", f"{host.cpus}, expected {CONTROL_PLANE_CPUS} on a control plane")
        if host.memory_mb < CONTROL_PLANE_MB:
            yield found("memory", f"{host.memory_mb} MB, expected {CONTROL_PLANE_MB} on a control plane")
    elif host.memory_mb < WORKER_MB:
        yield found("memory", f"{host.memory_mb} MB, {WORKER_MB} are the least that a node does well with", error=False)
    if host.swap_mb:
        yield found("swap", f"{host.swap_mb} MB: the kubelet is told to bear it, and pods do not use it", error=False)
    installed = host.packages.get("containerd.io")
    if installed and numbers(installed.version)[:2] < OLDEST_CONTAINERD:
        oldest = ".".join(map(str, OLDEST_CONTAINERD))
        text = f"containerd.io {installed.version} is older than {oldest}, which k8s.bootstrap would put in its place"
        yield found("containerd", text, error=False)
    if host.disk_mb < FREE_MB and not host.is_member:
        yield found(
            "disk", f"{host.disk_mb} MB free below /var/lib, {FREE_MB} are the least to begin with", error=False
        )
