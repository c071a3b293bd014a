"""Inventory -> the peers, routes, rules and kernel settings of every host.

The network in words: a leaf has one peer, its site's gateway. A gateway has one peer for each other site's gateway and
one for each other host of its own site. Same-site packets stay plain on the NIC, the gateway's own included; packets of
other sites reach a leaf through the mesh interface with their true source address. Why it is so, and which simpler
networks failed, is in the README under "Decisions".

Where a site has more gateways than the one in charge, they are peers wherever it is one, but with less: no AllowedIPs
on leaves, their own address only in other sites. So each always has its own traffic in its own tunnels, and another
gateway takes charge by AllowedIPs alone: on leaves of the site and on gateways of the others, nowhere else.

Whatever the hosts of a site have in common is built once and shared, so 10,000 hosts cost 10,000 small values.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

from isthmus.model import LEAF_TABLE, Endpoint, Host, HostConfig, Inventory, Peer, Route, Rule

KEEPALIVE = 25
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
    site's gateways (and, when it is the first of a new site, the other gateways and every leaf's routes).
    """
    gateways = {site: _remote_gateways(inventory, site) for site in inventory.sites}
    routes = {
        name: Route(destination=site.subnet, device=inventory.mesh.interface) for name, site in inventory.sites.items()
    }
    configs: dict[str, HostConfig] = {}
    for site in inventory.sites:
        other_gateways = tuple(peer for name, peers in gateways.items() if name != site for peer in peers)
        other_subnets = sorted_routes(route for name, route in routes.items() if name != site)
        for gateway in inventory.sites[site].gateways:
            configs[gateway] = _compile_gateway(inventory, inventory.hosts[gateway], other_gateways, other_subnets)
        leaf_peers = _own_gateways(inventory, site)
        for leaf in inventory.leaves(site):
            configs[leaf.name] = _host_config(inventory, leaf, leaf_peers, other_subnets)
    return {name: configs[name] for name in inventory.hosts}


def _compile_gateway(
    inventory: Inventory, gateway: Host, other_gateways: tuple[Peer, ...], other_subnets: tuple[Route, ...]
) -> HostConfig:
    """Return the gateway's config: the other sites, the hosts of its own, and the way back to them.

    Without a peer for each leaf a rebooted gateway could not speak first. Without the rule and its table, packets from
    other sites would leave towards a leaf on the NIC, where clouds drop sources that are not the sender's. Another
    gateway of the site is a leaf in this.
    """
    interface = inventory.mesh.interface
    leaves = tuple(_leaf(inventory, host) for host in inventory.members(gateway.site) if host != gateway)
    to_leaves = (Route(only, interface, LEAF_TABLE) for peer in leaves for only in peer.allowed_ips)
    return _host_config(
        inventory,
        gateway,
        peers=tuple(sorted((*other_gateways, *leaves), key=lambda peer: int(inventory.hosts[peer.host].address))),
        routes=sorted_routes((*other_subnets, *to_leaves)),
        rules=(Rule(iif=interface, table=LEAF_TABLE, priority=LEAF_TABLE),),
        sysctls=GATEWAY_SYSCTLS,
        drained=inventory.sites[gateway.site].drained,
    )


def _host_config(
    inventory: Inventory,
    host: Host,
    peers: tuple[Peer, ...],
    routes: tuple[Route, ...],
    rules: tuple[Rule, ...] = (),
    sysctls: tuple[tuple[str, str], ...] = (),
    drained: str | None = None,
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
        drained=drained,
    )


# --- peers, each seen from the host that lists it -----------------------------------------------------------------


def _own_gateways(inventory: Inventory, site: str) -> tuple[Peer, ...]:
    """Return a leaf's only peers.

    The AllowedIPs of the one in charge are the supernet without the site's own subnet, not only the sites there are
    today: so a new site changes no leaf's peer. The routes decide what enters the mesh, and those name the sites one by
    one.
    """
    others = tuple(sorted(inventory.mesh.supernet.address_exclude(inventory.sites[site].subnet)))
    return tuple(
        Peer(
            host=gateway.name,
            allowed_ips=others if inventory.in_charge(gateway.name) else (),
            endpoint=Endpoint(gateway.address, inventory.mesh.listen_port),
            persistent_keepalive=_inside(inventory, site),
        )
        for gateway in _by_address(inventory, site)
    )


def _remote_gateways(inventory: Inventory, site: str) -> tuple[Peer, ...]:
    """Return a site's gateways as the gateways of the other sites see them."""
    return tuple(
        Peer(
            host=gateway.name,
            allowed_ips=(inventory.sites[site].subnet if inventory.in_charge(gateway.name) else _only(gateway),),
            endpoint=None
            if gateway.public is None
            else Endpoint(gateway.public, inventory.mesh.listen_port, gateway.public_name),
            persistent_keepalive=KEEPALIVE,
            preshared=inventory.mesh.preshared_keys,
        )
        for gateway in _by_address(inventory, site)
    )


def _by_address(inventory: Inventory, site: str) -> list[Host]:
    # Who is in charge must not change the order: peers that do not differ shall not look as if they did.
    return sorted((inventory.hosts[name] for name in inventory.sites[site].gateways), key=lambda host: host.address)


def _leaf(inventory: Inventory, leaf: Host) -> Peer:
    """Return another host of the site as a gateway of it sees it."""
    return Peer(
        host=leaf.name,
        allowed_ips=(_only(leaf),),
        endpoint=Endpoint(leaf.address, inventory.mesh.listen_port),
        persistent_keepalive=_inside(inventory, leaf.site),
    )


def _inside(inventory: Inventory, site: str) -> int | None:
    """Return the keepalive inside a site: with two gateways all tunnels are kept up, from both ends.

    Who takes charge then has no handshake to wait for, and one that was rebooted speaks first: else its leaves would go
    on for seconds, when it takes charge again, with keys it has forgotten.
    """
    return KEEPALIVE if len(inventory.sites[site].gateways) > 1 else None


def _only(host: Host) -> IPv4Network:
    return IPv4Network((int(host.address), 32))


def sorted_routes(routes: Iterable[Route]) -> tuple[Route, ...]:
    """Return routes in the order of their tables and destinations."""
    # By numbers: comparing ipaddress values is ten times slower, and gateways of large meshes have many.
    return tuple(sorted(routes, key=lambda r: (r.table, int(r.destination.network_address), r.destination.prefixlen)))
