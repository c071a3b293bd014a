"""`inv ssh.trust`: show host keys, ask, record; then the hosts behind gateways that have just become trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from isthmus.errors import HostError, HostKeyError
from isthmus.remote import Fleet
from isthmus.remote.trust import HostKey, Standing, behind, record, scan


@dataclass
class TrustReport:
    """The keys the hosts showed, and what became of them."""

    keys: dict[str, HostKey] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)
    failures: dict[str, HostError] = field(default_factory=dict)


def trust_hosts(
    fleet: Fleet, hosts: Iterable[str], agree: Callable[[list[HostKey]], bool], *, replace: bool = False
) -> TrustReport:
    """Scan `hosts`, and record the keys that `agree` says yes to; a changed key only with `replace`.

    A host behind a gateway can only be asked through that gateway, so it comes in a second round.
    """
    report = TrustReport()
    todo = list(hosts)
    while todo:
        results = scan(fleet, todo)
        shown = {name: result for name, result in results.items() if isinstance(result, HostKey)}
        report.keys.update(shown)
        report.failures.update({n: result for n, result in results.items() if isinstance(result, HostError)})
        new = _new_keys(report, shown, replace)
        if new and agree(new):
            report.recorded += [key.host for key in record(fleet, new, replace=replace)]
        else:
            for key in new:
                report.failures[key.host] = HostKeyError(key.host, "its key was not recorded", None, key.fingerprint)
        # Only gates that were opened in this round can let anyone new through.
        todo = list(behind(fleet, results, set(report.recorded) & set(shown)))
        for name in todo:
            del report.failures[name]
    return report


def _new_keys(report: TrustReport, shown: dict[str, HostKey], replace: bool) -> list[HostKey]:
    """Return the keys to be agreed on; note the known ones, and the changed ones as failures."""
    new = []
    for name, key in shown.items():
        if key.standing is Standing.KNOWN:
            report.known.append(name)
        elif key.standing is Standing.CHANGED and not replace:
            text = f"shows {key.fingerprint}, recorded is {key.known}; if you know why, inv ssh.trust --replace"
            report.failures[name] = HostKeyError(name, text, key.known, key.fingerprint)
        else:
            new.append(key)
    return new
