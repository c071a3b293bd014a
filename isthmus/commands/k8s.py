"""`inv k8s.…`: Kubernetes on the mesh."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Collection, task

from isthmus.commands.bundle import bundle
from isthmus.commands.shared import (
    DEBUG,
    FAILED,
    FILE,
    JSON,
    OK,
    ONLY,
    WAITING,
    chosen_hosts,
    command,
    console,
    number,
    open_fleet,
    print_json,
    read_inventory,
    say_failures,
)
from isthmus.errors import UsageError

if TYPE_CHECKING:
    from isthmus.model import Inventory

FORCE = {"force-reset": "hosts of another cluster, separated by commas: take them out of it, whatever runs there"}
SOON_DAYS = 90
"""A year's certificates are renewed by an upgrade; who has not upgraded by now must think of it."""


@task(help={**FILE, **ONLY, **JSON, **DEBUG, **FORCE})
@command
def plan(
    c: Any,
    file: str | None = None,
    only: str | None = None,
    json: bool = False,
    debug: bool = False,
    force_reset: str | None = None,
) -> int:
    """Show the state of each host and what k8s.bootstrap would do there; exit 4 if anything, 0 if nothing."""
    from isthmus.cluster.survey import survey
    from isthmus.progress import shown_progress
    from isthmus.report.cluster import cluster_json, cluster_text

    inventory = read_inventory(file)
    with (
        open_fleet(c, inventory, debug) as fleet,
        shown_progress("observing", plain=False, hosts=len(inventory.hosts)) as progress,
    ):
        report, _ = survey(inventory, fleet, chosen_hosts(inventory, only), _forced(inventory, force_reset), progress)
    if json:
        print_json(cluster_json(report))
    else:
        print(cluster_text(report.plans))
    say_failures(report.failures)
    return FAILED if report.failures else WAITING if report.waiting else OK


@task(
    help={
        **FILE,
        **ONLY,
        **JSON,
        **DEBUG,
        **FORCE,
        "kubeconfig": "where the admin's kubeconfig is kept (default kubeconfig, beside the inventory)",
    }
)
@command
def bootstrap(
    c: Any,
    file: str | None = None,
    only: str | None = None,
    json: bool = False,
    debug: bool = False,
    force_reset: str | None = None,
    kubeconfig: str | None = None,
) -> int:
    """Make the hosts a cluster: prepare, kubeadm init, flannel, join, label and taint, wait, check; or what is left."""
    from isthmus.cluster.bootstrap import bootstrap as run
    from isthmus.cluster.bootstrap import write_kubeconfig
    from isthmus.cluster.pods import check_pods
    from isthmus.progress import shown_progress
    from isthmus.report.cluster import cluster_json, pods_json, times_text

    inventory = read_inventory(file)
    if kubeconfig == "":
        raise UsageError("--kubeconfig: found nothing, expected the path of a file")
    path = Path(kubeconfig) if kubeconfig else Path(inventory.source).parent / "kubeconfig"
    chosen, forced = chosen_hosts(inventory, only), _forced(inventory, force_reset)
    pods = None
    with open_fleet(c, inventory, debug) as fleet:
        with shown_progress("k8s.bootstrap", plain=not json) as progress:
            report = run(inventory, fleet, chosen, forced, progress)
            if report.changed and chosen is None and not report.failures:
                pods = check_pods(inventory, fleet, progress)
                report.failures.update(pods.failures)
        written = write_kubeconfig(fleet, report, path) if not report.failures else False
    if json:
        print_json({**cluster_json(report), **({"pods": pods_json(pods)["pairs"]} if pods else {})})
    else:
        for name in report.plans:
            if name not in report.failures:
                print(f"{name}: {report.plans[name].found.state.value if name in report.changed else 'nothing to do'}")
        for pair in pods.broken if pods else ():
            print(f"a pod on {pair.source} does not reach {pair.destination}: {pair.fault}", file=sys.stderr)
        if written:
            print(f"the admin's kubeconfig is in {path}; its API is reached inside the mesh")
        if report.changed:
            print(times_text(report))
    say_failures(report.failures, report.notes)
    return FAILED if report.failures or (pods and pods.broken) else OK


@task(help={**FILE, **JSON, **DEBUG})
@command
def status(c: Any, file: str | None = None, json: bool = False, debug: bool = False) -> int:
    """Show the nodes: state, version, address, system pods, drift of labels and taints, days left on certificates."""
    from isthmus.cluster.bootstrap import misplaced
    from isthmus.cluster.survey import survey
    from isthmus.progress import shown_progress
    from isthmus.report.cluster import cluster_json, cluster_table, days_left

    inventory = read_inventory(file)
    with (
        open_fleet(c, inventory, debug) as fleet,
        shown_progress("observing", plain=False, hosts=len(inventory.hosts)) as progress,
    ):
        report, _ = survey(inventory, fleet, None, (), progress)
    for name, error in misplaced(report).items():
        report.failures.setdefault(name, error)
    days = days_left(report)
    if json:
        print_json({**cluster_json(report), "certificate_days": days})
    else:
        console().print(cluster_table(report))
        if days is not None:
            print(f"the control plane's certificates last {days} days")
    soon = days is not None and days < SOON_DAYS
    notes = (f"certificates end in {days} days: `kubeadm certs renew all` on each control plane",) if soon else ()
    say_failures(report.failures, notes)
    unready = any(plan.found.state.value != "ready" for plan in report.plans.values())
    return FAILED if report.failures or report.waiting or unready or soon else OK


@task(help={**FILE, **ONLY, **JSON, **DEBUG})
@command
def taint(c: Any, file: str | None = None, only: str | None = None, json: bool = False, debug: bool = False) -> int:
    """Set labels and taints of nodes as the inventory says; what others have set there stays."""
    from isthmus.cluster.marking import mark
    from isthmus.progress import shown_progress
    from isthmus.report.cluster import cluster_json

    inventory = read_inventory(file)
    with open_fleet(c, inventory, debug) as fleet, shown_progress("k8s.taint", plain=not json) as progress:
        report = mark(inventory, fleet, chosen_hosts(inventory, only), progress)
    if json:
        print_json(cluster_json(report))
    else:
        print(f"changed: {', '.join(report.changed) or 'nothing'}")
    say_failures(report.failures)
    return FAILED if report.failures else OK


@task(positional=["cmd"], help={**FILE, **DEBUG, "cmd": 'what kubectl is to do, such as "get nodes"'})
@command
def kubectl(c: Any, cmd: str, file: str | None = None, debug: bool = False) -> int:
    """Run kubectl on a control plane whose API answers, as its admin."""
    from isthmus.cluster.survey import kubectl as ask
    from isthmus.cluster.survey import on_plane
    from isthmus.kubernetes.cluster import cluster_of

    inventory = read_inventory(file)
    try:
        words = shlex.split(cmd)
    except ValueError as error:
        raise UsageError(f"found {cmd!r}, expected the words of kubectl ({error})") from None
    if not words:
        raise UsageError('found nothing, expected the words of kubectl, such as "get nodes"')
    with open_fleet(c, inventory, debug) as fleet:
        cluster = cluster_of(inventory)
        sys.stdout.write(on_plane(fleet, cluster, lambda remote: ask(remote, words, timeout=600), seen=False))
    return OK


@task(positional=["host"], help={**FILE, **JSON, **DEBUG, "host": "a host of the inventory"})
@command
def remove(c: Any, host: str, file: str | None = None, json: bool = False, debug: bool = False) -> int:
    """Drain a node, delete it and clean its host; the mesh stays, and so does what is installed."""
    from isthmus.cluster.leaving import remove as run
    from isthmus.progress import shown_progress
    from isthmus.report.cluster import cluster_json

    inventory = read_inventory(file)
    if host not in inventory.hosts:
        raise UsageError(f"found {host}, expected a host of the inventory: {', '.join(inventory.hosts)}")
    with open_fleet(c, inventory, debug) as fleet, shown_progress("k8s.remove", plain=not json) as progress:
        report = run(inventory, fleet, host, progress)
    if json:
        print_json(cluster_json(report))
    else:
        print(f"removed: {', '.join(report.changed) or f'nothing, {host} was in no cluster'}")
    say_failures(report.failures, report.notes)
    return FAILED if report.failures else OK


@task(
    help={
        **FILE,
        **JSON,
        **DEBUG,
        "dry-run": "only show the steps; exit 4 if there are any",
        "drain-timeout": "seconds that pods get to leave a node (default 300)",
    }
)
@command
def upgrade(
    c: Any,
    file: str | None = None,
    json: bool = False,
    debug: bool = False,
    dry_run: bool = False,
    drain_timeout: str = "300",
) -> int:
    """Bring every node to the bundle's version: control plane first, then node by node, drained; or what is left."""
    from isthmus.cluster.bootstrap import write_kubeconfig
    from isthmus.cluster.upgrading import Upgrade
    from isthmus.progress import shown_progress
    from isthmus.report.cluster import cluster_json, times_text
    from isthmus.report.upgrade import upgrade_json, upgrade_text

    inventory = read_inventory(file)
    drain_s = number("drain-timeout", drain_timeout, 10, 86_400, " seconds")
    with open_fleet(c, inventory, debug) as fleet:
        with shown_progress("observing", plain=not json) as progress:
            found = Upgrade(inventory, fleet, progress, drain_s)
        report, plan = found.report, found.plan
        if not json and not report.failures:
            print(upgrade_text(plan), flush=True)
        waiting = bool(plan) and not report.failures
        if waiting and not dry_run:
            with shown_progress("k8s.upgrade", plain=not json) as progress:
                found.progress = progress
                found.carry_out()
            # kubeadm has renewed the admin's certificate.
            if not report.failures:
                write_kubeconfig(fleet, report, Path(inventory.source).parent / "kubeconfig")
    if json:
        print_json({"upgrade": upgrade_json(plan), **cluster_json(report)})
    elif report.changed:
        print(times_text(report))
    say_failures(report.failures, report.notes)
    return FAILED if report.failures else WAITING if waiting and dry_run else OK


@task(help={**FILE, **JSON, **DEBUG, "yes": "do not ask"})
@command
def reset(c: Any, file: str | None = None, json: bool = False, debug: bool = False, yes: bool = False) -> int:
    """End the cluster, with everything in it; hosts are left clean, with the mesh, packages and images."""
    from isthmus.cluster.leaving import reset as run
    from isthmus.progress import shown_progress
    from isthmus.report.cluster import cluster_json

    inventory = read_inventory(file)
    if not yes:
        print("this ends the cluster, and deletes everything in it; go on? (yes/no) ", end="", flush=True)
        if sys.stdin.readline().strip() != "yes":
            raise UsageError("not confirmed: nothing was touched")
    with open_fleet(c, inventory, debug) as fleet, shown_progress("k8s.reset", plain=not json) as progress:
        report = run(inventory, fleet, progress)
    if json:
        print_json(cluster_json(report))
    else:
        print(f"reset: {', '.join(report.changed) or 'nothing, no host was in a cluster'}")
    say_failures(report.failures)
    return FAILED if report.failures else OK


def _forced(inventory: Inventory, hosts: str | None) -> list[str]:
    if hosts is None:
        return []
    names = [name.strip() for name in hosts.split(",") if name.strip()]
    unknown = [name for name in names if name not in inventory.hosts]
    if unknown or not names:
        found = ", ".join(unknown) or "nothing"
        raise UsageError(f"--force-reset: found {found}, expected hosts of the inventory: {', '.join(inventory.hosts)}")
    return names


k8s = Collection("k8s")
for item in (plan, bundle, bootstrap, status, taint, kubectl, remove, upgrade, reset):
    k8s.add_task(item)
