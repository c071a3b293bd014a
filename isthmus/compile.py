"""Inventory -> HostConfig: joins what `network`, `firewall` and `watching` say."""

from __future__ import annotations

from dataclasses import replace

from isthmus.firewall import compile_firewall
from isthmus.model import HostConfig, Inventory
from isthmus.network import compile_network
from isthmus.watching import add_watching


def compile_mesh(inventory: Inventory) -> dict[str, HostConfig]:
    """Return everything the mesh asks of each host, in the order of the file. Pure: equal inventories, equal values."""
    firewall = compile_firewall(inventory)
    configs = add_watching(inventory, compile_network(inventory))
    return {name: replace(config, firewall=firewall[name]) for name, config in configs.items()}
