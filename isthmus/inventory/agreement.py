"""What the values of an inventory must be to each other: inside, apart, known, and only once.

A value that could not be read is missing here, and what depends on it is not checked: one mistake, one problem.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from isthmus.inventory.problems import Path, Problems, did_you_mean, key_text, one_of, toml_text


@dataclass
class Draft:
    """What could be read of an inventory, by key. Hosts and resources are keyed by path: ("hosts", "n1")."""

    sites: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    supernet: IPv4Network | None = None
    subnets: dict[str, IPv4Network] = field(default_factory=dict)
    gateways: dict[str, tuple[str, ...]] = field(default_factory=dict)
    site_of: dict[Path, str] = field(default_factory=dict)
    addresses: dict[Path, IPv4Address] = field(default_factory=dict)
    public: dict[str, IPv4Address | str] = field(default_factory=dict)
    pod_subnet: IPv4Network | None = None
    service_subnet: IPv4Network | None = None


def check_agreement(draft: Draft, problems: Problems) -> None:
    """Note every disagreement between the values of a draft."""
    _check_subnets(draft, problems)
    _check_sites_of_members(draft, problems)
    _check_addresses(draft, problems)
    _check_gateways(draft, problems)
    _check_names(draft, problems)
    _check_only_once({("hosts", host, "public"): address for host, address in draft.public.items()}, problems)
    _check_kubernetes(draft, problems)


def _check_subnets(draft: Draft, problems: Problems) -> None:
    """Subnets lie in the supernet and apart from each other."""
    if draft.supernet is not None:
        for site, subnet in draft.subnets.items():
            if not subnet.subnet_of(draft.supernet):
                path = ("sites", site, "subnet")
                problems.note(path, toml_text(str(subnet)), f"a network inside mesh.supernet {draft.supernet}")
    order = {site: number for number, site in enumerate(draft.sites)}
    # Two networks are nested or apart, so in this order one that overlaps follows the widest that does.
    widest: str | None = None
    for site in sorted(draft.subnets, key=lambda site: (draft.subnets[site], order[site])):
        if widest is not None and draft.subnets[site].overlaps(draft.subnets[widest]):
            other, later = sorted((site, widest), key=order.__getitem__)
            path = ("sites", later, "subnet")
            expected = f"a network apart from {key_text(('sites', other, 'subnet'))} {draft.subnets[other]}"
            problems.note(path, toml_text(str(draft.subnets[later])), expected)
        else:
            widest = site


def _check_sites_of_members(draft: Draft, problems: Problems) -> None:
    """Every host and resource names a site that exists."""
    known = frozenset(draft.sites)
    for path, site in draft.site_of.items():
        if known and site not in known:
            expected = f"the name of a site: {one_of(draft.sites)}{did_you_mean(site, tuple(draft.sites))}"
            problems.note((*path, "site"), toml_text(site), expected)


def _check_addresses(draft: Draft, problems: Problems) -> None:
    """Addresses lie in their site's subnet, are usable there, and belong to one host or resource."""
    bounds = {site: (int(net[0]), int(net[-1]), net) for site, net in draft.subnets.items()}
    for path, address in draft.addresses.items():
        site = draft.site_of.get(path)
        if site is None or site not in bounds:
            continue
        first, last, subnet = bounds[site]
        if not first <= int(address) <= last:
            expected = f"an address inside {subnet}, the subnet of {site}"
        elif int(address) == first:
            expected = f"a host's address ({address} names the network {subnet} itself)"
        elif int(address) == last:
            expected = f"a host's address ({address} is the broadcast address of {subnet})"
        else:
            continue
        problems.note((*path, "address"), toml_text(str(address)), expected)
    _check_only_once({(*path, "address"): address for path, address in draft.addresses.items()}, problems)


def _check_only_once(addresses: Mapping[Path, IPv4Address | str], problems: Problems) -> None:
    owners: dict[IPv4Address | str, Path] = {}
    for path, address in addresses.items():
        owner = owners.setdefault(address, path)
        if owner != path:
            problems.note(path, toml_text(str(address)), f"an address of its own ({key_text(owner)} has this one)")


def _check_gateways(draft: Draft, problems: Problems) -> None:
    """Every site has hosts, its gateways are some of them, and other sites can reach them."""
    members: dict[str, list[str]] = {site: [] for site in draft.sites}
    strays: list[str] = []
    for host in draft.hosts:
        home = draft.site_of.get(("hosts", host))
        (strays if home is None else members.get(home, strays)).append(host)
    for site, hosts in members.items():
        if not hosts and not strays and draft.hosts:
            problems.note(("sites", site), "no host of this site", f"at least one host with site = {toml_text(site)}")
        if not hosts:
            continue
        gateways = draft.gateways.get(site, ())
        for gateway in gateways:
            if gateway in strays:
                continue
            if gateway not in hosts:
                expected = f"a host of {site}: {one_of(hosts)}{did_you_mean(gateway, tuple(hosts))}"
                problems.note(("sites", site, "gateways"), toml_text(gateway), expected)
            elif len(draft.sites) > 1 and gateway not in draft.public:
                path = ("hosts", gateway, "public")
                if not problems.at(path):
                    the = "the" if len(gateways) == 1 else "a"
                    expected = f"a public address: {gateway} is {the} gateway of {site}, and other sites must reach it"
                    problems.note(path, "nothing", expected)


def _check_names(draft: Draft, problems: Problems) -> None:
    """A name means one host or one resource."""
    hosts = frozenset(draft.hosts)
    for name in draft.resources:
        if name in hosts:
            expected = f"a name of its own ({key_text(('hosts', name))} has this one)"
            problems.note(("resources", name), f"the name {toml_text(name)}", expected)


def _check_kubernetes(draft: Draft, problems: Problems) -> None:
    """The cluster's own networks lie apart from the mesh and from each other."""
    taken: Iterable[tuple[str, IPv4Network | None]] = [("mesh.supernet", draft.supernet)]
    for key, network in (("pod_subnet", draft.pod_subnet), ("service_subnet", draft.service_subnet)):
        for other, other_network in taken:
            if network is not None and other_network is not None and network.overlaps(other_network):
                expected = f"a network apart from {other} {other_network}"
                problems.note(("kubernetes", key), toml_text(str(network)), expected)
        taken = [*taken, (f"kubernetes.{key}", network)]
