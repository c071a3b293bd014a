"""What a lab is made of, before anything is made: names, addresses, rules, apt sources, options."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from isthmus.errors import LabError, UsageError
from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions, LabOptions, parse_options, stale
from isthmus.lab.layout import Layout, Names, interface, mac_address
from isthmus.lab.machine import locked
from isthmus.lab.rules import internet_rules, router_rules
from isthmus.lab.sources import debian_sources
from isthmus.model import Host, Inventory, Resource, Site, Ssh


@pytest.fixture(scope="module")
def article() -> Inventory:
    return load_inventory(Path(__file__).parents[1] / "hosts.toml")


def layout(inventory: Inventory, options: LabOptions | None = None) -> Layout:
    return Layout(inventory, Names("lab"), options or LabOptions())


def with_host(inventory: Inventory, host: Host) -> Inventory:
    return replace(inventory, hosts={**inventory.hosts, host.name: host})


# --- layout -------------------------------------------------------------------------------------------------------


def test_the_router_takes_the_highest_address_that_is_free(article: Inventory) -> None:
    taken = with_host(article, Host("n9", "nanjing", IPv4Address("172.16.0.254")))
    resources = {"db": Resource("db", "nanjing", IPv4Address("172.16.0.253"))}
    assert layout(article).router_address("nanjing") == IPv4Address("172.16.0.254")
    assert layout(taken).router_address("nanjing") == IPv4Address("172.16.0.253")
    assert layout(replace(taken, resources=resources)).router_address("nanjing") == IPv4Address("172.16.0.252")


def test_a_full_subnet_gets_a_gateway_outside_it(article: Inventory) -> None:
    sites = {"tiny": Site("tiny", IPv4Network("10.0.0.0/31"), ("a",))}
    hosts = {"a": Host("a", "tiny", IPv4Address("10.0.0.0")), "b": Host("b", "tiny", IPv4Address("10.0.0.1"))}
    tiny = layout(replace(article, sites=sites, hosts=hosts, resources={}))
    assert tiny.router_address("tiny") == IPv4Address("169.254.0.2")
    assert "route add default via 169.254.0.2 dev eth0 metric 0 onlink" in tiny.host_port("a").wiring()[-1]


def test_the_admin_takes_a_public_address_nobody_has(article: Inventory) -> None:
    assert layout(article).admin_address == IPv4Address("198.51.100.1")
    taken = with_host(article, replace(article.hosts["n1"], public=IPv4Address("198.51.100.1")))
    assert layout(taken).admin_address == IPv4Address("198.51.100.2")


def test_a_nic_is_wired_as_its_options_say(article: Inventory) -> None:
    options = LabOptions(hosts={"n2": HostOptions(nic="ens5", metric=100, mtu=8500)})
    *_, port, bridge, _, address, _, route = layout(article, options).host_port("n2").wiring()
    mac = mac_address("lab", "p", "n2")
    assert port == (
        "ip -n isthmus.lab.router.nanjing link add p-n2 mtu 8500 type veth"
        f" peer name ens5 address {mac} mtu 8500 netns isthmus.lab.host.n2"
    )
    assert bridge == "ip -n isthmus.lab.router.nanjing link set p-n2 master br0 up"
    assert address == "ip -n isthmus.lab.host.n2 address add 172.16.0.2/24 dev ens5 metric 100"
    assert route == "ip -n isthmus.lab.host.n2 route add default via 172.16.0.254 dev ens5 metric 100"
    # its neighbour's NIC is as before, its neighbour's port as wide as the bridge
    assert "mtu 8500 type veth peer name eth0" in layout(article, options).host_port("n3").wiring()[3]
    assert layout(article, options).host_port("n3").mtu == 1500


def test_mac_addresses_are_unicast_local_and_differ_between_labs_and_hosts() -> None:
    made = {mac_address(lab, "p", host) for lab in ("a", "b") for host in ("n1", "n2")}
    assert len(made) == 4
    assert all(address.startswith("02:") and len(address) == 17 for address in made)


def test_interface_names_fit_the_kernel_and_stay_apart() -> None:
    assert interface("p", "n1") == "p-n1"
    assert interface("p", "thirteenchars") == "p-thirteenchars"
    assert len(interface("p", "fourteen-chars")) == 15
    long = [interface("p", f"a-very-long-name-{number}") for number in (1, 2)]
    assert all(len(name) == 15 for name in long)
    assert long[0] != long[1]


@pytest.mark.parametrize("name", ["", "-a", "a b", "A", "../x", "a" * 25, "a.b"])
def test_a_labs_name_is_a_short_word(name: str) -> None:
    with pytest.raises(UsageError, match="name of the lab: found"):
        Names(name)


# --- rules --------------------------------------------------------------------------------------------------------


def test_a_router_lets_in_ssh_and_the_mesh_and_what_is_opened(article: Inventory) -> None:
    hosts = {**article.hosts, "n2": replace(article.hosts["n2"], ssh=Ssh("root", 2222))}
    options = LabOptions(hosts={"n1": HostOptions(open_ports=("6443/tcp",))})
    rules = router_rules(layout(replace(article, hosts=hosts), options), "nanjing")
    admitted = [line.strip() for line in rules.splitlines() if "dport" in line]
    assert admitted == [
        "ip daddr 172.16.0.1 tcp dport 22 accept",
        "ip daddr 172.16.0.1 udp dport 51820 accept",
        "ip daddr 172.16.0.1 tcp dport 6443 accept",
        "ip daddr 172.16.0.2 tcp dport 2222 accept",
        "ip daddr 172.16.0.2 udp dport 51820 accept",
    ]


def test_a_router_translates_public_addresses_one_to_one(article: Inventory) -> None:
    rules = router_rules(layout(article), "nanjing")
    assert "dnat to ip daddr map { 203.0.113.1 : 172.16.0.1, 203.0.113.2 : 172.16.0.2 }" in rules
    assert "snat to ip saddr map { 172.16.0.1 : 203.0.113.1, 172.16.0.2 : 203.0.113.2 }" in rules
    assert "ip saddr { 172.16.0.1, 172.16.0.2 } accept" in rules


def test_a_site_without_public_addresses_has_no_translation(article: Inventory) -> None:
    hosts = {name: replace(host, public=None) for name, host in article.hosts.items()}
    rules = router_rules(layout(replace(article, hosts=hosts)), "nanjing")
    assert "nat to" not in rules
    assert "{  }" not in rules


def test_a_port_passes_only_its_own_source_unless_the_cloud_is_lenient(article: Inventory) -> None:
    options = LabOptions(hosts={"n2": HostOptions(anti_spoofing=False)})
    rules = router_rules(layout(article, options), "nanjing")
    guards = [line.strip() for line in rules.splitlines() if "counter name spoofed drop" in line]
    assert guards == [
        'iifname "p-n1" ip saddr != 172.16.0.1 counter name spoofed drop',
        'iifname "p-n1" arp saddr ip != 172.16.0.1 counter name spoofed drop',
        'iifname "p-n3" ip saddr != 172.16.0.3 counter name spoofed drop',
        'iifname "p-n3" arp saddr ip != 172.16.0.3 counter name spoofed drop',
    ]
    assert 'iifname "r-mysql" ip saddr != 172.16.128.50' in router_rules(layout(article), "shanghai")


def test_networks_of_the_inventory_are_private_too(article: Inventory) -> None:
    mesh = replace(article.mesh, supernet=IPv4Network("198.18.0.0/15"))
    assert "198.18.0.0/15" in internet_rules(layout(replace(article, mesh=mesh)))
    assert "elements = { 10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16 }" in internet_rules(layout(article))


# --- apt sources --------------------------------------------------------------------------------------------------

DEB822 = """# a comment
Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://old.example/debian
Suites: bookworm
Components: main
Enabled: no
"""
ONE_LINE = """
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] https://a.example/debian bookworm main # yes
deb-src http://a.example/debian bookworm main
deb http://a.example/security bookworm-security main non-free-firmware
deb [signed-by=/etc/apt/keyrings/docker.gpg] https://docker.example/linux/debian bookworm main
deb https://tools.example/apt cloud-sdk-bookworm main
deb http://a.example/debian bookworm contrib
"""


def test_sources_of_another_suite_come_from_the_machines_own_mirror() -> None:
    found = debian_sources({"debian.sources": DEB822}, "bookworm", "trixie")
    keyring = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
    assert [str(source) for source in found] == [
        f"deb {keyring}http://mirror.example/debian trixie main",
        f"deb {keyring}http://mirror.example/debian trixie-updates main",
        "deb http://mirror.example/debian-security trixie-security main",
    ]


def test_only_debians_own_archive_is_taken_from_one_line_sources() -> None:
    found = debian_sources({"sources.list": ONE_LINE}, "bookworm", "bookworm")
    assert [str(source) for source in found] == [
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] https://a.example/debian bookworm main",
        "deb http://a.example/security bookworm-security main",
    ]


def test_a_machine_without_debians_archive_is_refused() -> None:
    with pytest.raises(LabError, match="none of the machine's apt sources is Debian's archive of bookworm"):
        debian_sources({"x.list": "deb https://tools.example/apt cloud-sdk-bookworm main"}, "bookworm", "trixie")


# --- options ------------------------------------------------------------------------------------------------------


def test_the_narrowest_option_holds(article: Inventory) -> None:
    words = "suite=trixie, nanjing:metric=100, n2:nic=ens5,n2:docker=yes, s1:open_ports=6443/tcp+80/tcp"
    options = parse_options(words, article)
    assert options.of(article.hosts["n1"]) == HostOptions(suite="trixie", metric=100)
    assert options.of(article.hosts["n2"]) == HostOptions(suite="trixie", metric=100, nic="ens5", docker=True)
    assert options.of(article.hosts["s1"]) == HostOptions(suite="trixie", open_ports=("6443/tcp", "80/tcp"))


def test_no_words_are_the_default_options(article: Inventory) -> None:
    assert parse_options("", article) == LabOptions()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("suite", "found 'suite', expected KEY=VALUE"),
        ("x9:nic=ens5", "found 'x9:nic=ens5', expected KEY=VALUE, HOST:KEY=VALUE or SITE:KEY=VALUE"),
        ("colour=green", "found 'colour', expected one of suite, nic, "),
        ("docker=perhaps", "docker: found 'perhaps', expected yes or no"),
        ("metric=low", "metric: found 'low', expected a number"),
        ("metric=²", "metric: found '²', expected a number"),
        ("metric=4294967296", "metric: found 4294967296, expected 0 to 4294967295"),
        ("mtu=0", "mtu: found 0, expected 576 to 65535"),
        ("nic=lo", "nic: found 'lo', expected up to 15 letters and digits"),
        ("nic=网", "nic: found '网', expected up to 15 letters and digits"),
        ("open_ports=65536/tcp", "open_ports: found '65536/tcp', expected something like 6443/tcp"),
        ("suite=sid", "suite: found 'sid', expected one of bullseye, bookworm, trixie"),
        ("rp_filter=3", "rp_filter: found 3, expected 0, 1 or 2"),
        ("nic=eth0;reboot", "nic: found 'eth0;reboot', expected up to 15 letters and digits"),
        ("open_ports=http", "open_ports: found 'http', expected something like 6443/tcp"),
    ],
)
def test_a_wrong_option_is_refused_with_the_word_that_is_wrong(article: Inventory, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(text, article)
    assert said in str(caught.value)


def test_options_for_a_host_that_is_not_there_are_refused(article: Inventory) -> None:
    with pytest.raises(LabError, match="found host 'n7', expected one of n1, n2, n3, s1"):
        layout(article, LabOptions(hosts={"n7": HostOptions()}))


# --- locks --------------------------------------------------------------------------------------------------------


def test_whoever_waits_for_a_lock_gets_it_though_its_holder_removed_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lab.lock"
    waits, has = threading.Event(), threading.Event()

    def wait() -> None:
        waits.set()
        with locked(path):
            assert path.exists()
            has.set()

    waiter = threading.Thread(target=wait)
    with locked(path):
        waiter.start()
        waits.wait()
        assert not has.wait(0.2)
        path.unlink()
    waiter.join(10)
    assert has.is_set()


def test_an_error_inside_a_lock_comes_out_of_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "lab.lock"):
        (tmp_path / "nowhere").read_text()
    with locked(tmp_path / "lab.lock"):
        pass


# --- images ---------------------------------------------------------------------------------------------------------


def test_images_that_no_lab_has_used_for_long_are_removed_and_those_of_a_running_lab_stay(tmp_path: Path) -> None:
    cache, runs = tmp_path / "cache", tmp_path / "run"
    long_ago = time.time() - (stale.KEPT_DAYS + 1) * 86400
    for name in ("bookworm-1", "bookworm-2", "bookworm-2+iptables", "trixie-3", "trixie-4"):
        (cache / name / "etc").mkdir(parents=True)
        (cache / f"{name}.log").touch()
        stale.lock_of(cache / name).touch()
        os.utime(stale.lock_of(cache / name), (long_ago, long_ago))
    (cache / ".trixie-5.partial").mkdir()
    stale.note_use(cache / "trixie-4")
    settings = runs / "lab" / "hosts" / "n1" / "settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"HOST=n1\nLOWER={cache}/bookworm-2+iptables:{cache}/bookworm-2\nDISK=/x\n")
    assert stale.prune(cache, runs) == ("bookworm-1", "trixie-3")
    assert sorted(path.name for path in cache.iterdir() if path.is_dir()) == [
        ".trixie-5.partial",
        "bookworm-2",
        "bookworm-2+iptables",
        "trixie-4",
    ]
    assert not {"bookworm-1.log", ".bookworm-1.lock"} & {path.name for path in cache.iterdir()}
    assert stale.prune(cache, runs) == ()
