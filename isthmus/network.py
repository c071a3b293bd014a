"""Inventory -> the peers, routes, rules and kernel settings of every host.

The network in words: a leaf has one peer, its site's gateway. A gateway has one peer for each other site's gateway and
one for each of its own leaves. Same-site packets stay plain on the NIC, the gateway's own included; packets of other
sites reach a leaf through the mesh interface with their true source address. Why it is so, and which simpler networks
failed, is in the README under "Decisions".

Whatever the hosts of a site have in common is built once and shared, so 10,000 hosts cost 10,000 small values.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

from isthmus.model import LEAF_TABLE, Endpoint, Host, HostConfig, Inventory, Peer, Route, Rule

GATEWAY_KEEPALIVE = 25
"""Seconds. Clouds put gateways behind 1:1 NAT and stateful security groups; the shortest timeout in use is about 30."""

GATEWAY_SYSCTLS = (
    # Forwarding from the mesh interface into itself would make the kernel tell leaves of a shorter way; there is none.
    # The kernel takes the OR of `all` and the interface's own value; `default` is what a new interface starts with.
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
    ("net.ipv4.ip_forward", "1"),
)


def compile_network(inventory: Inventory) -> dict[str, HostConfig]:
    """Return every host's part of the network, in the order of the file, with no firewall yet.

    A host's addresses come from the inventory alone, so adding a host moves nobody: it changes the new host and its
    site's gateway (and, when it is the first of a new site, the other gateways and every leaf's routes).
    """
    gateways = {site: _remote_gateway(inventory, site) for site in inventory.sites}
    routes = {
        name: Route(destination=site.subnet, device=inventory.mesh.interface) for name, site in inventory.sites.items()
    }
    configs: dict[str, HostConfig] = {}
    for site in inventory.sites:
        other_gateways = tuple(peer for name, peer in gateways.items() if name != site)
        other_subnets = _sorted_routes(route for name, route in routes.items() if name != site)
        gateway = inventory.gateway_of(site)
        configs[gateway.name] = _compile_gateway(inventory, gateway, other_gateways, other_subnets)
        leaf_peers = (_own_gateway(inventory, site),)
        for leaf in inventory.leaves(site):
            configs[leaf.name] = _host_config(inventory, leaf, leaf_peers, other_subnets)
    return {name: configs[name] for name in inventory.hosts}


def _compile_gateway(
    inventory: Inventory, gateway: Host, other_gateways: tuple[Peer, ...], other_subnets: tuple[Route, ...]
) -> HostConfig:
    """Return the gateway's config: the other sites, its own leaves, and the way back to them.

    Without a peer for each leaf a rebooted gateway could not speak first. Without the rule and its table, packets from
    other sites would leave towards a leaf on the NIC, where clouds drop sources that are not the sender's.
    """
    interface = inventory.mesh.interface
    leaves = tuple(_leaf(inventory, leaf) for leaf in inventory.leaves(gateway.site))
    to_leaves = (Route(only, interface, LEAF_TABLE) for peer in leaves for only in peer.allowed_ips)
    return _host_config(
        inventory,
        gateway,
        peers=tuple(sorted((*other_gateways, *leaves), key=lambda peer: int(inventory.hosts[peer.host].address))),
        routes=_sorted_routes((*other_subnets, *to_leaves)),
        rules=(Rule(iif=interface, table=LEAF_TABLE, priority=LEAF_TABLE),),
        sysctls=GATEWAY_SYSCTLS,
    )


def _host_config(
    inventory: Inventory,
    host: Host,
    peers: tuple[Peer, ...],
    routes: tuple[Route, ...],
    rules: tuple[Rule, ...] = (),
    sysctls: tuple[tuple[str, str], ...] = (),
) -> HostConfig:
    mesh = inventory.mesh
    return HostConfig(
        host=host.name,
        site=host.site,
        interface=mesh.interface,
        address=host.address,
        listen_port=mesh.listen_port,
        mtu=mesh.mtu,
        peers=peers,
        routes=routes,
        rules=rules,
        sysctls=sysctls,
    )


# --- peers, each seen from the host that lists it -----------------------------------------------------------------


def _own_gateway(inventory: Inventory, site: str) -> Peer:
    """Return a leaf's only peer.

    Its AllowedIPs are the supernet without the site's own subnet, not only the sites there are today: so a new site
    changes no leaf's peer. The routes decide what enters the mesh, and those name the sites one by one.
    """
    gateway = inventory.gateway_of(site)
    return Peer(
        host=gateway.name,
        allowed_ips=tuple(sorted(inventory.mesh.supernet.address_exclude(inventory.sites[site].subnet))),
        endpoint=Endpoint(gateway.address, inventory.mesh.listen_port),
    )


def _remote_gateway(inventory: Inventory, site: str) -> Peer:
    """Return a site's gateway as the gateways of the other sites see it."""
    gateway = inventory.gateway_of(site)
    return Peer(
        host=gateway.name,
        allowed_ips=(inventory.sites[site].subnet,),
        endpoint=None if gateway.public is None else Endpoint(gateway.public, inventory.mesh.listen_port),
        persistent_keepalive=GATEWAY_KEEPALIVE,
    )


def _leaf(inventory: Inventory, leaf: Host) -> Peer:
    """Return a leaf as its own gateway sees it."""
    return Peer(
        host=leaf.name,
        allowed_ips=(IPv4Network((int(leaf.address), 32)),),
        endpoint=Endpoint(leaf.address, inventory.mesh.listen_port),
    )


def _sorted_routes(routes: Iterable[Route]) -> tuple[Route, ...]:
    # By numbers: comparing ipaddress values is ten times slower, and gateways of large meshes have many.
    return tuple(sorted(routes, key=lambda r: (r.table, int(r.destination.network_address), r.destination.prefixlen)))
