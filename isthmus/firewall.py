"""Inventory -> what each host's firewall must let through, and where source addresses are replaced.

Policy only; `render` knows iptables' words. Our chains run ahead of everything else and only ever accept: what they do
not match goes on to the host's own rules, so a DROP policy (Docker, ufw) keeps its meaning for all other traffic.
"""

from __future__ import annotations

from ipaddress import IPv4Network

from isthmus.model import PROBED, Chain, FirewallRule, Inventory, Resource, Target


def compile_firewall(inventory: Inventory) -> dict[str, tuple[FirewallRule, ...]]:
    """Return every host's rules, hosts in the order of the file, rules in the order of evaluation."""
    # WireGuard's own packets, on every host: from its gateway, its leaves or other sites.
    tunnel = FirewallRule(Chain.INPUT, Target.ACCEPT, protocol="udp", destination_port=inventory.mesh.listen_port)
    rules: dict[str, tuple[FirewallRule, ...]] = dict.fromkeys(inventory.hosts, (tunnel,))
    for site in inventory.sites:
        for gateway in inventory.sites[site].gateways:  # who stands by is ready
            rules[gateway] = (tunnel, *_gateway_rules(inventory, site, gateway))
    return rules


def _gateway_rules(inventory: Inventory, site: str, gateway: str) -> tuple[FirewallRule, ...]:
    resources = tuple(sorted(inventory.resources_of(site), key=lambda resource: resource.address))
    return (
        *_forward_members(inventory, site),
        *_forward_probes(inventory, site, gateway),
        *(rule for resource in resources for rule in _forward_resource(inventory, resource)),
        *_clamp_mss(inventory),
        *(_hide_behind_gateway(inventory, resource, gateway) for resource in resources),
    )


def _forward_members(inventory: Inventory, site: str) -> tuple[FirewallRule, ...]:
    """Let members of this site and of the others talk, from the mesh interface back into it."""
    mesh, subnet = inventory.mesh, inventory.sites[site].subnet
    return tuple(
        FirewallRule(
            Chain.FORWARD,
            Target.ACCEPT,
            source=source,
            destination=destination,
            in_interface=mesh.interface,
            out_interface=mesh.interface,
        )
        for source, destination in ((subnet, mesh.supernet), (mesh.supernet, subnet))
    )


def _forward_probes(inventory: Inventory, site: str, gateway: str) -> tuple[FirewallRule, ...]:
    """Let the second gateway probe those of other sites through the first; AllowedIPs say which these are."""
    second = inventory.sites[site].second
    if second is None or gateway == second or len(inventory.sites) == 1:
        return ()
    only, interface = IPv4Network(inventory.hosts[second].probing), inventory.mesh.interface
    return tuple(
        FirewallRule(
            Chain.FORWARD,
            Target.ACCEPT,
            source=source,
            destination=destination,
            in_interface=interface,
            out_interface=interface,
        )
        for source, destination in ((only, PROBED), (PROBED, only))
    )


def _forward_resource(inventory: Inventory, resource: Resource) -> tuple[FirewallRule, ...]:
    """Let the mesh open flows to a resource, and only the answers come back."""
    interface, only = inventory.mesh.interface, IPv4Network(resource.address)
    return (
        FirewallRule(
            Chain.FORWARD,
            Target.ACCEPT,
            destination=only,
            in_interface=interface,
            out_interface=f"!{interface}",
        ),
        FirewallRule(Chain.FORWARD, Target.ACCEPT, source=only, out_interface=interface, established=True),
    )


def _clamp_mss(inventory: Inventory) -> tuple[FirewallRule, ...]:
    """Keep TCP segments of forwarded flows within the path, in both directions, where ICMP is filtered."""
    interface = inventory.mesh.interface
    return (
        FirewallRule(Chain.MANGLE, Target.CLAMP_MSS, in_interface=interface, protocol="tcp"),
        FirewallRule(Chain.MANGLE, Target.CLAMP_MSS, out_interface=interface, protocol="tcp"),
    )


def _hide_behind_gateway(inventory: Inventory, resource: Resource, gateway: str) -> FirewallRule:
    """Give flows to a resource the gateway's address: the resource has no route back to other sites.

    SNAT to the address rather than MASQUERADE on a NIC: it needs no NIC's name, so it never has a wrong one. Hosts of
    the resource's own site reach it directly, and the gateway's own address is mapped to itself: no exception needed.
    """
    return FirewallRule(
        Chain.NAT,
        Target.SNAT,
        source=inventory.mesh.supernet,
        destination=IPv4Network(resource.address),
        out_interface=f"!{inventory.mesh.interface}",
        to_source=inventory.hosts[gateway].address,
    )
