"""Inventory -> what the second gateway of a site needs to watch the first, to take charge, and to be followed. Pure.

One decides for a site: its second gateway. It probes the gateways of the other sites through the first, whoever is in
charge: from an address of its own that everybody sends by the first (`probing`), to addresses that only the first
passes on (`probed`). So what comes back went n2 -> n1 -> s1 -> n1 -> n2: through n1's tunnels, forwarding, firewall and
public link. Its own way is measured by its own tunnels.

Each probe address has one owner on every host, also where both sites have two gateways: `probed` belongs to its gateway
on a first gateway and to the first on the second; `probing` to the second on its first and to the first elsewhere.

Leaves of the site and gateways of the other sites follow: they ask the second who is in charge, and move AllowedIPs.
Where a gateway is drained nobody watches or follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Network

from isthmus.model import LEAF_TABLE, Decide, Follow, Host, HostConfig, Inventory, Peer, Route
from isthmus.network import compile_network, sorted_routes

FEW = 3
"""So many leaves tell a gateway that its own private network is well."""


def add_watching(inventory: Inventory, configs: Mapping[str, HostConfig]) -> dict[str, HostConfig]:
    """Return the configs with what watching adds to them; the very same where no site has two gateways."""
    seconds = {site.name: site.second for site in inventory.sites.values() if site.second is not None}
    if not seconds or len(inventory.sites) == 1:
        return dict(configs)
    moved = {
        name: {peer.host: peer.allowed_ips for peer in config.peers}
        for name, config in _with_probes(inventory, compile_network(inventory.with_charge(seconds))).items()
    }
    watching = _with_probes(inventory, configs)
    for site in inventory.sites.values():
        followed = [other for other in seconds if other != site.name and inventory.sites[other].drained is None]
        for gateway in site.gateways:
            follows = tuple(_follow(inventory, other, moved[gateway]) for other in followed)
            decides = _decide(inventory, site.name) if gateway == site.second and not site.drained else None
            watching[gateway] = replace(watching[gateway], follows=follows, decides=decides)
        leaves = inventory.leaves(site.name)
        if leaves and site.second is not None and site.drained is None:
            shared = (_follow(inventory, site.name, moved[leaves[0].name]),)
            watching.update({leaf.name: replace(watching[leaf.name], follows=shared) for leaf in leaves})
    return watching


def pings(inventory: Inventory) -> Iterator[tuple[Host, Host]]:
    """Yield (who asks, who is asked) for every ping of a watcher that goes by a site's own network."""
    for site in inventory.sites.values():
        if site.second is None or len(inventory.sites) == 1:
            continue
        second = inventory.hosts[site.second]
        yield from ((leaf, second) for leaf in inventory.leaves(site.name))
        yield from ((second, leaf) for leaf in _witnesses(inventory, site.name))


# --- the way of probes --------------------------------------------------------------------------------------------


def _with_probes(inventory: Inventory, configs: Mapping[str, HostConfig]) -> dict[str, HostConfig]:
    """Return the configs with addresses, AllowedIPs and routes for probes on gateways."""
    probes = _Probes(inventory)
    return {name: probes.added_to(config) if inventory.is_gateway(name) else config for name, config in configs.items()}


class _Probes:
    """Where probes go and come from, as prefixes and routes that all gateways share."""

    def __init__(self, inventory: Inventory) -> None:
        self._hosts = inventory.hosts
        self._sites = inventory.sites
        gateways = [inventory.hosts[name] for site in inventory.sites.values() for name in site.gateways]
        self._probed = {host.name: IPv4Network(host.probed) for host in gateways}
        self._probing = {host.name: IPv4Network(host.probing) for host in gateways}
        interface = inventory.mesh.interface
        self._routes = {only: Route(only, interface) for only in (*self._probed.values(), *self._probing.values())}

    def added_to(self, config: HostConfig) -> HostConfig:
        """Return a gateway's config with its part in the probes of its own site and in those of the others."""
        own = self._sites[config.site]
        others = [site for site in self._sites.values() if site.name != own.name]
        here = self._hosts[config.host]
        networks: dict[str, list[IPv4Network]] = {}
        addresses = [here.probed] if any(site.second for site in others) else []
        arriving: list[Route] = []
        if own.second is not None:
            far = [name for site in others for name in site.gateways]
            if config.host == own.second:
                addresses.append(here.probing)
                networks[own.first] = [self._probed[name] for name in far]
            else:
                networks.update({name: [self._probed[name]] for name in far})
                networks[own.second] = [self._probing[own.second]]
                # It arrives and leaves by the mesh interface, as what others send to an own host does.
                arriving = [replace(self._routes[self._probing[own.second]], table=LEAF_TABLE)]
        for site in others:
            if site.second is not None:
                networks.setdefault(site.first, []).append(self._probing[site.second])
        at_home = [route.destination for route in arriving]
        sent = (only for owned in networks.values() for only in owned if only not in at_home)
        return replace(
            config,
            peers=tuple(_with_networks(peer, networks.get(peer.host, ())) for peer in config.peers),
            routes=sorted_routes((*config.routes, *arriving, *(self._routes[only] for only in sent))),
            probe_addresses=tuple(addresses),
        )


def _with_networks(peer: Peer, more: Iterable[IPv4Network]) -> Peer:
    return replace(peer, allowed_ips=(*peer.allowed_ips, *sorted(more))) if more else peer


# --- who decides, who follows -------------------------------------------------------------------------------------


def _decide(inventory: Inventory, name: str) -> Decide:
    site = inventory.sites[name]
    assert site.second is not None
    others = [other for other in inventory.sites.values() if other != site]
    far = [(other.name, inventory.hosts[gateway]) for other in others for gateway in sorted(other.gateways)]
    return Decide(
        site=name,
        first=site.first,
        second=site.second,
        failback=site.failback,
        probing=inventory.hosts[site.second].probing,
        through=tuple((other, gateway.probed) for other, gateway in far),
        direct=tuple((other, gateway.address) for other, gateway in far),
        inside=tuple(leaf.address for leaf in _witnesses(inventory, name)),
    )


def _follow(inventory: Inventory, name: str, moved: Mapping[str, tuple[IPv4Network, ...]]) -> Follow:
    """Return how a host follows a site's second gateway; `moved` has its peers' AllowedIPs while that is in charge."""
    site = inventory.sites[name]
    assert site.second is not None
    return Follow(
        site=name,
        first=site.first,
        second=site.second,
        asked=inventory.hosts[site.second].address,
        moved=tuple((gateway, moved[gateway]) for gateway in (site.first, site.second)),
    )


def _witnesses(inventory: Inventory, site: str) -> list[Host]:
    return sorted(inventory.leaves(site), key=lambda leaf: leaf.address)[:FEW]
