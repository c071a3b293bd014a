"""The frozen vocabularies: Inventory is what was asked for, HostConfig is what one host gets.

No I/O and no policy here: only data and the arithmetic every module needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network

ROUTE_PROTOCOL = 182
"""The number that marks a route or rule as ours (`ip route show proto 182`). Not in iproute2's rt_protos."""

LEAF_TABLE = 5182
"""A gateway's table (and its rule's priority) that leads packets arriving on the mesh interface back into it."""

MAIN_TABLE = 254
"""The kernel's main routing table."""

LOCAL_TABLE = 255
"""The kernel's table of its own addresses."""

PROBED = IPv4Network("240.0.0.0/5")
"""Where gateways are probed: each one's mesh address moved in here. 240.0.0.0/4 is given to nobody."""

PROBING = IPv4Network("248.0.0.0/5")
"""Where the probes of gateways that stand by come from: their mesh addresses moved in here."""


# --- what was asked for -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mesh:
    """Section `[mesh]`."""

    supernet: IPv4Network
    interface: str = "wg0"
    listen_port: int = 51820
    mtu: int = 1420
    preshared_keys: bool = False
    """Gateways of different sites have a preshared key, each pair its own."""


@dataclass(frozen=True)
class Ssh:
    """Section `[ssh]`, or a host's own `ssh = {…}` with the gaps filled from it."""

    user: str = "root"
    port: int = 22


@dataclass(frozen=True)
class Site:
    """Section `[sites.NAME]`: hosts that reach each other over one private network at no traffic fee."""

    name: str
    subnet: IPv4Network
    gateways: tuple[str, ...]
    """The first is in charge of the site's traffic with other sites, the others stand by."""
    provider: str | None = None
    failback: str = "auto"
    """`auto`: the first takes charge again by itself when it has been well for a minute; or `manual`."""
    drained: str | None = None
    """The gateway that `inv mesh.drain` took out of charge; not of hosts.toml, the hosts know it."""
    order: tuple[str, ...] = ()
    """The gateways as hosts.toml has them, where another one than its first is in charge."""

    @property
    def gateway(self) -> str:
        """The name of the gateway in charge."""
        return self.gateways[0]

    @property
    def first(self) -> str:
        """The gateway that hosts.toml puts in charge."""
        return (self.order or self.gateways)[0]

    @property
    def second(self) -> str | None:
        """The gateway that hosts.toml lets stand by, which watches the first; None where there is none."""
        gateways = self.order or self.gateways
        return gateways[1] if len(gateways) > 1 else None


@dataclass(frozen=True)
class Host:
    """Section `[hosts.NAME]`. `address` is its private address and its mesh address."""

    name: str
    site: str
    address: IPv4Address
    public: IPv4Address | None = None
    roles: tuple[str, ...] = ()
    taints: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    ssh: Ssh = Ssh()
    public_name: str | None = None
    """The DNS name that stands for its public address; `public` is then `stand_in`'s, good for telling hosts apart."""

    @property
    def public_place(self) -> IPv4Address | str | None:
        """What others send to: the DNS name where there is one, else the public address."""
        return self.public_name or self.public

    @property
    def probed(self) -> IPv4Address:
        """Where this gateway is probed through the first gateways of other sites."""
        return _moved(self.address, PROBED)

    @property
    def probing(self) -> IPv4Address:
        """Where this gateway's own probes come from, if it stands by."""
        return _moved(self.address, PROBING)


def stand_in(address: IPv4Address) -> IPv4Address:
    """Return what stands for the public address of a host that has a DNS name; `address` is its private one.

    A multicast address: on no host, in no route, of no two hosts the same, and never written anywhere.
    """
    return IPv4Address(0xE0000000 | (int(address) & 0x0FFFFFFF))


@dataclass(frozen=True)
class Resource:
    """Section `[resources.NAME]`: an address in a site's subnet that runs no WireGuard."""

    name: str
    site: str
    address: IPv4Address
    port: int | None = None
    service: str | None = None
    """`namespace/name` of the Service by which pods find it."""


@dataclass(frozen=True)
class Kubernetes:
    """Section `[kubernetes]`."""

    version: str
    """A minor version such as 1.36, or an exact one."""
    pod_subnet: IPv4Network
    service_subnet: IPv4Network
    bundle: str | None = None
    """The folder with packages and images, as it stands in the file: relative to the file's own folder."""
    endpoint: str = "api.isthmus.internal"
    """The name by which every node knows the API."""
    source: str | None = None
    """Where packages and images come from, in place of a bundle: upstream or aliyun."""


@dataclass(frozen=True)
class Inventory:
    """A whole hosts.toml that was found right. Mappings keep the order of the file."""

    source: str
    mesh: Mesh
    ssh: Ssh
    sites: Mapping[str, Site]
    hosts: Mapping[str, Host]
    resources: Mapping[str, Resource] = field(default_factory=dict)
    kubernetes: Kubernetes | None = None

    @cached_property
    def _hosts_by_site(self) -> Mapping[str, tuple[Host, ...]]:
        by_site: dict[str, list[Host]] = {name: [] for name in self.sites}
        for host in self.hosts.values():
            by_site[host.site].append(host)
        return {name: tuple(hosts) for name, hosts in by_site.items()}

    @cached_property
    def _gateways(self) -> frozenset[str]:
        return frozenset(name for site in self.sites.values() for name in site.gateways)

    def members(self, site: str) -> tuple[Host, ...]:
        """Return the hosts of a site, gateway included."""
        return self._hosts_by_site[site]

    def gateway_of(self, site: str) -> Host:
        """Return the gateway in charge of a site."""
        return self.hosts[self.sites[site].gateway]

    def is_gateway(self, host: str) -> bool:
        """Return whether the host is a gateway of its site, in charge or standing by."""
        return host in self._gateways

    def in_charge(self, host: str) -> bool:
        """Return whether the host is the gateway in charge of its site."""
        return self.sites[self.hosts[host].site].gateway == host

    def leaves(self, site: str) -> tuple[Host, ...]:
        """Return the hosts of a site that are none of its gateways."""
        return tuple(host for host in self.members(site) if not self.is_gateway(host.name))

    def with_charge(self, gateways: Mapping[str, str]) -> Inventory:
        """Return the inventory with other gateways in charge, {site: gateway}; ValueError for one it does not have."""
        sites = dict(self.sites)
        for name, gateway in gateways.items():
            before = sites[name].gateways
            if gateway not in before:
                raise ValueError(f"{gateway} is no gateway of {name}")
            after = (gateway, *(one for one in before if one != gateway))
            sites[name] = replace(sites[name], gateways=after, order=sites[name].order or before)
        return replace(self, sites=sites)

    def drain(self, gateways: Mapping[str, str]) -> Inventory:
        """Return the inventory with these gateways drained, {site: gateway}: the other of each site is in charge."""
        if not gateways:
            return self
        sites = dict(self.sites)
        for name, drained in gateways.items():
            before = sites[name].gateways
            after = tuple(sorted(before, key=lambda gateway: gateway == drained))
            sites[name] = replace(sites[name], gateways=after, drained=drained, order=sites[name].order or before)
        return replace(self, sites=sites)

    def resources_of(self, site: str) -> tuple[Resource, ...]:
        """Return the resources of a site."""
        return tuple(resource for resource in self.resources.values() if resource.site == site)


def _moved(address: IPv4Address, network: IPv4Network) -> IPv4Address:
    return network.network_address + (int(address) & int(network.hostmask))


# --- what a host gets ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Endpoint:
    """Where a peer's UDP packets go."""

    address: IPv4Address
    port: int
    name: str | None = None
    """A DNS name that the host looks up by itself; `address` then only stands for it."""

    def __str__(self) -> str:
        return f"{self.name or self.address}:{self.port}"


@dataclass(frozen=True)
class Peer:
    """One WireGuard peer. `host` is the inventory's name; its key is joined in when files are rendered."""

    host: str
    allowed_ips: tuple[IPv4Network, ...]
    endpoint: Endpoint | None = None
    persistent_keepalive: int | None = None
    """Seconds; None is WireGuard's `off`."""
    preshared: bool = False
    """There is a preshared key with it, in a file of its own on the host."""


@dataclass(frozen=True)
class Route:
    """One route of the kernel. A compiled one always leads into the mesh interface."""

    destination: IPv4Network
    device: str
    table: int = MAIN_TABLE
    source: IPv4Address | None = None
    """The preferred source (`src`) of the host's own packets; None in the main table: the host's own mesh address.

    A compiled route leaves it None, so that all hosts of a site share one tuple of routes.
    """
    gateway: IPv4Address | None = None
    """The next hop (`via`); None for what is on the link."""
    metric: int = 0


@dataclass(frozen=True)
class Rule:
    """One policy rule: packets that arrived on `iif` look into `table`. Lower priority is asked first."""

    iif: str
    table: int
    priority: int


class Chain(Enum):
    """Our iptables chains: (table, our chain, the built-in chain that jumps to it)."""

    INPUT = ("filter", "ISTHMUS-INPUT", "INPUT")
    FORWARD = ("filter", "ISTHMUS-FORWARD", "FORWARD")
    MANGLE = ("mangle", "ISTHMUS-FORWARD", "FORWARD")
    NAT = ("nat", "ISTHMUS-POSTROUTING", "POSTROUTING")

    @property
    def table(self) -> str:
        """The iptables table."""
        return self.value[0]

    @property
    def chain(self) -> str:
        """Our chain's name."""
        return self.value[1]

    @property
    def parent(self) -> str:
        """The built-in chain whose first rule jumps to ours."""
        return self.value[2]


class Target(Enum):
    """What a firewall rule does with what it matches."""

    ACCEPT = "ACCEPT"
    SNAT = "SNAT"
    CLAMP_MSS = "TCPMSS"


@dataclass(frozen=True)
class FirewallRule:
    """One rule of one of our chains. None matches everything; interfaces may be negated with a leading `!`."""

    chain: Chain
    target: Target
    source: IPv4Network | None = None
    destination: IPv4Network | None = None
    in_interface: str | None = None
    out_interface: str | None = None
    protocol: str | None = None
    destination_port: int | None = None
    established: bool = False
    """Matches only packets of flows that were accepted before (conntrack RELATED,ESTABLISHED)."""
    to_source: IPv4Address | None = None
    """The new source address of SNAT."""


@dataclass(frozen=True)
class Follow:
    """A site with two gateways whose hosts, or whose peers elsewhere, go by what the second says: who is in charge."""

    site: str
    first: str
    second: str
    asked: IPv4Address
    """Where the second is asked."""
    moved: tuple[tuple[str, tuple[IPv4Network, ...]], ...]
    """The AllowedIPs of both, by their names, while the second is in charge."""


@dataclass(frozen=True)
class Decide:
    """What the second gateway of a site measures to decide who of the two is in charge."""

    site: str
    first: str
    second: str
    failback: str
    probing: IPv4Address
    """The source of its probes through the first."""
    through: tuple[tuple[str, IPv4Address], ...]
    """(Site, address) of every gateway of the other sites, reached through the first."""
    direct: tuple[tuple[str, IPv4Address], ...]
    """The same gateways, reached by its own tunnels."""
    inside: tuple[IPv4Address, ...]
    """Leaves of its own site, reached by the private network."""


@dataclass(frozen=True)
class HostConfig:
    """Everything the mesh asks of one host, compiled; sorted, so that equal wishes are equal values."""

    host: str
    site: str
    interface: str
    address: IPv4Address
    listen_port: int
    mtu: int
    peers: tuple[Peer, ...]
    routes: tuple[Route, ...]
    rules: tuple[Rule, ...] = ()
    firewall: tuple[FirewallRule, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    """Sorted (key, value) pairs such as ("net.ipv4.ip_forward", "1")."""
    drained: str | None = None
    """On gateways: the one of the site that is drained."""
    probe_addresses: tuple[IPv4Address, ...] = ()
    """More addresses of the mesh interface, for nothing but probes through gateways."""
    follows: tuple[Follow, ...] = ()
    decides: Decide | None = None

    @property
    def watches(self) -> bool:
        """Whether this host has a watcher."""
        return bool(self.follows) or self.decides is not None

    @property
    def looks_up_names(self) -> bool:
        """Some peer's endpoint is a DNS name."""
        return any(peer.endpoint is not None and peer.endpoint.name for peer in self.peers)
