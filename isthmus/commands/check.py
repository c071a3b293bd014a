"""`inv check.…`: asks what is, changes nothing."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Collection, task

from isthmus.commands.shared import (
    DEBUG,
    FAILED,
    FILE,
    JSON,
    OK,
    ONLY,
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


@task(help={**FILE, **ONLY, **JSON, **DEBUG, "count": "echo requests a pair (default 3)"})
@command
def ping(
    c: Any,
    file: str | None = None,
    only: str | None = None,
    json: bool = False,
    debug: bool = False,
    count: str = "3",
) -> int:
    """Measure the round-trip time of every ordered pair of members, and of every resource from every member."""
    from isthmus.check import ping as measure
    from isthmus.progress import shown_progress
    from isthmus.report import ping_json, ping_table

    inventory = read_inventory(file)
    echoes = number("count", count, 1, 100)
    with (
        open_fleet(c, inventory, debug) as fleet,
        shown_progress(
            "measuring", plain=False, hosts=len(chosen_hosts(inventory, only) or inventory.hosts)
        ) as progress,
    ):
        report = measure(fleet, inventory, chosen_hosts(inventory, only), echoes, progress)
    if json:
        print_json(ping_json(report))
    else:
        console().print(ping_table(report))
        for pair in report.broken:
            print(f"{pair.source} does not reach {pair.destination}")
    say_failures(report.failures)
    return FAILED if report.broken or report.failures else OK


@task(help={**FILE, **ONLY, **JSON, **DEBUG})
@command
def path(c: Any, file: str | None = None, only: str | None = None, json: bool = False, debug: bool = False) -> int:
    """Walk every pair's path through the routes, rules and AllowedIPs as they are on the hosts now."""
    from isthmus.paths import paths
    from isthmus.progress import shown_progress
    from isthmus.report import paths_json, paths_text

    inventory = read_inventory(file)
    with (
        open_fleet(c, inventory, debug) as fleet,
        shown_progress("observing", plain=False, hosts=len(inventory.hosts)) as progress,
    ):
        report = paths(fleet, inventory, chosen_hosts(inventory, only), progress)
    if json:
        print_json(paths_json(report))
    else:
        print(paths_text(report))
    say_failures(report.failures)
    return FAILED if report.broken or report.failures else OK


@task(help={**FILE, **ONLY, **JSON, **DEBUG})
@command
def mtu(c: Any, file: str | None = None, only: str | None = None, json: bool = False, debug: bool = False) -> int:
    """Measure the largest packet that passes between members and under every tunnel; propose a `[mesh] mtu`."""
    from isthmus.mtu import mtu as measure
    from isthmus.progress import shown_progress
    from isthmus.report import mtu_json, mtu_table, mtu_text

    inventory = read_inventory(file)
    chosen = chosen_hosts(inventory, only)
    with (
        open_fleet(c, inventory, debug) as fleet,
        shown_progress("measuring", plain=False, hosts=len(chosen or inventory.hosts)) as progress,
    ):
        report = measure(fleet, inventory, chosen, progress)
    if json:
        print_json(mtu_json(report))
    else:
        console().print(mtu_table(report))
        print(mtu_text(report))
    say_failures(report.failures)
    return FAILED if report.broken or report.failures else OK


@task(
    help={
        **FILE,
        **ONLY,
        **JSON,
        **DEBUG,
        "format": "print the rules and try nothing: text, json, aliyun, tencent or terraform",
        "workstation": "with --format: the addresses that you log in from (default 0.0.0.0/0: anywhere)",
    }
)
@command
def ports(
    c: Any,
    file: str | None = None,
    only: str | None = None,
    json: bool = False,
    debug: bool = False,
    format: str | None = None,
    workstation: str = "0.0.0.0/0",
) -> int:
    """Try every port that must be open from where its traffic comes; --format prints them for the clouds instead."""
    inventory = read_inventory(file)
    chosen = chosen_hosts(inventory, only)
    addresses = _network("workstation", workstation)
    if format is not None:
        return _print_rules(inventory, chosen, "json" if json and format == "text" else format, addresses)
    from isthmus.open_ports import open_ports
    from isthmus.progress import shown_progress
    from isthmus.report import closed_line, ports_json, ports_table

    with open_fleet(c, inventory, debug) as fleet, shown_progress("trying", plain=False) as progress:
        report = open_ports(fleet, inventory, chosen, progress)
    if json:
        print_json(ports_json(report))
    else:
        console().print(ports_table(report))
        for tried in report.closed:
            print(closed_line(tried))
    say_failures(report.failures)
    return FAILED if report.closed or report.failures else OK


@task(name="all", help={**FILE, **ONLY, **JSON, **DEBUG, "junit": "also write JUnit XML to this file"})
@command
def all_checks(
    c: Any,
    file: str | None = None,
    only: str | None = None,
    json: bool = False,
    debug: bool = False,
    junit: str | None = None,
) -> int:
    """Run every check and sum them up, for cron and CI: ping, path, mtu and ports."""
    from isthmus.checkup import check_up
    from isthmus.progress import shown_progress
    from isthmus.report import checkup_json, checkup_junit, checkup_text

    inventory = read_inventory(file)
    if junit is not None:
        _require_writable("junit", junit)
    with open_fleet(c, inventory, debug) as fleet, shown_progress("checking", plain=False) as progress:
        checkup = check_up(fleet, inventory, chosen_hosts(inventory, only), progress)
    if junit is not None:
        Path(junit).write_bytes(checkup_junit(checkup))
    if json:
        print_json(checkup_json(checkup))
    else:
        print(checkup_text(checkup))
    return OK if checkup.passed else FAILED


def _require_writable(flag: str, path: str) -> None:
    """Refuse a file that cannot be written, before minutes of checks are spent; what is in it stays till then."""
    if not path:
        raise UsageError(f"--{flag}: found nothing, expected the path of a file")
    try:
        Path(path).open("ab").close()
    except OSError as error:
        raise UsageError(f"--{flag}: cannot write {path}: {error.strerror}") from None


def _network(flag: str, text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except ValueError:
        found = text or "nothing"
        raise UsageError(f"--{flag}: found {found}, expected a network such as 198.51.100.7/32") from None


@task(help={**FILE, **ONLY, **JSON, **DEBUG})
@command
def k8s(c: Any, file: str | None = None, only: str | None = None, json: bool = False, debug: bool = False) -> int:
    """Look for what speaks against Kubernetes on the hosts: kubeadm's own checks and ours. Changes nothing."""
    from isthmus.cluster.preflight import preflight
    from isthmus.progress import shown_progress
    from isthmus.report.cluster import preflight_json, preflight_text

    inventory = read_inventory(file)
    with open_fleet(c, inventory, debug) as fleet, shown_progress("checking", plain=False) as progress:
        report = preflight(inventory, fleet, chosen_hosts(inventory, only), progress)
    if json:
        print_json(preflight_json(report))
    else:
        print(preflight_text(report))
    say_failures(report.failures)
    return OK if report.passed else FAILED


@task(help={**FILE, **JSON, **DEBUG})
@command
def pods(c: Any, file: str | None = None, json: bool = False, debug: bool = False) -> int:
    """Have a pod on every node ask one on every other, in packets as large as can be, and the cluster's DNS."""
    from isthmus.cluster.pods import check_pods
    from isthmus.progress import shown_progress
    from isthmus.report.cluster import pods_json, pods_table

    inventory = read_inventory(file)
    with open_fleet(c, inventory, debug) as fleet, shown_progress("asking", plain=False) as progress:
        report = check_pods(inventory, fleet, progress)
    if json:
        print_json(pods_json(report))
    else:
        console().print(pods_table(report))
        for pair in report.broken:
            print(f"a pod on {pair.source} does not reach {pair.destination}: {pair.fault}")
    say_failures(report.failures)
    return FAILED if report.broken or report.failures else OK


def _print_rules(inventory: Inventory, chosen: list[str] | None, form: str, workstation: IPv4Network) -> int:
    from isthmus.ports import port_rules
    from isthmus.report import FORMATS, rules_json, rules_table, security_groups

    if form not in FORMATS:
        raise UsageError(f"--format: found {form or 'nothing'}, expected one of {', '.join(FORMATS)}")
    rules = [rule for rule in port_rules(inventory) if chosen is None or rule.host in chosen]
    if form == "json":
        print_json(rules_json(rules))
    elif form == "text":
        console().print(rules_table(rules))
    else:
        print(security_groups(inventory, rules, form, workstation))
    return OK


check = Collection("check")
for item in (ping, path, mtu, ports, k8s, pods, all_checks):
    check.add_task(item)
