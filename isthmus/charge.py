"""Who is in charge of a site: its first gateway, unless one is drained or the second has taken charge. Pure.

`inv mesh.drain` leaves a file on the gateways of the site and nowhere else, and the second gateway's watcher a note in
/run: all that is to be known is on the hosts. Files follow the former only; what runs follows both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from isthmus.model import Inventory, Site
from isthmus.observe import OURS, Facts, FoundCharge


def drained(inventory: Inventory, facts: Mapping[str, Facts]) -> dict[str, str]:
    """Return {site: the gateway that is drained}, as the site's gateways say, those of them that could be asked.

    Where they do not agree, as after a drain that failed half-way, none is: the inventory holds.
    """
    found: dict[str, str] = {}
    for site in inventory.sites.values():
        said = {_said(facts[name], inventory.mesh.interface) for name in site.gateways if name in facts}
        gateway = said.pop() if len(said) == 1 else None
        if gateway in site.gateways and len(site.gateways) > 1:
            found[site.name] = gateway
    return found


def as_found(inventory: Inventory, facts: Mapping[str, Facts]) -> Inventory:
    """Return the inventory with those gateways in charge that the hosts' files are for."""
    return inventory.drain(drained(inventory, facts))


def taken(inventory: Inventory, facts: Mapping[str, Facts]) -> dict[str, FoundCharge]:
    """Return {site: charge} where the second gateway has taken charge by itself, as it says.

    Where it cannot be asked the others do not hear it either, and go by the first.
    """
    found: dict[str, FoundCharge] = {}
    for site in inventory.sites.values():
        second = site.second
        if second is None or site.drained is not None or second not in facts:
            continue
        charge = facts[second].charges.get(site.name)
        if charge is not None and charge.gateway == second:
            found[site.name] = charge
    return found


@dataclass(frozen=True)
class Charge:
    """Who is in charge of a site with two gateways, and who of its followers goes by another."""

    site: str
    gateway: str
    ago_s: int | None
    """Seconds since it took charge, None for what nobody has noted: since its second gateway's watcher was started."""
    why: str
    astray: tuple[str, ...] = ()


def charges(inventory: Inventory, facts: Mapping[str, Facts]) -> tuple[Charge, ...]:
    """Return who is in charge of each site with two gateways; `inventory` is `as_found`."""
    return tuple(_charge(inventory, site, facts) for site in inventory.sites.values() if site.second is not None)


def _charge(inventory: Inventory, site: Site, facts: Mapping[str, Facts]) -> Charge:
    if site.drained is not None:
        return Charge(site.name, site.gateway, None, f"{site.drained} is drained")
    second = facts.get(site.second or "")
    noted = second.charges.get(site.name) if second is not None else None
    if second is None or noted is None or noted.gateway not in site.gateways:
        unseen = f"{site.second}, which would know, was not reached" if second is None else ""
        return Charge(site.name, site.gateway, None, unseen)
    astray = tuple(
        name
        for name, host in facts.items()
        if host.watching and name != site.second and name not in site.gateways
        if inventory.hosts[name].site == site.name or inventory.is_gateway(name)
        if (host.charges[site.name].gateway if site.name in host.charges else site.first) != noted.gateway
    )
    return Charge(site.name, noted.gateway, max(0, second.clock - noted.since), noted.why, astray)


def as_running(inventory: Inventory, facts: Mapping[str, Facts]) -> Inventory:
    """Return the inventory with those gateways in charge that really are."""
    inventory = as_found(inventory, facts)
    charges = taken(inventory, facts)
    return inventory.with_charge({site: charge.gateway for site, charge in charges.items()}) if charges else inventory


def _said(facts: Facts, interface: str) -> str | None:
    file = facts.files.get(f"/etc/isthmus/{interface}.drained")
    if file is None or not file.text.startswith(OURS):
        return None
    lines = re.findall(r"^(?!#)(\S+)$", file.text, re.MULTILINE)
    return lines[0] if len(lines) == 1 else None
