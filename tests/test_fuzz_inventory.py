"""Whatever the text, the loader returns an inventory whose values agree, or refuses it with clear problems."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import Phase, assume, example, find, given, settings
from hypothesis import strategies as st
from strategies import PRIVATE, inventories, inventory_text

from isthmus.errors import InventoryError
from isthmus.inventory import load_inventory, parse_inventory
from isthmus.model import Inventory

Tables = dict[str, Any]
"""A hosts.toml as tomli returns it; changed in place by the mutations below."""

HOSTS_TOML = (Path(__file__).parent.parent / "hosts.toml").read_text(encoding="utf-8")


def refusal(text: str) -> InventoryError | None:
    """Return why a text is refused, checked to be fit for a person's eyes; None where it is accepted, and agrees."""
    try:
        inventory = parse_inventory(text, "hosts.toml")
    except InventoryError as error:
        assert_readable(error)
        return error
    assert_agrees(inventory)
    return None


def assert_readable(error: InventoryError) -> None:
    """Assert that a refusal has one printable line a problem, with the file, the key, what was found and expected."""
    lines = str(error).split("\n")
    assert len(lines) == len(error.problems) > 0
    for line, problem in zip(lines, error.problems, strict=True):
        assert line == f"hosts.toml: {problem.where}: found {problem.found}, expected {problem.expected}"
        assert line.isprintable()
        assert len(line) < 2000
        assert all((problem.where, problem.found, problem.expected))


def assert_agrees(inventory: Inventory) -> None:
    """Assert what every other module takes for granted, in the plainest way there is."""
    assert any(inventory.mesh.supernet.subnet_of(private) for private in PRIVATE)
    assert 1 <= inventory.mesh.listen_port <= 65535
    assert 1280 <= inventory.mesh.mtu <= 8920
    assert re.fullmatch("[a-z][a-z0-9_-]{0,14}", inventory.mesh.interface)
    names = [*inventory.hosts, *inventory.resources]
    assert len(set(names)) == len(names) > 0
    assert all(re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name) for name in [*names, *inventory.sites])
    members = [*inventory.hosts.values(), *inventory.resources.values()]
    assert len({member.address for member in members}) == len(members)
    for member in members:
        subnet = inventory.sites[member.site].subnet
        assert member.address in subnet
        assert member.address not in (subnet.network_address, subnet.broadcast_address)
    for number, site in enumerate(inventory.sites.values()):
        assert site.subnet.subnet_of(inventory.mesh.supernet)
        assert not any(site.subnet.overlaps(other.subnet) for other in [*inventory.sites.values()][:number])
        assert 1 <= len(set(site.gateways)) == len(site.gateways) <= 2
        assert site.gateways[0] == inventory.gateway_of(site.name).name
        for gateway in site.gateways:
            assert inventory.hosts[gateway].site == site.name
            assert inventory.hosts[gateway].public or len(inventory.sites) == 1
    public = [host.public for host in inventory.hosts.values() if host.public]
    assert len(set(public)) == len(public)


# --- what is right ------------------------------------------------------------------------------------------------


@given(inventory_text())
def test_every_generated_inventory_is_accepted_and_agrees(text: str) -> None:
    assert refusal(text) is None


@given(inventory_text())
def test_the_same_text_gives_the_same_inventory(text: str) -> None:
    assert parse_inventory(text, "a") == parse_inventory(text, "a")


CORNERS: dict[str, Callable[[Inventory], bool]] = {
    "six sites": lambda inventory: len(inventory.sites) == 6,
    "eight members in a site": lambda inventory: any(len(inventory.members(site)) == 8 for site in inventory.sites),
    "one host alone": lambda inventory: len(inventory.hosts) == 1,
    "one host alone beside other sites": lambda inventory: len(inventory.hosts) == len(inventory.sites) > 1,
    "a gateway that is not the first host": lambda inventory: any(
        inventory.members(site)[0] != inventory.gateway_of(site) for site in inventory.sites
    ),
    "a gateway that stands by": lambda inventory: any(len(site.gateways) == 2 for site in inventory.sites.values()),
    "a leaf without a public address": lambda inventory: any(
        host.public is None for site in inventory.sites for host in inventory.leaves(site)
    ),
    "a gateway without a public address": lambda inventory: any(
        inventory.gateway_of(site).public is None for site in inventory.sites
    ),
    "two resources in a site": lambda inventory: any(
        len(inventory.resources_of(site)) == 2 for site in inventory.sites
    ),
    "the smallest subnet": lambda inventory: any(site.subnet.prefixlen == 30 for site in inventory.sites.values()),
    "a subnet that is the supernet": lambda inventory: any(
        site.subnet == inventory.mesh.supernet for site in inventory.sites.values()
    ),
    "a name of 63 characters": lambda inventory: any(len(name) == 63 for name in inventory.hosts),
    "a host called as its site": lambda inventory: any(host.name == host.site for host in inventory.hosts.values()),
    "a Kubernetes cluster": lambda inventory: inventory.kubernetes is not None,
    "another login on one host": lambda inventory: any(host.ssh != inventory.ssh for host in inventory.hosts.values()),
    "a port and an MTU of its own": lambda inventory: (
        inventory.mesh.listen_port != 51820 and inventory.mesh.mtu != 1420
    ),
}


@pytest.mark.parametrize("corner", CORNERS)
def test_the_strategy_reaches_the_corner(corner: str) -> None:
    """What a property is never shown, it does not prove."""
    find(inventories(), CORNERS[corner], settings=settings(max_examples=2000, database=None, phases=[Phase.generate]))


# --- one thing made wrong -----------------------------------------------------------------------------------------

SINGLE_VALUES = [
    # section, key, a value that is wrong there, how TOML writes it, what the refusal must speak of
    ("mesh", "supernet", "0.0.0.0/0", '"0.0.0.0/0"', "a private network"),
    ("mesh", "supernet", "100.64.0.0/10", '"100.64.0.0/10"', "a private network"),
    ("mesh", "supernet", "10.0.0.1/8", '"10.0.0.1/8"', "a network without host bits: 10.0.0.0/8"),
    ("mesh", "supernet", 10, "10", "an IPv4 network"),
    ("mesh", "interface", "eth0", '"eth0"', "an interface name"),
    ("mesh", "interface", "a;reboot", '"a;reboot"', "an interface name"),
    ("mesh", "listen_port", 0, "0", "an integer from 1 to 65535"),
    ("mesh", "listen_port", True, "true", "an integer from 1 to 65535"),
    ("mesh", "mtu", 1500.0, "1500.0", "an integer from 1280 to 8920"),
    ("mesh", "mtu", math.inf, "inf", "an integer from 1280 to 8920"),
    ("mesh", "peers", [], "[]", "one of supernet, interface, listen_port, mtu or preshared_keys"),
    ("ssh", "user", "-o", '"-o"', "a login name"),
    ("ssh", "port", "22", '"22"', "an integer from 1 to 65535"),
    ("ssh", "key", "id", '"id"', "one of user or port"),
    ("sites", "subnet", "10.0.0.0/31", '"10.0.0.0/31"', "a prefix length from /8 to /30"),
    ("sites", "subnet", "127.0.0.0/24", '"127.0.0.0/24"', "a private network"),
    ("sites", "gateways", [], "[]", "the names of one or two hosts"),
    ("sites", "gateways", ["Nobody"], '"Nobody"', "a host of "),
    ("sites", "gateways", ["a", "b", "c"], '["a", "b", "c"]', "the names of one or two hosts"),
    ("sites", "provider", "two words", '"two words"', "a cloud's name"),
    ("sites", "subnets", "10.0.0.0/24", '"10.0.0.0/24"', "did you mean subnet?"),
    ("hosts", "site", "Atlantis", '"Atlantis"', "the name of a site"),
    ("hosts", "address", "172.16.0.300", '"172.16.0.300"', "an IPv4 address such as 172.16.0.1"),
    ("hosts", "address", "224.0.0.1", '"224.0.0.1"', "a private address"),
    ("hosts", "address", "010.0.0.1", '"010.0.0.1"', "an IPv4 address"),
    ("hosts", "public", "192.168.0.1", '"192.168.0.1"', "an address that the internet can reach"),
    ("hosts", "public", {}, "{}", "an IPv4 address"),
    ("hosts", "roles", ["king"], '"king"', "a role: control-plane or worker"),
    ("hosts", "taints", ["a=b:Never"], '"a=b:Never"', "a taint"),
    ("hosts", "labels", ["a b=c"], '"a b=c"', "a label"),
    ("hosts", "ssh", "root", '"root"', "a section"),
    ("hosts", "adress", "10.0.0.1", '"10.0.0.1"', "did you mean address?"),
    ("resources", "address", "10.0.0", '"10.0.0"', "an IPv4 address"),
    ("resources", "port", 65536, "65536", "an integer from 1 to 65535"),
    ("resources", "service", "mysql", '"mysql"', "a Service as namespace/name"),
    ("kubernetes", "version", 1.36, "1.36", "a Kubernetes version in quotes"),
    ("kubernetes", "pod_subnet", "8.8.0.0/16", '"8.8.0.0/16"', "a private network"),
    ("kubernetes", "service_subnet", "10.96.0.0/8", '"10.96.0.0/8"', "a network without host bits"),
]


@pytest.mark.parametrize(("section", "key", "wrong", "written", "expected"), SINGLE_VALUES)
@settings(max_examples=8)
@given(text=inventory_text(), place=st.integers(0, 99))
def test_a_wrong_value_is_named_with_its_key_and_what_was_expected(
    section: str, key: str, wrong: object, written: str, expected: str, text: str, place: int
) -> None:
    tables = tomli.loads(text)
    named = section in {"sites", "hosts", "resources"}
    if section in {"resources", "kubernetes"}:
        assume(section in tables)
    path = [section, nth(tables[section], place)] if named else [section]
    table = tables.setdefault(section, {})
    (table[path[1]] if named else table)[key] = wrong
    assert_refused(tables, ".".join([*path, key]), written, expected)


Mutation = Callable[[Tables, int], tuple[str, str, str]]


def required_key_removed(tables: Tables, place: int) -> tuple[str, str, str]:
    section, key = [("mesh", "supernet"), ("hosts", "site"), ("hosts", "address"), ("sites", "subnet")][place % 4]
    name = nth(tables[section], place)
    if section == "mesh":
        del tables["mesh"]["supernet"]
        return "mesh.supernet", "nothing", "a line such as supernet = "
    del tables[section][name][key]
    return f"{section}.{name}.{key}", "nothing", f"a line such as {key} = "


def section_removed(tables: Tables, place: int) -> tuple[str, str, str]:
    section = ["mesh", "sites", "hosts"][place % 3]
    del tables[section]
    return section, "nothing", "a section"


def address_of_another_host(tables: Tables, place: int) -> tuple[str, str, str]:
    hosts = tables["hosts"]
    first, second = sorted({nth(hosts, place), nth(hosts, place // 10)}, key=list(hosts).index)[:2]
    hosts[second]["address"] = address = hosts[first]["address"]
    return f"hosts.{second}.address", f'"{address}"', f"an address of its own (hosts.{first}.address has this one)"


def public_address_of_another_host(tables: Tables, place: int) -> tuple[str, str, str]:
    hosts = {name: host for name, host in tables["hosts"].items() if "public" in host}
    first, second = sorted({nth(hosts, place), nth(hosts, place // 10)}, key=list(hosts).index)[:2]
    hosts[second]["public"] = address = hosts[first]["public"]
    return f"hosts.{second}.public", f'"{address}"', f"an address of its own (hosts.{first}.public has this one)"


def subnet_of_another_site(tables: Tables, place: int) -> tuple[str, str, str]:
    sites = tables["sites"]
    first, second = sorted({nth(sites, place), nth(sites, place // 10)}, key=list(sites).index)[:2]
    sites[second]["subnet"] = subnet = sites[first]["subnet"]
    return f"sites.{second}.subnet", f'"{subnet}"', f"a network apart from sites.{first}.subnet {subnet}"


def gateway_of_another_site(tables: Tables, place: int) -> tuple[str, str, str]:
    sites = tables["sites"]
    first, second = sorted({nth(sites, place), nth(sites, place // 10)})[:2]
    sites[second]["gateways"] = sites[first]["gateways"][:1]
    return f"sites.{second}.gateways", f'"{sites[first]["gateways"][0]}"', f"a host of {second}: "


def gateway_without_public_address(tables: Tables, place: int) -> tuple[str, str, str]:
    assume(len(tables["sites"]) > 1)
    gateway = tables["sites"][nth(tables["sites"], place)]["gateways"][0]
    del tables["hosts"][gateway]["public"]
    return f"hosts.{gateway}.public", "nothing", f"a public address: {gateway} is "


def site_without_hosts(tables: Tables, place: int) -> tuple[str, str, str]:
    site = nth(tables["sites"], place)
    for section in ("hosts", "resources"):
        for name in [name for name, member in tables.get(section, {}).items() if member["site"] == site]:
            del tables[section][name]
    assume(tables["hosts"])
    return f"sites.{site}", "no host of this site", f'at least one host with site = "{site}"'


def address_of_the_network(tables: Tables, place: int) -> tuple[str, str, str]:
    host = nth(tables["hosts"], place)
    subnet = IPv4Network(tables["sites"][tables["hosts"][host]["site"]]["subnet"])
    tables["hosts"][host]["address"] = address = str(subnet[-1] if place % 2 else subnet[0])
    return f"hosts.{host}.address", f'"{address}"', f"a host's address ({address} "


def address_just_outside(tables: Tables, place: int) -> tuple[str, str, str]:
    host = nth(tables["hosts"], place)
    subnet = IPv4Network(tables["sites"][tables["hosts"][host]["site"]]["subnet"])
    address = subnet[-1] + 1 if place % 2 else subnet[0] - 1
    assume(any(address in private for private in PRIVATE))
    tables["hosts"][host]["address"] = str(address)
    return f"hosts.{host}.address", f'"{address}"', f"an address inside {subnet}, the subnet of "


def name_with_syntax(tables: Tables, place: int) -> tuple[str, str, str]:
    section = ["sites", "hosts"][place % 2]
    old = nth(tables[section], place)
    new = old[:5] + ["/", ";", "$(id)", " ", "\n", "A", "_", ".", "*", "é", "\u202e", "\0", "-"][place % 13]
    tables[section] = {new if name == old else name: table for name, table in tables[section].items()}
    bare = new.replace("_", "").replace("-", "").isalnum() and new.isascii()
    shown = new.replace("\n", "\\n").replace("\u202e", "\\u202E").replace("\0", "\\u0000")
    return (
        f"{section}.{shown}" if bare else f'{section}."{shown}"',
        f'the name "{shown}"',
        "a name of lower-case letters",
    )


def resource_called_as_a_host(tables: Tables, place: int) -> tuple[str, str, str]:
    host = nth(tables["hosts"], place)
    resource = nth(tables.get("resources", {}), place)
    tables["resources"][host] = tables["resources"].pop(resource)
    return f"resources.{host}", f'the name "{host}"', f"a name of its own (hosts.{host} has this one)"


def pods_inside_the_mesh(tables: Tables, place: int) -> tuple[str, str, str]:
    key = ["pod_subnet", "service_subnet"][place % 2]
    network = IPv4Network(tables["mesh"]["supernet"])
    network = network if network.prefixlen >= 12 else IPv4Network((network[0], 12))
    assume("kubernetes" in tables)
    tables["kubernetes"][key] = str(network)
    return f"kubernetes.{key}", f'"{network}"', f"a network apart from mesh.supernet {tables['mesh']['supernet']}"


MUTATIONS: list[Mutation] = [
    required_key_removed,
    section_removed,
    address_of_another_host,
    public_address_of_another_host,
    subnet_of_another_site,
    gateway_of_another_site,
    gateway_without_public_address,
    site_without_hosts,
    address_of_the_network,
    address_just_outside,
    name_with_syntax,
    resource_called_as_a_host,
    pods_inside_the_mesh,
]


def nth(names: Mapping[Any, object], place: int) -> Any:
    """Return one of the names; the text does not count where there is none."""
    assume(names)
    return list(names)[place % len(names)]


def assert_refused(tables: Tables, where: str, found: str, expected: str) -> None:
    """Assert that a problem stands at the key, with the value as found and these words among the expected ones."""
    error = refusal(toml(tables))
    assert error is not None
    at_key = [problem for problem in error.problems if problem.where == where]
    assert [problem for problem in at_key if found in problem.found and expected in problem.expected], str(error)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
@settings(max_examples=15)
@given(text=inventory_text(), place=st.integers(0, 999))
def test_one_thing_made_wrong_is_refused_at_its_key(mutation: Mutation, text: str, place: int) -> None:
    tables = tomli.loads(text)
    try:
        where, found, expected = mutation(tables, place)
    except ValueError:  # the two to confuse are one and the same
        assume(False)
    assert_refused(tables, where, found, expected)


# --- anything at all ----------------------------------------------------------------------------------------------
# `refusal` lets nothing but InventoryError pass, reads the refusal as a person would and checks what is accepted.

VOCABULARY = [
    *("mesh", "supernet", "interface", "listen_port", "mtu", "ssh", "user", "port", "sites", "subnet", "gateways"),
    *("provider", "hosts", "site", "address", "public", "roles", "taints", "labels", "resources", "kubernetes"),
    *(
        "version",
        "pod_subnet",
        "service_subnet",
        "bundle",
        "source",
        "endpoint",
        "service",
        "a",
        "n1",
        "N1",
        "",
        "\x1b[2J",
        "\u202e",
        "\n",
    ),
]
LIKELY = [
    *("172.16.0.0/12", "172.16.0.0/24", "172.16.0.1", "203.0.113.1", "0.0.0.0/0", "255.255.255.255/32", "a", "n1"),
    *("wg0", "root", "worker", "a=b:NoSchedule", "a=b", "1.36", "1.2.3.4/33", "99999999999.0.0.0", "::1", "١.1.1.1"),
]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
scalars = (
    st.sampled_from(LIKELY)
    | texts
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.dates()
    | st.times()
    | st.datetimes()
)
keys = st.sampled_from(VOCABULARY) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


def toml(value: object, top: bool = True) -> str:
    """Write a value in TOML: the outermost table line by line, everything in it inline."""
    if isinstance(value, dict):
        items = [f"{toml(key)} = {toml(item, top=False)}" for key, item in value.items()]
        return "\n".join(items) if top else "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item, top=False) for item in value) + "]"
    if isinstance(value, str):
        return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08X}" for c in value) + '"'
    if isinstance(value, (bool, int)):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else value.isoformat()  # type: ignore[attr-defined]


@given(values)
def test_the_writer_of_these_tests_writes_toml(value: object) -> None:
    """Else the tests around it would only ever prove that broken TOML is refused."""
    assert toml(tomli.loads(toml({"key": value}))["key"]) == toml(value)


@given(st.text(max_size=400))
@example("")
@example("\ufeff")
@example("[" * 100_000)
@example("a" + ".a" * 5_000 + " = 1")
@example("[hosts" + ".a" * 900 + "]")
@example("hosts = " + "{a = [" * 150 + "]}" * 150)
@example("a = 1e999999999")
@example("a = 9999-99-99T99:99:99")
@example("port = 0x" + "f" * 100_000)
def test_any_text_is_refused_and_nothing_else_raised(text: str) -> None:
    assert refusal(text) is not None


@given(
    st.lists(st.sampled_from([*VOCABULARY, *LIKELY, *"[]{}=.,\"'#\n\r\t \\", '"""', "[[", "\n[", " = "]), max_size=60)
)
def test_any_words_of_the_vocabulary_are_refused_and_nothing_else_raised(words: list[str]) -> None:
    assert refusal("".join(words)) is not None


@given(st.dictionaries(keys, values, max_size=6))
def test_any_tables_are_refused_and_nothing_else_raised(tables: Tables) -> None:
    assert refusal(toml(tables)) is not None


@given(st.integers(0, len(HOSTS_TOML)), st.integers(0, 40), st.sampled_from(LIKELY + VOCABULARY) | st.text(max_size=9))
def test_a_damaged_file_is_read_or_refused_and_nothing_else_raised(start: int, length: int, text: str) -> None:
    refusal(HOSTS_TOML[:start] + text + HOSTS_TOML[start + length :])


@given(inventory_text(), st.lists(st.tuples(keys, values, st.integers(0, 999)), min_size=1, max_size=4))
def test_a_right_file_with_any_value_anywhere_is_read_or_refused_and_nothing_else_raised(
    text: str, changes: list[tuple[str, object, int]]
) -> None:
    tables = tomli.loads(text)
    for key, value, place in changes:
        table = tables
        for depth in range(3):
            inner = [item for item in table.values() if isinstance(item, dict)]
            if not inner or place % 4 == depth:
                break
            table = inner[place % len(inner)]
        table[key if place % 2 or not table else list(table)[place % len(table)]] = copy.deepcopy(value)
    refusal(toml(tables))


@given(st.binary(max_size=200))
@settings(max_examples=50)
def test_any_bytes_are_refused_and_nothing_else_raised(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    with pytest.raises(InventoryError):
        load_inventory(path)


@given(st.text(max_size=30))
@settings(max_examples=50)
def test_any_path_is_refused_and_nothing_else_raised(path: str) -> None:
    with suppress(InventoryError):
        load_inventory(f"/nowhere/{path}")
        pytest.fail("there is nothing there")
