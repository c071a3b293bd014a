"""What a running mesh cannot become in one step: one half of it would not reach the other in between. Pure.

Hosts are changed one by one, and one that cannot be reached today is changed tomorrow. Most changes bear that: old and
new hosts go on talking. These do not, so they are refused before anything is touched, each with its two steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from isthmus.errors import Problem
from isthmus.model import Inventory
from isthmus.observe import OURS, Facts, peers_in_files

TWO_STEPS = "`inv mesh.down` with the old hosts.toml, then `inv mesh.up`"


def refused_moves(inventory: Inventory, facts: Mapping[str, Facts]) -> tuple[Problem, ...]:
    """Return what of the inventory the mesh, as it runs, cannot be brought to in one step."""
    return (*_interface(inventory, facts), *_port(inventory, facts), *_addresses(inventory, facts))


def _interface(inventory: Inventory, facts: Mapping[str, Facts]) -> Iterator[Problem]:
    """Refuse another name: both interfaces would want one port, and the routes to the same sites."""
    runs = {other: name for name, host in facts.items() for other in host.other_interfaces}
    for other, name in runs.items():
        wish = f'"{other}", on which the mesh runs ({name}); to rename it, {TWO_STEPS}'
        yield Problem("mesh.interface", f'"{inventory.mesh.interface}"', wish)


def _port(inventory: Inventory, facts: Mapping[str, Facts]) -> Iterator[Problem]:
    """Refuse a port that no host's file has yet; where some have it, the others were off or edited by hand.

    Both ends of a tunnel send to the port that the inventory says: with one of them changed neither hears the other.
    """
    files = (host.files.get(f"/etc/wireguard/{inventory.mesh.interface}.conf") for host in facts.values())
    texts = [file.text for file in files if file and file.text.startswith(OURS)]
    ports = {int(port) for text in texts for port in re.findall(r"^ListenPort = (\d+)$", text, re.MULTILINE)}
    wanted = inventory.mesh.listen_port
    if ports and wanted not in ports:
        runs = ", ".join(map(str, sorted(ports)))
        yield Problem("mesh.listen_port", str(wanted), f"{runs}, where the mesh listens; to change it, {TWO_STEPS}")


def _addresses(inventory: Inventory, facts: Mapping[str, Facts]) -> Iterator[Problem]:
    """Refuse an address that its host does not have: its gateway would drop what it sends from the old one.

    And a subnet that its gateway's address is not in: until both ends of a tunnel are changed, none of the site's
    hosts would reach another site.
    """
    known = {name: key for host in facts.values() for name, key in peers_in_files(host).items()}
    interface = inventory.mesh.interface
    for name, found in facts.items():
        host, now = inventory.hosts[name], found.mesh_address(interface)
        # Its key tells that it is this host that has moved, and not another that the login led to.
        if now is None or now == host.address or found.public_key is None or known.get(name) != found.public_key:
            continue
        has = [str(address.ip) for _, address in found.network_interfaces(interface)]
        if str(host.address) not in has:
            there = ", ".join(has)
            wish = f"an address of its network interfaces ({there}): give it the new one first, then `inv mesh.up`"
            yield Problem(f"hosts.{name}.address", f'"{host.address}"', wish)
        elif inventory.is_gateway(name) and now not in inventory.sites[host.site].subnet:
            subnet = inventory.sites[host.site].subnet
            wish = f"a network with {now}, where its gateway {name} is; to renumber a site, {TWO_STEPS}"
            yield Problem(f"sites.{host.site}.subnet", f'"{subnet}"', wish)
