"""What must change on a host: (wanted, found) -> HostPlan. Pure. An empty plan means there is nothing to do.

The plan is one value that is shown, applied and asked again afterwards: what was shown is what is done.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Interface, IPv4Network

from isthmus.model import Chain, HostConfig, Peer
from isthmus.observe import OURS, Facts, FoundCharge, FoundInterface, FoundPeer
from isthmus.render import NAMES_UNIT, PROGRAM, WATCHER, File, route_line, rule_line

PACKAGES = {
    "wg": "wireguard-tools",
    "wg-quick": "wireguard-tools",
    "iptables": "iptables",
    "iptables-restore": "iptables",
    "ping": "iputils-ping",
}
"""The Debian package each tool comes from."""

SUPPORTED = ("debian 11", "debian 12", "debian 13")
"""Systems the lab proves, as os-release names them."""

ROAMED_S = 180
"""A peer heard within so many seconds is where its packets come from (WireGuard's REJECT_AFTER_TIME): its endpoint
may differ from the configured one without being wrong, as when a cloud translates the source port."""


SETTLE_S = 5
"""A watcher notes who is in charge before it moves peers, which may wait 2 s for all hosts to do so together."""


class Kind(str, Enum):
    """What a change is about."""

    PACKAGE = "package"
    KEY = "key"
    FILE = "file"
    INTERFACE = "interface"
    PEER = "peer"
    ROUTE = "route"
    RULE = "rule"
    FIREWALL = "firewall"
    SYSCTL = "sysctl"
    UNIT = "unit"


@dataclass(frozen=True)
class Change:
    """One thing that differs: its lines as they are and as they shall be; an empty side is absence."""

    kind: Kind
    name: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"{self.kind.value} {self.name}"
        if self.kind is Kind.FILE and min(len(self.before), len(self.after)) > 1:
            body = list(difflib.unified_diff(self.before, self.after, lineterm="", n=1))[2:]
        else:
            body = [f"-{line}" for line in self.before] + [f"+{line}" for line in self.after]
        return "\n".join([head, *(f"    {line}" for line in body)])


@dataclass(frozen=True)
class HostPlan:
    """All changes of one host, and what carrying them out needs."""

    host: str
    changes: tuple[Change, ...]
    packages: tuple[str, ...]
    make_key: bool
    files: Mapping[str, File]
    """Every file of ours, changed or not: a transaction installs them all, so a host is never half ours."""
    discard: tuple[str, ...]
    """Files of ours the host should no longer have."""

    def __bool__(self) -> bool:
        return bool(self.changes)

    @property
    def needs_preparation(self) -> bool:
        """Packages are missing, or the host has no key yet."""
        return bool(self.packages) or self.make_key

    @property
    def moves_networks(self) -> bool:
        """A peer that stays gets other AllowedIPs: until every host concerned has done its part, packets are lost.

        And so are handshakes, while only one end has a preshared key.
        """
        peers = [change for change in self.changes if change.kind is Kind.PEER and change.before and change.after]
        return any(_of_both_ends(change.before) != _of_both_ends(change.after) for change in peers)

    @property
    def shares(self) -> tuple[str, ...]:
        """The peers with which another preshared key will be used, or one or none for the first time."""
        peers = [change for change in self.changes if change.kind is Kind.PEER and change.before and change.after]
        return tuple(change.name for change in peers if change.before[3:] != change.after[3:])


def objections(config: HostConfig, facts: Facts) -> tuple[str, ...]:
    """Return why this host must not be touched: another system, someone else's interface, the wrong machine."""
    found: list[str] = []
    if facts.system not in SUPPORTED:
        found.append(f"runs {facts.system}; supported are {', '.join(SUPPORTED)}")
    nics = facts.network_interfaces(config.interface)
    if config.address not in [address.ip for _, address in nics]:
        has = ", ".join(f"{address.ip} ({device})" for device, address in nics) or "none"
        found.append(f"has no network interface with {config.address}, its address in the inventory; it has {has}")
    for other in facts.other_interfaces:
        both = f"has the mesh on {other}, not on {config.interface}"
        found.append(f"{both}; to rename it, `inv mesh.down` with the old hosts.toml, then `inv mesh.up`")
    path = f"/etc/wireguard/{config.interface}.conf"
    conf = facts.files.get(path)
    if conf is not None and not conf.text.startswith(OURS):
        found.append(f"{path} was not written by Isthmus; move it away, or choose another [mesh] interface")
    elif conf is None and facts.link_exists and not facts.our_routes and facts.program_sha256 is None:
        found.append(f"has a network interface {config.interface} that is not ours; choose another [mesh] interface")
    return tuple(found)


def plan_host(config: HostConfig, files: Mapping[str, File], public_keys: Mapping[str, str], facts: Facts) -> HostPlan:
    """Compare what the host should be with what the probe found.

    `files` is what render gives for `config`; `public_keys` maps a host's name to its key, for those known.
    """
    packages = tuple(sorted({package for tool, package in PACKAGES.items() if tool not in facts.tools}))
    changes = [Change(Kind.PACKAGE, package, after=("installed",)) for package in packages]
    if facts.public_key is None:
        changes.append(Change(Kind.KEY, f"/etc/wireguard/{config.interface}.key", after=("made on the host, 0600",)))
    elif facts.key_mode is not None and facts.key_mode & 0o077:
        path = f"/etc/wireguard/{config.interface}.key"
        changes.append(Change(Kind.KEY, path, (f"mode {facts.key_mode:04o}",), ("mode 0600",)))
    changes += _file_changes(files, facts)
    discard = tuple(sorted(set(facts.files) - set(files)))
    for path in discard:
        before = ("another version",) if path == WATCHER else _lines(facts.files[path].text)
        changes.append(Change(Kind.FILE, path, before=before))
    preshared = {peer.host for peer in config.peers if peer.preshared}
    for name in sorted(preshared - facts.preshared.keys()):
        changes.append(Change(Kind.KEY, preshared_with(name), after=("made on one of the two, 0600 on both",)))
    for name in sorted(facts.preshared.keys() - preshared):
        changes.append(Change(Kind.KEY, preshared_with(name), before=("present",)))
        discard = (*discard, f"/etc/wireguard/{config.interface}.psk/{name}")
    changes += _running_changes(config, files, public_keys, facts)
    if config.looks_up_names and facts.looks_up_names is False:
        changes.append(Change(Kind.UNIT, NAMES_UNIT, ("stopped",), ("running",)))
    if not facts.enabled:
        changes.append(Change(Kind.UNIT, f"wg-quick@{config.interface}", ("disabled",), ("enabled",)))
    # One that is not wanted goes with its file.
    if config.watches and not facts.watching:
        changes.append(Change(Kind.UNIT, f"isthmus-watch-{config.interface}", ("stopped",), ("running",)))
    return HostPlan(
        host=config.host,
        changes=tuple(changes),
        packages=packages,
        make_key=facts.public_key is None or any(change.kind is Kind.KEY for change in changes),
        files=files,
        discard=discard,
    )


def preshared_with(name: str) -> str:
    """Return how a plan calls the key that a host shares with another."""
    return f"preshared with {name}"


def _file_changes(files: Mapping[str, File], facts: Facts) -> Iterator[Change]:
    for path, file in sorted(files.items()):
        if path == PROGRAM:
            # Long and the same everywhere: compared by its sum, shown by its name.
            if facts.program_sha256 != hashlib.sha256(file.text.encode()).hexdigest():
                before = ("another version",) if facts.program_sha256 else ()
                yield Change(Kind.FILE, path, before, ("this version",))
            elif facts.program_mode != file.mode:
                yield Change(Kind.FILE, path, *_modes(facts.program_mode, file.mode))
            continue
        found = facts.files.get(path)
        if path == WATCHER and (found is None or found.text != file.text):
            yield Change(Kind.FILE, path, ("another version",) if found else (), ("this version",))
        elif found is None:
            yield Change(Kind.FILE, path, after=_lines(file.text))
        elif found.text != file.text:
            yield Change(Kind.FILE, path, _lines(found.text), _lines(file.text))
        elif found.mode != file.mode:
            yield Change(Kind.FILE, path, *_modes(found.mode, file.mode))


def _lines(text: str) -> tuple[str, ...]:
    """Return lines that look different wherever they are: what a terminal would swallow or obey is spelled out."""
    lines = [line if line.isprintable() else line.encode("unicode_escape").decode() for line in text.split("\n")]
    if lines[-1]:
        return (*lines, "\\ no newline at the end")
    return tuple(lines[:-1])


def _modes(found: int | None, wanted: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (f"mode {found or 0:04o}",), (f"mode {wanted:04o}",)


def _running_changes(
    config: HostConfig, files: Mapping[str, File], public_keys: Mapping[str, str], facts: Facts
) -> Iterator[Change]:
    """Compare what runs. A missing interface is one change: all its peers and routes come with it."""
    running = facts.interface
    if running is None:
        yield Change(Kind.INTERFACE, config.interface, ("down",) if facts.enabled else (), ("up",))
        return
    yield from _interface_changes(config, running, facts)
    changes = list(_peer_changes(_as_charged(config, facts), public_keys, running, facts.clock, facts.preshared))
    if changes and any(_settles(charge, facts.clock) for charge in facts.charges.values()):
        unsettled = _as_charged(config, facts, settled=False)
        earlier = list(_peer_changes(unsettled, public_keys, running, facts.clock, facts.preshared))
        changes = min(changes, earlier, key=len)
    yield from changes
    wanted_routes = {route_line(route, str(config.address)) for route in config.routes}
    yield from _set_changes(Kind.ROUTE, {route_line(route, None) for route in facts.our_routes}, wanted_routes)
    yield from _set_changes(Kind.RULE, set(map(rule_line, facts.our_rules)), set(map(rule_line, config.rules)))
    yield from _firewall_changes(files[f"/etc/isthmus/{config.interface}.iptables"].text, facts.firewall)
    for name, value in config.sysctls:
        if facts.sysctls.get(name) != value:
            yield Change(Kind.SYSCTL, name, (facts.sysctls.get(name, "unset"),), (value,))


def _interface_changes(config: HostConfig, running: FoundInterface, facts: Facts) -> Iterator[Change]:
    addresses = {str(address) for device, address in facts.addresses if device == config.interface}
    wanted = {str(IPv4Interface(address)) for address in (config.address, *config.probe_addresses)}
    yield from _values(config.interface, "address", addresses, wanted)
    yield from _values(config.interface, "mtu", {str(running.mtu)}, {str(config.mtu)})
    yield from _values(config.interface, "listen-port", {str(running.listen_port)}, {str(config.listen_port)})
    if not running.up:
        yield Change(Kind.INTERFACE, config.interface, ("down",), ("up",))
    if facts.public_key and running.public_key != facts.public_key:
        yield Change(Kind.INTERFACE, f"{config.interface} key", ("another key",), ("the host's key",))


def _values(interface: str, name: str, found: set[str], wanted: set[str]) -> Iterator[Change]:
    if found != wanted:
        yield Change(Kind.INTERFACE, f"{interface} {name}", tuple(sorted(found)), tuple(sorted(wanted)))


def _as_charged(config: HostConfig, facts: Facts, *, settled: bool = True) -> HostConfig:
    """Return the config with the AllowedIPs that its watcher has moved: what runs follows it, the files do not.

    Unless `settled`, what the watcher has noted just now counts the other way: not yet done.
    """
    moved: list[tuple[str, tuple[IPv4Network, ...]]] = []
    for follow in config.follows:
        charge = facts.charges.get(follow.site)
        if charge is not None:
            late = not settled and _settles(charge, facts.clock)
            if (charge.gateway == follow.second) != late:
                moved += follow.moved
    if not moved:
        return config
    networks = dict(moved)
    peers = (replace(peer, allowed_ips=networks.get(peer.host, peer.allowed_ips)) for peer in config.peers)
    return replace(config, peers=tuple(peers))


def _settles(charge: FoundCharge, clock: int) -> bool:
    """Return whether the watcher has noted this so recently that its peers may not have moved yet."""
    return clock - charge.since < SETTLE_S


def _peer_changes(
    config: HostConfig,
    public_keys: Mapping[str, str],
    running: FoundInterface,
    clock: int,
    preshared: Mapping[str, str],
) -> Iterator[Change]:
    found = {peer.public_key: peer for peer in running.peers}
    names = {key: host for host, key in public_keys.items()}
    for peer in config.peers:
        key = public_keys.get(peer.host)
        if key is None:
            continue
        here = found.pop(key, None)
        if here is None:
            yield Change(Kind.PEER, peer.host, after=_wanted_peer(peer))
        elif not _same_peer(peer, here, clock, preshared.get(peer.host)):
            before, after = _found_peer(here), _wanted_peer(peer)
            if before == after:  # neither key may be shown
                before = (*before[:-1], "preshared-key (hidden, another)")
            yield Change(Kind.PEER, peer.host, before, after)
    for key, here in found.items():
        yield Change(Kind.PEER, names.get(key, key), before=_found_peer(here))


def _same_peer(peer: Peer, here: FoundPeer, clock: int, fingerprint: str | None) -> bool:
    """Return whether a peer runs as it shall; the fingerprint is that of the key that the host shares with it."""
    heard = bool(here.latest_handshake) and clock - here.latest_handshake < ROAMED_S
    return (
        sorted(peer.allowed_ips) == list(here.allowed_ips)
        and peer.persistent_keepalive == here.persistent_keepalive
        and here.preshared_key == peer.preshared
        and (not peer.preshared or here.fingerprint == fingerprint)
        # Where a name leads is looked up on the host, when it is needed: no plan knows better.
        and (peer.endpoint == here.endpoint or heard or (peer.endpoint is not None and peer.endpoint.name is not None))
    )


def _wanted_peer(peer: Peer) -> tuple[str, ...]:
    secret = ("preshared-key (hidden)",) if peer.preshared else ()
    return _peer_text(peer.allowed_ips, peer.endpoint, peer.persistent_keepalive) + secret


def _of_both_ends(peer: tuple[str, ...]) -> tuple[str, ...]:
    """Return what of a peer's text the other end has to agree with."""
    return (peer[0], *peer[3:])


def _found_peer(peer: FoundPeer) -> tuple[str, ...]:
    secret = ("preshared-key (hidden)",) if peer.preshared_key else ()
    return _peer_text(peer.allowed_ips, peer.endpoint, peer.persistent_keepalive) + secret


def _peer_text(allowed_ips: Iterable[object], endpoint: object, keepalive: int | None) -> tuple[str, ...]:
    return (
        f"allowed-ips {', '.join(map(str, allowed_ips)) or '(none)'}",
        f"endpoint {endpoint or '(none)'}",
        f"persistent-keepalive {keepalive or 'off'}",
    )


def _set_changes(kind: Kind, found: set[str], wanted: set[str]) -> Iterator[Change]:
    for line in sorted(found ^ wanted):
        # As in the routes file, without the words that say it is to be added.
        name = line.replace(f"{kind.value} add ", "", 1)
        yield Change(kind, name, ("present",) if line in found else (), ("present",) if line in wanted else ())


def _firewall_changes(text: str, found: Iterable[str]) -> Iterator[Change]:
    """Compare chain by chain, in order; the jumps to our chains belong to them."""
    wanted_chains = _chains(_with_tables(text))
    for chain in Chain:
        if f"{chain.table} {chain.chain}" in wanted_chains:
            wanted_chains[f"{chain.table} {chain.chain}"].append(f"-A {chain.parent} -j {chain.chain}")
    found_chains = _chains(found)
    for name in sorted(wanted_chains.keys() | found_chains.keys()):
        before, after = found_chains.get(name, []), wanted_chains.get(name, [])
        if before != after:
            yield Change(Kind.FIREWALL, name, tuple(before), tuple(after))


def _with_tables(text: str) -> Iterator[str]:
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith((":", "-A")):
            yield f"{table} {line}"


def _chains(lines: Iterable[str]) -> dict[str, list[str]]:
    """Group lines such as `filter -A ISTHMUS-INPUT …` by `filter ISTHMUS-INPUT`, rules first, then jumps."""
    chains: dict[str, list[str]] = {}
    jumps: list[tuple[str, str]] = []
    for line in lines:
        table, _, rule = line.partition(" ")
        words = rule.split()
        if rule.startswith(":"):
            chains.setdefault(f"{table} {words[0][1:]}", [])
        elif words[1].startswith("ISTHMUS-"):
            chains.setdefault(f"{table} {words[1]}", []).append(rule)
        else:
            jumps.append((f"{table} {words[-1]}", rule))
    for name, rule in jumps:
        chains.setdefault(name, []).append(rule)
    return chains
