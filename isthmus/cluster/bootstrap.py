"""From a mesh that is up to a working cluster: carries out a plan, phase by phase, and looks again.

Each phase does what the plan has for it and nothing else, so a run that was interrupted is resumed by the next one, and
a second run does nothing but wait for nodes that are not Ready. A host that fails leaves the later phases; without the
control plane they end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from pathlib import Path

from isthmus.cluster.phases import API_S, LOCK_WAIT_S, Phases
from isthmus.cluster.survey import ClusterReport, nodes_of, on_plane, replan, survey
from isthmus.errors import HostError, UsageError
from isthmus.host_scripts import host_script
from isthmus.kubernetes.state import State, holds_cluster, speaker
from isthmus.model import Inventory
from isthmus.remote import Fleet
from isthmus.survey import Progress, silent


def bootstrap(
    inventory: Inventory,
    fleet: Fleet,
    only: Collection[str] | None = None,
    forced: Collection[str] = (),
    progress: Progress = silent,
) -> ClusterReport:
    """Make hosts nodes of the cluster, the control planes first; what is done already is left alone.

    Raises InventoryError, before anything is touched, for what cannot be asked of any host, such as a bundle with a
    wrong sum. Hosts that failed are in the report's failures.
    """
    began = time.monotonic()
    report, bundle = survey(inventory, fleet, only, forced)

    def look_again() -> None:
        replan(report, bundle, fleet, only, forced)

    # What a run began whose workstation is gone goes on: kubeadm comes to its end, and so does dpkg.
    words = "another run is at work here, or what it began; waiting for its end"
    busy = wait_while(lambda: busy_hosts(report), LOCK_WAIT_S, words, look_again, progress)
    # After a reboot the API takes half a minute.
    words = "the API does not answer yet; waiting for it"
    wait_while(lambda: silent_planes(report), API_S, words, look_again, progress)
    report.failures.update({name: HostError(name, "another run is still at work here") for name in busy})
    report.times.append(("look at the hosts", time.monotonic() - began))
    plane = report.plane
    if plane not in report.plans and plane in report.facts and report.facts[plane].api is None:
        report.failures.setdefault(plane, HostError(plane, "holds no cluster yet: begin with it"))
    waiting = report.waiting
    if not waiting and not _unready(report):
        return report
    phases = Phases(inventory, fleet, bundle, report, progress)
    phases.check_bundle()
    for title, phase in phases.in_order():
        if plane in report.failures:
            break
        began = time.monotonic()
        phase()
        report.times.append((title, time.monotonic() - began))
    report.changed = tuple(name for name in report.plans if name in phases.touched) if waiting else ()
    failures, times = report.failures, report.times
    replan(report, bundle, fleet, only, (), silent)
    report.failures, report.times = {**report.failures, **failures}, times
    for name in report.waiting:
        left = "; ".join(map(str, report.plans[name].todo))
        report.failures.setdefault(name, HostError(name, f"still to be done: {left}"))
    for name, error in misplaced(report).items():
        report.failures.setdefault(name, error)
    return report


def wait_while(
    hosts: Callable[[], list[str]], limit: float, words: str, look_again: Callable[[], None], progress: Progress
) -> list[str]:
    """Look again until there are no such hosts, for `limit` seconds at most; return those there still are."""
    deadline = time.monotonic() + limit
    told: set[str] = set()
    while (found := hosts()) and time.monotonic() < deadline:
        for name in set(found) - told:
            progress(name, words)
        told.update(found)
        time.sleep(3)
        look_again()
    return found


def busy_hosts(report: ClusterReport) -> list[str]:
    """Return the hosts where another run is at work."""
    return [name for name, facts in report.facts.items() if facts.busy]


def silent_planes(report: ClusterReport) -> list[str]:
    """Return the control plane that holds a cluster whose API does not answer."""
    plane = speaker(report.cluster, report.facts)
    return [plane.host] if plane is not None and holds_cluster(plane) and plane.api is None else []


def _unready(report: ClusterReport) -> list[str]:
    return [name for name, plan in report.plans.items() if plan.found.state is State.NOT_READY]


def misplaced(report: ClusterReport) -> dict[str, HostError]:
    """Return the nodes that speak from another address than their mesh address, by their own or flannel's word."""
    errors = {}
    for name, node in nodes_of(report.facts, report.cluster).items():
        wanted = report.cluster.nodes.get(name)
        if wanted is None:
            continue
        for what, address in (("its node", node.address), ("flannel on it", node.public_ip or str(wanted.address))):
            if address != str(wanted.address):
                errors[name] = HostError(name, f"{what} has the address {address}, expected {wanted.address}")
    return errors


def write_kubeconfig(fleet: Fleet, report: ClusterReport, path: Path) -> bool:
    """Keep the admin's kubeconfig on the workstation, for its owner only; False when it is there already."""
    text = on_plane(
        fleet, report.cluster, lambda remote: remote.run(f"{host_script('k8s-kubectl')}cat $KUBECONFIG\n", timeout=60)
    )
    try:
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return False
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        beside.replace(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot write the admin's kubeconfig to {path}: {reason}") from None
    return True
