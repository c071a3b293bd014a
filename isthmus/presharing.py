"""Makes preshared keys on one host and hands them to the other: through this program's memory and SSH's stdin only."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from isthmus.errors import HostError
from isthmus.host_scripts import host_script
from isthmus.model import HostConfig
from isthmus.preshared import pairs_of, settled, unequal
from isthmus.remote import Fleet, Remote
from isthmus.survey import Progress, Report, probe

PRESHARE_TIMEOUT_S = 30


def share_missing(
    report: Report, fleet: Fleet, configs: Mapping[str, HostConfig], progress: Progress
) -> Collection[str]:
    """Make and hand out preshared keys where they are missing or differ; fill facts and failures, return who got one.

    Where a key is not in use yet this changes nothing; where the two ends differed, it mends what was broken.
    """
    chosen = {name for name in report.plans if name not in report.failures}
    asked = settled(configs, report.facts, chosen)
    pairs = [pair for pair in pairs_of(report.inventory, asked) if unequal(pair, report.facts) and {*pair} <= chosen]
    hosts = sorted({name for pair in pairs for name in pair})
    if not pairs:
        return ()
    interface = report.inventory.mesh.interface
    report.failures.update(share(fleet, interface, pairs))
    for name, result in fleet.each(hosts, lambda remote: probe(remote, interface)).items():
        if isinstance(result, HostError):
            report.failures[name] = result
        else:
            report.facts[name] = result
            progress(name, "has its preshared keys")
    return hosts


def share(fleet: Fleet, interface: str, pairs: Collection[tuple[str, str]], owner: str = "") -> dict[str, HostError]:
    """Give each pair (maker, taker) a key, the one that the maker has if there is one; return who failed.

    With an `owner` all keys are made anew, for the transaction of that name: they are in no use before it changes the
    host, and nobody's when it is undone. A pair of which one failed has different keys, or none.
    """

    def make(remote: Remote) -> str:
        takers = "".join(f"make {taker}\n" for maker, taker in pairs if maker == remote.name)
        script = host_script("preshare", interface=interface, owner=owner)
        return remote.run(f"{script}{takers}", timeout=PRESHARE_TIMEOUT_S)

    made = fleet.each({maker: None for maker, _ in pairs}, make)
    handed: dict[str, str] = {}
    for maker, told in made.items():
        if not isinstance(told, HostError):
            for taker, secret in (line.split() for line in told.splitlines()):
                handed[taker] = handed.get(taker, "") + f"{maker} {secret}\n"

    def take(remote: Remote) -> str:
        script = host_script("preshare", interface=interface, owner=owner)
        return remote.run(f"{script}take\n", timeout=PRESHARE_TIMEOUT_S, stdin=handed[remote.name].encode())

    results = {**made, **fleet.each(handed, take)}
    return {name: result for name, result in results.items() if isinstance(result, HostError)}
