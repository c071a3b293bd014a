"""New keys, in which order and when each host does what, so that no packet is lost. Pure.

A host has one private key for all its tunnels, and a prefix belongs to one peer. So while a host has its new key and
its neighbour expects the old one, nothing passes from one to the other. What is sent meanwhile waits in WireGuard's own
queue, provided that nobody tries a handshake in vain and then waits for REKEY_TIMEOUT: `rotate` in
files/usr/local/sbin/isthmus is how. That needs one end of each tunnel to stay as it is. So hosts take turns: all leaves
together, since no leaf is another's peer, then one gateway after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from isthmus.model import HostConfig, Inventory

HOLD_S = 0.4
"""How long a host with its new key waits for its neighbours to take it: longer than clocks of a cloud differ by, and
than a busy host may be late; so short that what is sent meanwhile fits into WireGuard's queue of 128 packets a peer."""
PRESHARED_ROUNDS = 1
"""The first round is that of the preshared keys, on all hosts at once."""
ROUND_S = 1
"""From one round to the next: HOLD_S, a handshake across the world, and its packets on their way."""


def movable(
    configs: Mapping[str, HostConfig], chosen: Collection[str], well: Collection[str]
) -> tuple[list[str], dict[str, str]]:
    """Return who of `chosen` can get a new key, and of the others why not: {host: reason}.

    A host that cannot be told would not know a neighbour by its new key when it comes back. So its neighbours keep
    theirs, and nothing breaks.
    """
    kept = {}
    for name in chosen:
        deaf = sorted({name, *neighbours(configs, name)} - set(well))
        if deaf and name in well:
            kept[name] = f"keeps its key: its peer {', '.join(deaf)} could not be told the new one"
    return [name for name in chosen if name in well and name not in kept], kept


def neighbours(configs: Mapping[str, HostConfig], name: str) -> list[str]:
    """Return the hosts that have this one as a peer: those that it has itself."""
    return [peer.host for peer in configs[name].peers]


def rounds_of(inventory: Inventory, hosts: Collection[str]) -> list[list[str]]:
    """Return who gets a new key in each round; nobody in one round is the peer of another in it."""
    leaves = [name for name in hosts if not inventory.is_gateway(name)]
    return [*([leaves] if leaves else []), *([name] for name in hosts if inventory.is_gateway(name))]


def lines_of(
    config: HostConfig, rounds: Sequence[Collection[str]], old: Mapping[str, str], new: Mapping[str, str]
) -> list[str]:
    """Return what one host does when, a line each as its program reads them; keys are public ones, by host."""
    return list(_lines(config, rounds, old, new))


def _lines(
    config: HostConfig, rounds: Sequence[Collection[str]], old: Mapping[str, str], new: Mapping[str, str]
) -> Iterator[str]:
    if any(peer.preshared for peer in config.peers):
        # Sessions go on, but no handshake succeeds while only one end has the new one: before any is needed.
        yield "0 preshared"
    for number, hosts in enumerate(rounds, PRESHARED_ROUNDS):
        if config.host in hosts:
            yield f"{number * ROUND_S} own"
        yield from (
            f"{number * ROUND_S + HOLD_S} peer {old[peer.host]} {new[peer.host]}"
            for peer in config.peers
            if peer.host in hosts
        )
