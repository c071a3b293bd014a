"""Looks at hosts and the cluster on them, and plans. Changes nothing."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from isthmus.cluster.sourcing import planned_bundle
from isthmus.errors import HostError, InventoryError, Problem
from isthmus.host_scripts import host_script
from isthmus.kubernetes.bundle import Bundle, parse_bundle
from isthmus.kubernetes.cluster import Cluster, cluster_of
from isthmus.kubernetes.configs import PATHS
from isthmus.kubernetes.facts import NodeFacts, NodeObject, parse_probe
from isthmus.kubernetes.plan import NodePlan, plan_nodes
from isthmus.kubernetes.state import State, api_of, speaker, states
from isthmus.model import Inventory
from isthmus.remote import Fleet, Remote
from isthmus.survey import Progress, silent

T = TypeVar("T")

PROBE_TIMEOUT_S = 120
KUBECTL_TIMEOUT_S = 60
MOST_BYTES = 8_000_000


@dataclass
class ClusterReport:
    """What a run found and did. `failures` and `plans` may name the same host: what was left of it when it failed."""

    cluster: Cluster
    facts: dict[str, NodeFacts] = field(default_factory=dict)
    plans: dict[str, NodePlan] = field(default_factory=dict)
    failures: dict[str, HostError] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    times: list[tuple[str, float]] = field(default_factory=list)
    """(phase, seconds), in order."""
    notes: tuple[str, ...] = ()

    @property
    def plane(self) -> str:
        """The control plane that speaks for the cluster; the one that initialises it where there is none."""
        found = speaker(self.cluster, self.facts)
        return found.host if found else self.cluster.control_plane.name

    @property
    def waiting(self) -> tuple[str, ...]:
        """The hosts with something left to do."""
        return tuple(name for name, plan in self.plans.items() if plan)


# --- the bundle ---------------------------------------------------------------------------------------------------


def bundle_folder(inventory: Inventory) -> Path:
    """Return where the bundle of an inventory is, or is kept; InventoryError when it names neither it nor a source."""
    asked = inventory.kubernetes
    if asked is None or not (asked.bundle or asked.source):
        expected = 'a source = "upstream" or "aliyun", or the path of a bundle: packages and images come from there'
        raise InventoryError(inventory.source, (Problem("kubernetes.bundle", "nothing", expected),))
    return Path(inventory.source).parent / Path(asked.bundle or f"bundle-{asked.source}").expanduser()


def load_bundle(inventory: Inventory, cluster: Cluster) -> Bundle:
    """Return the inventory's bundle; InventoryError when there is none or it is not one for this cluster."""
    if inventory.kubernetes and inventory.kubernetes.source:
        return planned_bundle(inventory.kubernetes.source, bundle_folder(inventory), cluster)
    path = bundle_folder(inventory) / "bundle.toml"
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        problem = Problem("the file", f"it unreadable ({reason})", "the table of contents of a bundle")
        raise InventoryError(str(path), (problem,)) from None
    return parse_bundle(text, str(path), cluster)


# --- looking ------------------------------------------------------------------------------------------------------


def look(
    fleet: Fleet, cluster: Cluster, hosts: Collection[str], progress: Progress = silent
) -> dict[str, NodeFacts | HostError]:
    """Probe hosts in parallel, one round trip each."""
    script = host_script("k8s-probe", interface=cluster.interface, endpoint=cluster.endpoint, paths=" ".join(PATHS))

    def probe(remote: Remote) -> NodeFacts:
        return parse_probe(remote.name, remote.run(script, timeout=PROBE_TIMEOUT_S))

    def done(host: str, result: NodeFacts | HostError) -> None:
        progress(host, str(result.message) if isinstance(result, HostError) else "observed")

    return fleet.each(hosts, probe, on_done=done)


def survey(
    inventory: Inventory,
    fleet: Fleet,
    only: Collection[str] | None = None,
    forced: Collection[str] = (),
    progress: Progress = silent,
) -> tuple[ClusterReport, Bundle]:
    """Look at the hosts of `only` (all by default) and the control planes, and plan those of `only`."""
    cluster = cluster_of(inventory)
    bundle = load_bundle(inventory, cluster)
    report = ClusterReport(cluster)
    replan(report, bundle, fleet, only, forced, progress)
    return report, bundle


def replan(
    report: ClusterReport,
    bundle: Bundle,
    fleet: Fleet,
    only: Collection[str] | None = None,
    forced: Collection[str] = (),
    progress: Progress = silent,
) -> None:
    """Look again, and fill the report's facts, plans and failures."""
    cluster = report.cluster
    chosen = [name for name in cluster.nodes if only is None or name in only]
    found = look(fleet, cluster, planes_and(cluster, chosen), progress)
    report.facts = {name: facts for name, facts in found.items() if isinstance(facts, NodeFacts)}
    report.failures = {name: error for name, error in found.items() if isinstance(error, HostError)}
    plans = plan_nodes(cluster, bundle, report.facts, forced)
    report.plans = {name: plan for name, plan in plans.items() if name in chosen}
    for name, plan in plans.items():
        if plan.against:
            report.failures[name] = HostError(name, "; ".join(plan.against))
    if nodes_of(report.facts, cluster):  # who speaks for the cluster is well: what others have is theirs
        needed = {*chosen, report.plane}
        report.failures = {name: error for name, error in report.failures.items() if name in needed}


# --- asking the cluster -------------------------------------------------------------------------------------------


def kubectl(remote: Remote, *commands: Iterable[str], timeout: float = KUBECTL_TIMEOUT_S) -> str:
    """Run kubectl commands, each given as words, on the control plane, one after the other; return what they print."""
    lines = "".join(f"kubectl {' '.join(map(shlex.quote, words))} </dev/null\n" for words in commands)
    return remote.run(f"{host_script('k8s-kubectl')}{lines}", timeout=timeout)


def apply(remote: Remote, manifest: str) -> None:
    """Hand a manifest to the cluster, on its control plane."""
    script = f"{host_script('k8s-kubectl')}kubectl apply -f - >/dev/null\n"
    remote.run(script, timeout=KUBECTL_TIMEOUT_S, stdin=manifest.encode())


def on_plane(
    fleet: Fleet,
    cluster: Cluster,
    function: Callable[[Remote], T],
    besides: Collection[str] = (),
    *,
    seen: bool = True,
) -> T:
    """Return what a function makes of the control plane that speaks for the cluster; raises its HostError.

    Of several it is the first whose API answers, beside `besides`; never one of another cluster. Whether a single one
    is of ours was seen before, or else is looked at now.
    """
    names = [node.name for node in cluster.control_planes if node.name not in besides]
    name = names[0] if seen and not cluster.has_balancers else _speaking(fleet, cluster, names)
    result = fleet.each([name], function)[name]
    if isinstance(result, HostError):
        raise result
    return result


def _speaking(fleet: Fleet, cluster: Cluster, names: list[str]) -> str:
    found = look(fleet, cluster, names)
    facts = {name: one for name, one in found.items() if isinstance(one, NodeFacts)}
    plane = speaker(cluster, facts)
    if plane is None:
        return names[0]
    state = states(cluster, {plane.host: plane})[plane.host]
    if state.state is State.FOREIGN:
        raise HostError(plane.host, f"of another cluster: {state.evidence}; it is left alone")
    return plane.host


def planes_and(cluster: Cluster, hosts: Collection[str] = ()) -> list[str]:
    """Return the names of the control planes and these hosts, each once."""
    return list(dict.fromkeys([*(node.name for node in cluster.control_planes), *hosts]))


def nodes_of(facts: Mapping[str, NodeFacts], cluster: Cluster) -> Mapping[str, NodeObject]:
    """Return the Nodes that the control plane knows, none when it cannot be asked."""
    api = api_of(cluster, facts)
    return api.nodes if api else {}
