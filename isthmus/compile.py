"""Inventory -> HostConfig: joins what `network` and `firewall` say, which do not know each other."""

from __future__ import annotations

from dataclasses import replace

from isthmus.firewall import compile_firewall
from isthmus.model import HostConfig, Inventory
from isthmus.network import compile_network


def compile_mesh(inventory: Inventory) -> dict[str, HostConfig]:
    """Return everything the mesh asks of each host, in the order of the file. Pure: equal inventories, equal values."""
    firewall = compile_firewall(inventory)
    return {name: replace(config, firewall=firewall[name]) for name, config in compile_network(inventory).items()}
