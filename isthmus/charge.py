"""Who is in charge of a site: its first gateway in hosts.toml, unless its gateways say that one is drained. Pure.

`inv mesh.drain` leaves a file on the gateways of the site and nowhere else: all that is to be known is on the hosts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from isthmus.model import Inventory
from isthmus.observe import OURS, Facts


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
    """Return the inventory with those gateways in charge that are, as the hosts say."""
    return inventory.drain(drained(inventory, facts))


def _said(facts: Facts, interface: str) -> str | None:
    file = facts.files.get(f"/etc/isthmus/{interface}.drained")
    if file is None or not file.text.startswith(OURS):
        return None
    lines = re.findall(r"^(?!#)(\S+)$", file.text, re.MULTILINE)
    return lines[0] if len(lines) == 1 else None
