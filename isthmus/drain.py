"""Takes a gateway out of charge for maintenance, and back: hosts.toml stays, AllowedIPs move, all at one moment."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.apply import UNDO_AFTER_S, mesh_up
from isthmus.charge import drained, taken
from isthmus.errors import HostError, IsthmusError, UsageError
from isthmus.host_scripts import host_script
from isthmus.model import Inventory
from isthmus.observe import Facts
from isthmus.plan import ROAMED_S
from isthmus.remote import Fleet
from isthmus.survey import PROBE_TIMEOUT_S, Progress, Report, known_keys, mesh_plan, silent


def drain(inventory: Inventory, fleet: Fleet, gateway: str, progress: Progress = silent) -> Report:
    """Put the other gateway of its site in charge, until `undrain`, whatever mesh.up, a reboot or time do.

    Raises UsageError where there is no other, IsthmusError where the other is not well or anything else is to be done
    first: nothing was touched then.
    """
    site = _site_of(inventory, gateway)
    found = mesh_plan(inventory, fleet, None, progress)
    already = drained(inventory, found.facts).get(site)
    if already not in (None, gateway):
        raise IsthmusError(f"{already} is drained: `inv mesh.undrain {already}` first")
    (other,) = (name for name in inventory.sites[site].gateways if name != gateway)
    _require_well(found, gateway, other)
    return _move(inventory, fleet, {site: gateway}, progress)


def undrain(inventory: Inventory, fleet: Fleet, gateway: str, progress: Progress = silent) -> Report:
    """Let hosts.toml say again who is in charge of the gateway's site: it was drained, or the other has taken charge.

    Raises as `drain` does.
    """
    site = _site_of(inventory, gateway)
    found = mesh_plan(inventory, fleet, None, progress)
    if drained(inventory, found.facts).get(site) != gateway:
        if site in taken(found.inventory, found.facts) and gateway == inventory.sites[site].first:
            return _give_back(found, fleet, site, progress)
        raise IsthmusError(f"{gateway} is not drained")
    first, second = inventory.sites[site].gateways
    _require_well(found, second, first)
    return _move(inventory, fleet, {site: None}, progress)


def _give_back(report: Report, fleet: Fleet, site: str, progress: Progress) -> Report:
    """Have the second gateway, which has taken charge, give it back now; raises when it will not."""
    first, second = report.inventory.sites[site].first, report.inventory.sites[site].second or ""
    script = host_script("giveback", interface=report.inventory.mesh.interface, site=site, gateway=first)
    result = fleet.each([second], lambda remote: remote.run(script, timeout=PROBE_TIMEOUT_S))[second]
    if isinstance(result, HostError):
        raise IsthmusError(f"{second} keeps charge of {site}: {result.message}")
    progress(second, f"has given charge of {site} back to {first}")
    return mesh_plan(report.inventory, fleet, None, silent)


def _site_of(inventory: Inventory, gateway: str) -> str:
    """Return the site of a gateway that has another beside it."""
    expected = [name for site in inventory.sites.values() if len(site.gateways) > 1 for name in site.gateways]
    if gateway not in expected:
        names = f": {', '.join(expected)}" if expected else ", and no site has two"
        raise UsageError(f"gateway: found {gateway or 'nothing'}, expected one of two gateways of a site{names}")
    return inventory.hosts[gateway].site


def _require_well(report: Report, leaving: str, taking: str) -> None:
    for name in (taking, leaving):
        if name in report.failures:
            raise IsthmusError(f"not begun: {name}: {report.failures[name].message}")
    if report.waiting:
        raise IsthmusError(f"not begun: changes are waiting on {', '.join(report.waiting)}: `inv mesh.up` first")
    unheard = _unheard(report, report.facts[taking])
    if unheard:
        raise IsthmusError(f"not begun: {taking} has not heard {', '.join(unheard)} for {ROAMED_S} s")


def _unheard(report: Report, facts: Facts) -> list[str]:
    """Return the gateways of other sites that are up, but not heard by this one; their tunnels are kept alive."""
    hosts, names = report.inventory.hosts, {key: name for name, key in known_keys(report.facts).items()}
    peers = {names.get(peer.public_key, ""): peer for peer in (facts.interface.peers if facts.interface else ())}
    return [
        name
        for name, peer in peers.items()
        if name in report.facts and hosts[name].site != hosts[facts.host].site
        if facts.clock - peer.latest_handshake > ROAMED_S
    ]


def _move(inventory: Inventory, fleet: Fleet, change: Mapping[str, str | None], progress: Progress) -> Report:
    def charge(asked: Inventory, facts: Mapping[str, Facts]) -> Inventory:
        wanted = {**drained(asked, facts), **change}
        return asked.drain({site: name for site, name in wanted.items() if name is not None})

    return mesh_up(inventory, fleet, None, UNDO_AFTER_S, progress, charge)
