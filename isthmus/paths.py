"""The paths packets really take: routes, rules, AllowedIPs and firewall read back from the hosts, walked by verify."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from itertools import permutations

from isthmus.charge import as_running
from isthmus.errors import HostError
from isthmus.model import Endpoint, Inventory, Peer
from isthmus.observe import Facts, FoundPeer
from isthmus.remote import Fleet
from isthmus.survey import Progress, foreign_of, known_keys, observe
from isthmus.verify import BrokenPromise, Machine, Path, Tracer, Walk, promised_path, verify


@dataclass(frozen=True)
class PairPath:
    """The path of one ordered pair as it is and as it was promised."""

    walk: Walk
    promised: Path

    @property
    def kept(self) -> bool:
        """The packet arrives, and by the promised path."""
        return self.walk.delivered and self.walk.path == self.promised


@dataclass(frozen=True)
class PathReport:
    """Every ordered pair of members that were seen, every resource from them, and what is broken."""

    pairs: tuple[PairPath, ...]
    broken: tuple[BrokenPromise, ...]
    failures: Mapping[str, HostError]


def machine_from(
    facts: Facts, interface: str, hosts_by_key: Mapping[str, str], named: Mapping[str, IPv4Address] | None = None
) -> Machine:
    """Return what decides about packets on an observed host. A peer with an unknown key keeps the key as its name.

    `named` are the stand-ins of the peers that this host finds by a DNS name: wherever that led is theirs.
    """
    found = facts.interface
    peers = tuple(
        Peer(
            host=hosts_by_key.get(peer.public_key, peer.public_key),
            allowed_ips=peer.allowed_ips,
            endpoint=_endpoint(peer, (named or {}).get(hosts_by_key.get(peer.public_key, ""))),
            persistent_keepalive=peer.persistent_keepalive,
        )
        for peer in (found.peers if found else ())
    )
    return Machine(
        name=facts.host,
        interface=interface,
        addresses=facts.addresses,
        routes=facts.routes,
        rules=facts.rules,
        peers=peers,
        listen_port=found.listen_port if found else 0,
        mtu=found.mtu if found else 0,
        firewall=facts.firewall_rules(),
        ip_forward=facts.sysctls.get("net.ipv4.ip_forward") == "1",
        rp_filter=facts.rp_filter(),
        input_drops=facts.policies.get("filter INPUT") == "DROP",
        forward_drops=facts.policies.get("filter FORWARD") == "DROP",
    )


def _endpoint(peer: FoundPeer, stand_in: IPv4Address | None) -> Endpoint | None:
    if stand_in is None or peer.endpoint is None:
        return peer.endpoint
    return replace(peer.endpoint, address=stand_in)


def _named(inventory: Inventory, host: str) -> dict[str, IPv4Address]:
    """Return the stand-ins of the hosts of other sites that have a DNS name."""
    site = inventory.hosts[host].site
    others = (other for other in inventory.hosts.values() if other.site != site and other.public_name)
    return {other.name: other.public for other in others if other.public is not None}


def paths(
    fleet: Fleet,
    inventory: Inventory,
    only: Collection[str] | None = None,
    progress: Progress = lambda _host, _what: None,
) -> PathReport:
    """Read every host's state and walk every pair through it; `only` limits the sources reported."""
    found = observe(fleet, inventory, list(inventory.hosts), progress)
    facts = {name: result for name, result in found.items() if isinstance(result, Facts)}
    failures = {name: result for name, result in found.items() if isinstance(result, HostError)}
    inventory = as_running(inventory, facts)
    names = {key: host for host, key in known_keys(facts).items()}
    interface = inventory.mesh.interface
    machines = {name: machine_from(one, interface, names, _named(inventory, name)) for name, one in facts.items()}
    sources = [name for name in machines if only is None or name in only]
    tracer = Tracer(machines, inventory)
    ends = [pair for pair in permutations(machines, 2) if pair[0] in sources]
    ends += [(source, resource) for source in sources for resource in inventory.resources]
    pairs = tuple(
        PairPath(tracer.trace(source, destination), promised_path(inventory, source, destination))
        for source, destination in ends
    )
    broken = verify(machines, inventory, foreign_of(facts, inventory))
    # A promise about a host that nobody could ask is neither kept nor broken.
    known = {*machines, *inventory.resources}
    return PathReport(pairs, tuple(fault for fault in broken if set(fault.subject.split(" to ")) <= known), failures)
