"""Inventory -> every name, address and folder of a lab. Pure: no I/O, and the same question has the same answer always.

Names carry the lab's name, so several labs live beside each other and one can be found, and removed, by its name alone.

    internet ── u-SITE ═══ uplink ── router of SITE ── br0 ─┬─ p-HOST ═══ NIC of HOST
       └─ u-admin ═══ eth0 of the admin workstation         └─ r-RESOURCE ═══ eth0 of RESOURCE

Links to the internet are unnumbered: link-local addresses (RFC 3927), the same on each, so they clash with nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from itertools import chain
from pathlib import Path

from isthmus.errors import LabError, UsageError
from isthmus.lab.options import HostOptions, LabOptions
from isthmus.model import Inventory

BRIDGE = "br0"
UPLINK = "uplink"
ADMIN_NIC = "eth0"
INTERNET_END = IPv4Address("169.254.0.1")
"""The internet's end of every uplink."""
ROUTER_END = IPv4Address("169.254.0.2")
"""The router's end of every uplink; also the gateway inside a site that has no free address for one."""

_NAMED_NETWORK = IPv4Network("192.0.2.0/24")
"""Where DNS names lead, unless the lab is told otherwise."""
_ADMIN_NETWORKS = (IPv4Network("198.51.100.0/24"), IPv4Network("192.0.2.0/24"), IPv4Network("203.0.113.0/24"))


@dataclass(frozen=True)
class Names:
    """The namespaces and folders of the lab of this name; known without its inventory."""

    name: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,23}", self.name):
            raise UsageError(f"name of the lab: found {self.name!r}, expected up to 24 of a-z, 0-9 and -, such as lab")

    @property
    def prefix(self) -> str:
        """What the names of this lab's network namespaces begin with."""
        return f"isthmus.{self.name}."

    @property
    def run(self) -> Path:
        """What dies with the machine."""
        return Path("/run/isthmus-lab") / self.name

    @property
    def lock(self) -> Path:
        """Held by whoever builds or removes the lab."""
        return Path("/run/isthmus-lab") / f"{self.name}.lock"

    @property
    def roots(self) -> Path:
        """The hosts' disks and the admin's ~/.ssh."""
        return Path("/var/lib/isthmus-lab") / self.name

    @property
    def ssh(self) -> Path:
        """What commands of the admin workstation see as ~/.ssh."""
        return self.roots / "ssh"

    @property
    def hosts_file(self) -> Path:
        """What commands of the admin workstation see as /etc/hosts."""
        return self.roots / "hosts.txt"

    @property
    def internet(self) -> str:
        """The namespace that joins the uplinks."""
        return f"{self.prefix}internet"

    @property
    def admin(self) -> str:
        """The admin workstation's namespace."""
        return f"{self.prefix}admin"

    def router(self, site: str) -> str:
        """Return the namespace of a site's VPC router."""
        return f"{self.prefix}router.{site}"

    def host(self, host: str) -> str:
        """Return the namespace of a host."""
        return f"{self.prefix}host.{host}"

    def resource(self, resource: str) -> str:
        """Return the namespace of a resource."""
        return f"{self.prefix}resource.{resource}"

    def host_run(self, host: str) -> Path:
        """Return the folder of a host's boot."""
        return self.run / "hosts" / host

    def host_root(self, host: str) -> Path:
        """Return the folder of a host's disk."""
        return self.roots / "hosts" / host


@dataclass(frozen=True)
class Port:
    """A NIC and the port of its site's bridge it is plugged into."""

    namespace: str
    router: str
    port: str
    nic: str
    mac: str
    address: IPv4Address
    subnet: IPv4Network
    gateway: IPv4Address
    metric: int
    mtu: int
    port_mtu: int

    def wiring(self) -> tuple[str, ...]:
        """Return the shell commands that make the namespace anew with this NIC in it and nothing else.

        A machine that starts finds its NIC as the cloud made it: whatever its last run left in the kernel (interfaces,
        rules, firewall, sysctls) went with the old namespace. The MAC address stays, as it does in clouds.
        """
        inside, outside = f"ip -n {self.namespace}", f"ip -n {self.router}"
        onlink = "" if self.gateway in self.subnet else " onlink"
        peer = f"peer name {self.nic} address {self.mac} mtu {self.mtu} netns {self.namespace}"
        return (
            f"{outside} link delete {self.port} 2>/dev/null || true",
            f"ip netns delete {self.namespace} 2>/dev/null || rm -f /run/netns/{self.namespace}",
            f"ip netns add {self.namespace}",
            f"{outside} link add {self.port} mtu {self.port_mtu} type veth {peer}",
            f"{outside} link set {self.port} master {BRIDGE} up",
            f"{inside} link set lo up",
            f"{inside} address add {self.address}/{self.subnet.prefixlen} dev {self.nic} metric {self.metric}",
            f"{inside} link set {self.nic} up",
            f"{inside} route add default via {self.gateway} dev {self.nic} metric {self.metric}{onlink}",
        )


def interface(kind: str, name: str) -> str:
    """Return an interface's name: `p-n1`, or a digest where the name is too long for the kernel (15 characters)."""
    plain = f"{kind}-{name}"
    return plain if len(plain) <= 15 else f"{kind}-{hashlib.sha256(name.encode()).hexdigest()[:13]}"


def mac_address(*words: str) -> str:
    """Return a MAC address of the locally administered range, made from names only."""
    digest = hashlib.sha256("\0".join(words).encode()).hexdigest()
    return ":".join(["02", *(digest[i : i + 2] for i in range(0, 10, 2))])


@dataclass(frozen=True)
class Layout:
    """The whole lab of one inventory."""

    inventory: Inventory
    names: Names
    options: LabOptions

    def __post_init__(self) -> None:
        for what, given, known in (
            ("host", set(self.options.hosts), self.inventory.hosts.keys()),
            ("site", set(self.options.sites), self.inventory.sites.keys()),
        ):
            for unknown in sorted(given - known):
                raise LabError(f"options of the lab: found {what} {unknown!r}, expected one of {', '.join(known)}")

    @property
    def names_file(self) -> str:
        """The lines of /etc/hosts that serve the lab's DNS names; the lab has no other DNS."""
        named = (host for host in self.inventory.hosts.values() if host.public_name)
        return "".join(f"{host.public} {host.public_name}\n" for host in named)

    @cached_property
    def admin_address(self) -> IPv4Address:
        """A public address for the admin workstation that the inventory does not use."""
        used = {host.public for host in self.inventory.hosts.values()}
        for address in chain.from_iterable(network.hosts() for network in _ADMIN_NETWORKS):
            if address not in used and not any(address in network for network in self.private):
                return address
        raise LabError("the inventory leaves no documentation address for the lab's admin workstation")

    @cached_property
    def private(self) -> tuple[IPv4Network, ...]:
        """What never crosses the internet: RFC 1918, RFC 6598 and the inventory's own networks, merged."""
        known = [IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")]
        sites = [site.subnet for site in self.inventory.sites.values()]
        return tuple(collapse_addresses([*known, self.inventory.mesh.supernet, *sites]))

    def router_address(self, site: str) -> IPv4Address:
        """Return the default gateway of a site: its highest address that is free, a link-local one if none is."""
        subnet = self.inventory.sites[site].subnet
        used = {host.address for host in self.inventory.members(site)}
        used |= {resource.address for resource in self.inventory.resources_of(site)}
        for number in range(int(subnet.broadcast_address) - 1, int(subnet.network_address), -1):
            if IPv4Address(number) not in used:
                return IPv4Address(number)
        return ROUTER_END

    def port_mtu(self, site: str) -> int:
        """Return the MTU of a site's bridge, in bytes: that of its largest NIC."""
        return max([1500, *(self.options.of(host).mtu for host in self.inventory.members(site))])

    def host_port(self, name: str) -> Port:
        """Return where a host is plugged in."""
        host = self.inventory.hosts[name]
        options = self.options.of(host)
        return self._port(self.names.host(name), "p", name, host.site, host.address, options)

    def resource_port(self, name: str) -> Port:
        """Return where a resource is plugged in."""
        resource = self.inventory.resources[name]
        return self._port(self.names.resource(name), "r", name, resource.site, resource.address, HostOptions())

    def _port(
        self, namespace: str, kind: str, name: str, site: str, address: IPv4Address, options: HostOptions
    ) -> Port:
        return Port(
            namespace=namespace,
            router=self.names.router(site),
            port=interface(kind, name),
            nic=options.nic,
            mac=mac_address(self.names.name, kind, name),
            address=address,
            subnet=self.inventory.sites[site].subnet,
            gateway=self.router_address(site),
            metric=options.metric,
            mtu=options.mtu,
            port_mtu=self.port_mtu(site),
        )


def with_addresses(inventory: Inventory, addresses: Mapping[str, IPv4Address]) -> Inventory:
    """Return the inventory with a true public address for every host that has a DNS name, of `addresses` or any."""
    used = {host.public for host in inventory.hosts.values()} | set(addresses.values())
    free = (address for address in _NAMED_NETWORK.hosts() if address not in used)
    hosts = {
        name: replace(host, public=addresses.get(host.public_name) or next(free)) if host.public_name else host
        for name, host in inventory.hosts.items()
    }
    return replace(inventory, hosts=hosts)
