"""What decides about packets on one host, as plain values: compiled for it or read back from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from isthmus.model import FirewallRule, HostConfig, Inventory, Peer, Route, Rule

EVERYTHING = IPv4Network("0.0.0.0/0")

COMPILED_NIC = "eth0"
"""The private NIC's name on a compiled machine. No promise depends on it; observed machines have their own."""

COMPILED_NIC_METRIC = 100
"""The metric of the NIC's routes on a compiled machine: DHCP clients, netplan and NetworkManager give one. It is the
harsher guess: any route into the mesh for the same network then wins over the NIC's."""

LOOPBACK = "lo"
"""The device a host's own packets come from, by the kernel's reckoning (`ip rule … iif lo`)."""


@dataclass(frozen=True)
class Machine:
    """One host as the kernel and WireGuard on it see the network.

    The order of `routes` and `peers` means what it means to the kernel: of two equal routes the first is taken, of two
    claims on a prefix the last.
    """

    name: str
    interface: str
    addresses: tuple[tuple[str, IPv4Interface], ...]
    """Every device's addresses, as `ip address` lists them: the NIC's, the mesh interface's, any other's."""
    routes: tuple[Route, ...]
    """The routes of every table but the kernel's `local`; those of connected networks included."""
    rules: tuple[Rule, ...]
    """The policy rules besides the kernel's own three (local, main, default)."""
    peers: tuple[Peer, ...]
    """`Peer.host` is the name of the host that has the key, or the key itself where nobody has it."""
    listen_port: int
    mtu: int
    """Bytes; of the mesh interface."""
    firewall: tuple[FirewallRule, ...]
    """The rules of those chains of ours to which the built-in chain jumps."""
    ip_forward: bool
    rp_filter: int = 1
    """net.ipv4.conf.*.rp_filter, the strictest that applies: 0 off, 1 strict, 2 loose."""
    input_drops: bool = True
    """Incoming packets that no rule of ours accepts are dropped."""
    forward_drops: bool = True
    """Forwarded packets that no rule of ours accepts are dropped (Docker's and ufw's policy)."""

    def addresses_of(self, device: str) -> tuple[IPv4Interface, ...]:
        """Return the addresses on one device."""
        return tuple(address for name, address in self.addresses if name == device)


def machine_of(config: HostConfig, inventory: Inventory) -> Machine:
    """Return the machine that a compiled host will be, in the harshest surroundings the design allows for.

    Harsh: a NIC with metric routes, strict rp_filter, a firewall that drops what it is not told to accept.
    """
    return machines_of({config.host: config}, inventory)[config.host]


def machines_of(configs: Mapping[str, HostConfig], inventory: Inventory) -> dict[str, Machine]:
    """Return `machine_of` every compiled host. Hosts of a site that share their routes go on sharing them."""
    with_nic: dict[tuple[str, int], tuple[Route, ...]] = {}
    machines = {}
    for name, config in configs.items():
        subnet = inventory.sites[config.site].subnet
        # Known by identity: comparing thousands of routes costs more than all the rest. `configs` keeps them alive.
        key = (config.site, id(config.routes))
        if key not in with_nic:
            with_nic[key] = (*_nic_routes(subnet), *config.routes)
        machines[name] = Machine(
            name=name,
            interface=config.interface,
            addresses=(
                (COMPILED_NIC, _on_link(config.address, subnet.prefixlen)),
                *((config.interface, _on_link(one, 32)) for one in (config.address, *config.probe_addresses)),
            ),
            routes=with_nic[key],
            rules=config.rules,
            peers=config.peers,
            listen_port=config.listen_port,
            mtu=config.mtu,
            firewall=config.firewall,
            ip_forward=("net.ipv4.ip_forward", "1") in config.sysctls,
        )
    return machines


def connected_route(device: str, address: IPv4Interface, metric: int = 0) -> tuple[Route, ...]:
    """Return the route the kernel adds by itself for an address on a device: one to its network, none for a /32."""
    if address.network.prefixlen == 32:
        return ()
    return (Route(address.network, device, source=address.ip, metric=metric),)


def _nic_routes(subnet: IPv4Network) -> tuple[Route, ...]:
    """Return the NIC's route to its own network and the one to everything else, by that network's router."""
    return (
        Route(subnet, COMPILED_NIC, metric=COMPILED_NIC_METRIC),
        Route(EVERYTHING, COMPILED_NIC, metric=COMPILED_NIC_METRIC),
    )


def _on_link(address: IPv4Address, prefix_length: int) -> IPv4Interface:
    return IPv4Interface((int(address), prefix_length))
