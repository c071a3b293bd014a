"""The sum of all checks: a line each, and what is wrong; as text, JSON and JUnit XML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from isthmus.checkup import Checkup
from isthmus.open_ports import State
from isthmus.paths import PathReport
from isthmus.report.failures import failures_json
from isthmus.report.mtu import mtu_json, pair_line, tunnel_line
from isthmus.report.paths import paths_json
from isthmus.report.pings import ping_json
from isthmus.report.ports import closed_line, ports_json

_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no way to write."""


@dataclass(frozen=True)
class _Case:
    """One thing that was checked; `fault` is None when it is right, `skipped` says why it could not be checked."""

    check: str
    name: str
    fault: str | None = None
    skipped: str | None = None


def _cases(checkup: Checkup) -> Iterator[_Case]:
    for name, error in checkup.failures.items():
        yield _Case("hosts", name, str(error))
    for answer in checkup.ping.pairs:
        ends = f"{answer.source} to {answer.destination}"
        yield _Case("ping", ends, None if answer.delivered else f"{answer.source} does not reach {answer.destination}")
    yield from _path_cases(checkup.path)
    for passage in checkup.mtu.pairs:
        fault = None if passage.kept else pair_line(checkup.mtu, passage)
        yield _Case("mtu", f"{passage.source} to {passage.destination}", fault)
    for passage in checkup.mtu.tunnels:
        fault = None if passage.kept else tunnel_line(checkup.mtu, passage)
        yield _Case("mtu", f"{passage.source} to {passage.destination}, under the tunnel", fault)
    for tried in checkup.ports.tried:
        rule = tried.rule
        yield _Case(
            "ports",
            f"{rule.host} {rule.admits} from {rule.source}",
            fault=closed_line(tried) if tried.state is State.CLOSED else None,
            skipped=tried.reason if tried.state is State.UNTESTED else None,
        )


def _path_cases(report: PathReport) -> Iterator[_Case]:
    """Yield a case a pair, with the promises it breaks, then one for each promise that is broken otherwise."""
    broken: dict[str, list[str]] = {}
    for promise in report.broken:
        broken.setdefault(promise.subject, []).append(str(promise))
    for pair in report.pairs:
        ends = f"{pair.walk.source} to {pair.walk.destination}"
        faults = broken.pop(ends, [])
        if not faults and not pair.kept:
            found = f"takes {pair.walk.path}" if pair.walk.delivered else pair.walk.outcome.value
            faults = [f"{ends}: {found}; promised is {pair.promised}"]
        yield _Case("path", ends, "\n".join(faults) or None)
    for subject, faults in broken.items():
        yield _Case("path", subject, "\n".join(faults))


def _by_check(checkup: Checkup) -> dict[str, list[_Case]]:
    checks: dict[str, list[_Case]] = {}
    for case in _cases(checkup):
        checks.setdefault(case.check, []).append(case)
    return checks


def checkup_text(checkup: Checkup) -> str:
    """Return a line a check with how much of it is right, and below it a line for each thing that is not."""
    lines = []
    for check, cases in _by_check(checkup).items():
        faults = [case.fault for case in cases if case.fault is not None]
        skipped = sum(case.skipped is not None for case in cases)
        right = len(cases) - len(faults) - skipped
        untested = f", {skipped} untested" if skipped else ""
        if check == "hosts":
            lines.append(f"hosts  {len(faults)} could not be asked")
        else:
            lines.append(f"{check:5}  {right} of {len(cases)} right{untested}")
        lines += [f"  {line}" for fault in faults for line in fault.splitlines()]
    if checkup.mtu.proposal is not None:
        lines.append(f"set mtu = {checkup.mtu.proposal} in [mesh] and run inv mesh.up")
    return "\n".join([*lines, "all is well" if checkup.passed else "something is wrong"])


def checkup_json(checkup: Checkup) -> dict[str, Any]:
    """Return {"passed", "ping", "path", "mtu", "ports", "failures"}; each check as its own command gives it."""
    return {
        "passed": checkup.passed,
        "ping": ping_json(checkup.ping),
        "path": paths_json(checkup.path),
        "mtu": mtu_json(checkup.mtu),
        "ports": ports_json(checkup.ports),
        "failures": failures_json(checkup.failures),
    }


def checkup_junit(checkup: Checkup) -> bytes:
    """Return JUnit XML as CI servers read it: a suite a check, a case for each thing that was checked."""
    from xml.etree import ElementTree

    checks = _by_check(checkup)
    everything = [case for cases in checks.values() for case in cases]
    suites = ElementTree.Element("testsuites", {"name": "isthmus", **_counts(everything)})
    for check, cases in checks.items():
        suite = ElementTree.SubElement(suites, "testsuite", {"name": f"check.{check}", **_counts(cases)})
        for case in cases:
            named = {"classname": f"isthmus.{check}", "name": case.name}
            element = ElementTree.SubElement(suite, "testcase", named)
            if case.fault is not None:
                fault = _NOT_XML.sub("?", case.fault)  # a host's own words may be in it
                failure = ElementTree.SubElement(element, "failure", {"message": fault.partition("\n")[0]})
                failure.text = fault
            elif case.skipped is not None:
                ElementTree.SubElement(element, "skipped", {"message": case.skipped})
    ElementTree.indent(suites)
    text: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _counts(cases: list[_Case]) -> dict[str, str]:
    return {
        "tests": str(len(cases)),
        "failures": str(sum(case.fault is not None for case in cases)),
        "skipped": str(sum(case.skipped is not None for case in cases)),
    }
