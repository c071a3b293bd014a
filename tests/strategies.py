"""Inventories for property tests: any legal hosts.toml, as text and as read by the loader.

A new key of hosts.toml must be added here, or no property ever sees it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from isthmus.inventory import parse_inventory
from isthmus.model import Inventory

# A property is about values: how busy the machine is must not decide whether it holds.
settings.register_profile("isthmus", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("isthmus")

PRIVATE = [IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16")]

ODD_NAMES = [
    "a",
    "n1",
    "0a",
    "1-1",
    "x" * 63,
    "xn--fiqs8s",
    "true",
    "inf",
    "mesh",
    "hosts",
    "site",
    "a--b",
    "9z",
    "nan",
]
NAMES = ODD_NAMES + [f"{stem}{number}" for stem in ("n", "db-", "0x", "eth", "h" * 50) for number in range(20)]
NAMES = [name for name in dict.fromkeys(NAMES) if not (name.startswith("0x") and name[2:].isdigit())]

PUBLIC = [
    str(IPv4Address(start) + number)
    for number in range(20)
    for start in ("203.0.113.1", "198.51.100.200", "192.0.2.0", "8.8.8.8", "1.0.0.0", "100.63.255.230", "223.255.255.0")
]

HOST_EXTRAS = [
    "",
    'roles = ["control-plane"]\n',
    'roles = ["control-plane", "worker"]\nlabels = ["disk=ssd", "example.org/rack="]\n',
    'taints = ["zone=east:PreferNoSchedule", "zone:NoExecute"]\n',
    'ssh = { user = "debian" }\n',
    "ssh.port = 2222\n",
    "roles = []\ntaints = []\nlabels = []\nssh = {}\n",
]

CLUSTER_NETWORKS = [
    ("10.244.0.0/16", "10.96.0.0/12"),
    ("172.20.0.0/16", "172.24.0.0/16"),
    ("192.168.0.0/17", "192.168.128.0/28"),
    ("10.0.0.0/9", "10.128.0.0/12"),
]

_places = st.integers(0, 2**24)
_host_extras = st.sampled_from([(is_public, extras) for extras in HOST_EXTRAS for is_public in (False, True)])
_optional_port = st.none() | st.integers(1, 65535)
_optional_mtu = st.none() | st.sampled_from([1280, 1420, 8920]) | st.integers(1280, 8920)
_optional_interface = st.sampled_from([None, "wg0", "a", "mesh-0", "isthmus_mesh-15"])
_optional_user = st.sampled_from([None, "root", "debian", "first.last", "_x"])


def inventories(max_sites: int = 6, max_hosts: int = 8) -> st.SearchStrategy[Inventory]:
    """Return legal inventories of at most so many sites, and hosts a site, read from generated text."""
    return inventory_text(max_sites, max_hosts).map(lambda text: parse_inventory(text, "hosts.toml"))


@st.composite
def inventory_text(draw: st.DrawFn, max_sites: int = 6, max_hosts: int = 8) -> str:
    """Return the text of a legal hosts.toml.

    Any private supernet, apart subnets of any size in it, any host the gateway, hosts without a public address,
    resources, odd names, every optional key given or not.
    """
    count = draw(st.integers(1, max_sites))
    supernet, subnets = draw(_networks(count))
    sections = [_mesh(draw, supernet)]
    if draw(st.booleans()):
        sections.append("[ssh]\n" + _line("user", draw(_optional_user)) + _line("port", draw(_optional_port)))
    first = draw(st.integers(0, len(NAMES) - 1))
    names = iter(NAMES[first:] + NAMES[:first])
    site_names = draw(st.lists(st.sampled_from(NAMES), min_size=count, max_size=count, unique=True))
    public = iter(PUBLIC[draw(st.integers(0, 60)) :])
    for site, subnet in zip(site_names, subnets, strict=True):
        sections += draw(_site(site, subnet, names, public, max_hosts, others=count > 1))
    free = [pair for pair in CLUSTER_NETWORKS if not any(supernet.overlaps(IPv4Network(text)) for text in pair)]
    if free and draw(st.booleans()):
        pods, services = draw(st.sampled_from(free))
        version = draw(st.sampled_from(["1.36", "1.0", "1.30.12"]))
        sections.append("[kubernetes]\n" + _line("version", version) + _line("pod_subnet", pods))
        sections[-1] += _line("service_subnet", services)
    if draw(st.booleans()):
        sections.reverse()
    return "\n".join(sections)


@st.composite
def _networks(draw: st.DrawFn, count: int) -> tuple[IPv4Network, list[IPv4Network]]:
    """Return a supernet and so many subnets of it, apart from each other."""
    block = draw(st.sampled_from(PRIVATE))
    supernet = _part(block, draw(st.integers(block.prefixlen, 21)), draw(_places))
    bits = draw(st.integers(0 if count == 1 else 3, 8))
    slots = draw(st.lists(st.integers(0, 2**bits - 1), min_size=count, max_size=count, unique=True))
    subnets = []
    for slot in slots:
        whole = _part(supernet, supernet.prefixlen + bits, slot)
        subnets.append(_part(whole, draw(st.integers(whole.prefixlen, 30)), draw(_places)))
    return supernet, subnets


def _part(network: IPv4Network, prefix: int, place: int) -> IPv4Network:
    """Return the network of that prefix length at a place inside another; places wrap around."""
    size = 2 ** (32 - prefix)
    return IPv4Network((int(network[0]) + place % (network.num_addresses // size) * size, prefix))


def _mesh(draw: st.DrawFn, supernet: IPv4Network) -> str:
    return (
        "[mesh]\n"
        + _line("supernet", str(supernet))
        + _line("interface", draw(_optional_interface))
        + _line("listen_port", draw(_optional_port))
        + _line("mtu", draw(_optional_mtu))
    )


@st.composite
def _site(draw, site, subnet, names, public, max_hosts, *, others):  # type: ignore[no-untyped-def]
    """Return the sections of one site, its hosts and its resources."""
    room = subnet.num_addresses - 2
    offsets = draw(st.lists(st.integers(1, room), min_size=1, max_size=min(max_hosts, room), unique=True))
    resources = min(draw(st.integers(0, 2)), len(offsets) - 1)
    hosts = len(offsets) - resources
    gateway = draw(st.integers(0, hosts - 1))
    # Standing by: another host of the site, or none.
    standby = draw(st.sampled_from([None, *(number for number in range(hosts) if number != gateway)]))
    gateways = {}
    members = []
    for number in range(hosts):
        name = next(names)
        text = f"[hosts.{name}]\n" + _line("site", site) + _line("address", str(subnet[offsets[number]]))
        if number in (gateway, standby):
            gateways[number] = f'"{name}"'
        is_public, extras = draw(_host_extras)
        if is_public or (number in gateways and others):
            text += _line("public", next(public))
        members.append(text + extras)
    for number in range(hosts, len(offsets)):
        text = f"[resources.{next(names)}]\n" + _line("site", site) + _line("address", str(subnet[offsets[number]]))
        members.append(text + _line("port", draw(_optional_port)))
    in_order = ", ".join(gateways[number] for number in (gateway, standby) if number is not None)
    text = f"[sites.{site}]\n" + _line("subnet", str(subnet)) + f"gateways = [{in_order}]\n"
    text += _line("failback", draw(st.sampled_from([None, "auto", "manual"])))
    return [text + _line("provider", draw(st.sampled_from([None, "tencent", "aliyun"]))), *members]


def _line(key: str, value: str | int | None) -> str:
    """Return `key = value` in TOML; nothing for None."""
    if value is None:
        return ""
    return f'{key} = "{value}"\n' if isinstance(value, str) else f"{key} = {value}\n"
