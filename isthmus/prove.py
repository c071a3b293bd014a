"""The whole proof before anything is touched: the network as compiled, and after any one gateway has failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network

from isthmus.compile import compile_mesh
from isthmus.errors import BrokenPromiseError
from isthmus.model import HostConfig, Inventory
from isthmus.verify import machines_of, verify


def prove(
    inventory: Inventory,
    configs: Mapping[str, HostConfig],
    foreign: Mapping[str, Iterable[IPv4Network]] | None = None,
) -> None:
    """Raise BrokenPromiseError, one text for each broken promise, the packet's walk included; else do nothing.

    `configs` is the inventory compiled, `foreign` as `verify` has it. With a gateway that stands by in charge all hosts
    are still looked at: every pair's path is then promised through that one, so nothing depends on the gateway that has
    failed but what it sends and gets itself. One that fails while it stands by changes nothing for anybody else.
    """
    broken = [str(fault) for fault in verify(machines_of(configs, inventory), inventory, foreign)]
    for charge in _other_charges(inventory):
        after = inventory.with_charge(charge)
        faults = verify(machines_of(compile_mesh(after), after), after, foreign)
        broken += [f"with {', '.join(charge.values())} in charge: {fault}" for fault in faults]
    if broken:
        raise BrokenPromiseError(tuple(broken))


def _other_charges(inventory: Inventory) -> Iterator[dict[str, str]]:
    """Yield {site: gateway} to be tried so that each gateway that stands by meets every other site unchanged.

    A pair's path depends on the gateways of two sites only, so many sites may change at once if of any two each once
    does without the other: those whose number has a certain bit, then the rest, bit by bit. 100 sites take 14 rounds.
    """
    standing_by = [(name, site.gateways[1]) for name, site in inventory.sites.items() if len(site.gateways) > 1]
    for bit in range(max(1, (len(standing_by) - 1).bit_length())):
        for side in (0, 1):
            charge = dict(change for number, change in enumerate(standing_by) if number >> bit & 1 == side)
            if charge:
                yield charge
