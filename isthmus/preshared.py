"""Preshared keys between gateways of different sites: who shall have one with whom, and who makes it. Pure.

A key is made on one of its two hosts and handed to the other; nobody else ever has it. Plans know only fingerprints.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from isthmus.model import HostConfig, Inventory, Peer
from isthmus.observe import Facts


def settled(
    configs: Mapping[str, HostConfig], facts: Mapping[str, Facts], chosen: Collection[str]
) -> dict[str, HostConfig]:
    """Return the configs with preshared keys only where both ends of a tunnel can get one.

    A pair of which one end cannot be changed now keeps what it has: with a key at one end only, the next handshake
    fails. It gets its key, or loses it, with the run that reaches both.
    """
    return {name: _settled(config, facts, chosen) if name in facts else config for name, config in configs.items()}


def _settled(config: HostConfig, facts: Mapping[str, Facts], chosen: Collection[str]) -> HostConfig:
    def end(peer: Peer) -> Peer:
        if peer.host in facts and peer.host in chosen and config.host in chosen:
            return peer
        return replace(peer, preshared=_has_now(facts[config.host], config.interface, peer.host))

    peers = tuple(map(end, config.peers))
    return config if peers == config.peers else replace(config, peers=peers)


def _has_now(facts: Facts, interface: str, other: str) -> bool:
    conf = facts.files.get(f"/etc/wireguard/{interface}.conf")
    return conf is not None and bool(re.search(rf"^# Preshared = \S+/{re.escape(other)}$", conf.text, re.MULTILINE))


def pairs_of(inventory: Inventory, configs: Mapping[str, HostConfig]) -> Iterator[tuple[str, str]]:
    """Yield every pair that shares a key: (who makes it, who is handed it)."""
    for name, config in configs.items():
        for peer in config.peers:
            if peer.preshared and inventory.hosts[name].address < inventory.hosts[peer.host].address:
                yield name, peer.host


def unequal(pair: tuple[str, str], facts: Mapping[str, Facts]) -> bool:
    """Return whether the two ends of a pair, as far as they are known, do not hold the same key."""
    one, other = (facts.get(name) for name in pair)
    if one is None or other is None:
        return False
    return one.preshared.get(pair[1]) is None or one.preshared.get(pair[1]) != other.preshared.get(pair[0])
