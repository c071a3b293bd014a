"""What speaks against Kubernetes on the hosts: kubeadm's own preflight where kubeadm is, and our checks everywhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from isthmus.cluster.sourcing import source_findings
from isthmus.cluster.survey import bundle_folder, survey
from isthmus.errors import HostError
from isthmus.host_scripts import host_script
from isthmus.kubernetes.checks import Finding, findings, parse_preflight
from isthmus.kubernetes.configs import init_config, join_config
from isthmus.kubernetes.plan import Do
from isthmus.kubernetes.state import State
from isthmus.model import Inventory
from isthmus.remote import Fleet, Remote
from isthmus.survey import Progress, silent

PREFLIGHT_S = 180
NO_TOKEN = "abcdef.0123456789abcdef"
"""The one in kubeadm's manual: of a token's form, and nobody's."""
NO_KEY = "0" * 64
NO_CA = f"sha256:{'0' * 64}"


@dataclass(frozen=True)
class PreflightReport:
    """Everything found, host by host; `unprepared` have no kubeadm yet that could be asked."""

    findings: tuple[Finding, ...]
    unprepared: tuple[str, ...]
    asked: tuple[str, ...]
    """Hosts on which kubeadm's own checks were run."""
    failures: Mapping[str, HostError]

    @property
    def passed(self) -> bool:
        """Whether nothing stands against Kubernetes on any host."""
        return not self.failures and not any(finding.error for finding in self.findings)


def preflight(
    inventory: Inventory, fleet: Fleet, only: Collection[str] | None = None, progress: Progress = silent
) -> PreflightReport:
    """Check hosts; changes nothing. What is in a cluster already was checked by kubeadm when it joined."""
    report, bundle = survey(inventory, fleet, only, (), progress)
    cluster = report.cluster
    chosen = {name: report.facts[name] for name in report.plans}
    ours = findings(cluster, report.facts)
    found = [finding for finding in ours if finding.host in chosen]
    if inventory.kubernetes and inventory.kubernetes.source:
        found += source_findings(inventory.kubernetes.source, bundle_folder(inventory), cluster)
    clean = [name for name, plan in report.plans.items() if plan.found.state is State.CLEAN and not plan.against]
    ready = [name for name in clean if not report.plans[name].has(Do.PREPARE)]

    def ask(remote: Remote) -> str:
        node = cluster.nodes[remote.name]
        if report.plans[remote.name].has(Do.INITIALISE):
            phase, config = "init", init_config(cluster, bundle.kubernetes)
        else:
            key = NO_KEY if node.control_plane else ""
            phase, config = "join", join_config(cluster, node, NO_TOKEN, NO_CA, key)
        return remote.run(host_script("k8s-preflight", phase=phase), timeout=PREFLIGHT_S, stdin=config.encode())

    failures = dict(report.failures)
    for name, answer in fleet.each(ready, ask).items():
        if isinstance(answer, HostError):
            failures[name] = answer
        else:
            found += parse_preflight(name, answer)
    unprepared = tuple(name for name in clean if name not in ready)
    return PreflightReport(tuple(sorted(found)), unprepared, tuple(ready), failures)
