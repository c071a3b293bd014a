"""files/usr/local/sbin/isthmus for real, on hosts in namespaces of this machine. Needs root."""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
from namespace_host import NamespaceHost

from isthmus.compile import compile_mesh
from isthmus.host_scripts import host_script
from isthmus.inventory import load_inventory, parse_inventory
from isthmus.model import HostConfig
from isthmus.observe import Facts, parse_probe
from isthmus.plan import HostPlan, plan_host
from isthmus.render import File, render_host

ARTICLE = Path(__file__).parent.parent / "hosts.toml"
CONFIGS = compile_mesh(load_inventory(ARTICLE))
BY_N2 = compile_mesh(
    parse_inventory(
        ARTICLE.read_text()
        .replace('gateways = ["n1"]', 'gateways = ["n2"]')
        .replace('"shanghai"\naddress = "172.16.128.50"', '"nanjing"\naddress = "172.16.0.50"'),
        "hosts.toml",
    )
)
"""The same with n2 as Nanjing's gateway, and the resource there."""
PRIVATE = {name: letter * 42 + "A=" for name, letter in {"n1": "a", "n2": "b", "n3": "c", "s1": "d"}.items()}
"""The article's hosts, with private keys that are no secret."""


@cache
def public_key(private_key: str) -> str:
    return subprocess.run(
        ["wg", "pubkey"], input=private_key, capture_output=True, text=True, check=True
    ).stdout.strip()


def public_keys() -> dict[str, str]:
    return {name: public_key(private_key) for name, private_key in PRIVATE.items()}


def files_of(config: HostConfig) -> dict[str, File]:
    return render_host(config, public_keys())


def started(host: NamespaceHost, files: Mapping[str, File], private_key: str) -> NamespaceHost:
    """Put the files on a bare host and start its mesh."""
    host.put(files)
    host.put_key(private_key)
    host.run("isthmus sync wg0")
    return host


@pytest.fixture(scope="module")
def gateway() -> Iterator[NamespaceHost]:
    """The article's n1 with its mesh up; each test leaves it as it was."""
    with NamespaceHost("172.16.0.1/24") as host:
        yield started(host, files_of(CONFIGS["n1"]), PRIVATE["n1"])


@pytest.fixture(scope="module")
def good(gateway: NamespaceHost) -> str:
    """What the gateway looks like when all is right."""
    return gateway.state()


# --- start --------------------------------------------------------------------------------------------------------


def test_sync_starts_the_mesh_and_has_it_started_at_boot(good: str) -> None:
    for line in (
        "172.16.128.0/24 dev wg0 proto 182 scope link src 172.16.0.1 ",
        "172.16.0.2 dev wg0 table 5182 proto 182 scope link ",
        "5182:\tfrom all iif wg0 lookup 5182 proto 182",
        "-A FORWARD -j ISTHMUS-FORWARD",
        "-A INPUT -j ISTHMUS-INPUT",
        "ip_forward:1",
        "conf/all/send_redirects:0",
        "conf/wg0/send_redirects:0",
        "wg-quick@wg0.active",
        "wg-quick@wg0.enabled",
    ):
        assert line in good.split("\n"), good
    assert "mtu 1420" in good
    assert "wg0    inet 172.16.0.1/32" in good


def test_sync_and_up_change_nothing_the_second_and_third_time(gateway: NamespaceHost, good: str) -> None:
    gateway.run("isthmus sync wg0; isthmus sync wg0; isthmus up wg0; isthmus up wg0")
    assert gateway.state() == good


@pytest.mark.parametrize("arguments", ["", "sync", "restart wg0", "sync wg0 wg1"])
def test_other_arguments_are_refused_with_the_usage(gateway: NamespaceHost, arguments: str) -> None:
    done = gateway.attempt(f"isthmus {arguments}")
    assert done.returncode == 2
    assert "isthmus sync IF    start the interface if it is down" in done.stderr


def test_an_interface_that_cannot_start_is_an_error_with_wg_quicks_words_and_leaves_nothing() -> None:
    with NamespaceHost("172.16.0.1/24") as host:
        before = host.state()
        files = files_of(CONFIGS["n1"])
        host.put(files)
        host.put_key(PRIVATE["n1"])
        host.put({"/etc/wireguard/wg0.conf": File("[Interface]\nAddress = 172.16.0.1/32\nMTU = much\n", 0o600)})
        done = host.attempt("isthmus sync wg0")
        assert done.returncode == 1
        assert 'argument "much" is wrong: Invalid "mtu" value' in done.stderr
        host.run(f"rm {' '.join(files)} /etc/wireguard/wg0.key")
        assert host.state() == before


# --- repair -------------------------------------------------------------------------------------------------------

BY_HAND = {
    "a peer removed": "wg set wg0 peer $n2 remove",
    "a peer's AllowedIPs changed": "wg set wg0 peer $n2 allowed-ips 172.16.0.2/32,172.16.0.9/32",
    "a peer's AllowedIPs taken by another": "wg set wg0 peer $n3 allowed-ips 172.16.0.3/32,172.16.128.0/24",
    "a peer's endpoint changed": "wg set wg0 peer $s1 endpoint 192.0.2.9:51820",
    "a peer's keepalive changed": "wg set wg0 peer $s1 persistent-keepalive 0",
    "a preshared key set": "wg genpsk >/run/psk; wg set wg0 peer $s1 preshared-key /run/psk",
    "a peer added": "wg set wg0 peer $(wg genkey | wg pubkey) allowed-ips 172.16.128.0/24 endpoint 192.0.2.9:1",
    "another private key": "wg genkey >/run/other; wg set wg0 private-key /run/other",
    "another port": "wg set wg0 listen-port 4444",
    "a route deleted": "ip route del 172.16.128.0/24",
    "a leaf's route deleted": "ip route del 172.16.0.2 table 5182",
    "a route with another source": "ip address add 10.9.9.9/32 dev lo; ip route change 172.16.128.0/24 dev wg0"
    " proto 182 src 10.9.9.9; ip address del 10.9.9.9/32 dev lo",
    "a route replaced by one that is not ours": "ip route replace 172.16.128.0/24 dev wg0",
    "a route of ours too many": "ip route add 172.16.200.0/24 dev wg0 proto 182",
    "the rule deleted": "ip rule del priority 5182",
    "a rule of ours too many": "ip rule add iif wg0 lookup 99 priority 99 protocol 182",
    "a chain flushed": "iptables -F ISTHMUS-FORWARD; iptables -t mangle -F ISTHMUS-FORWARD",
    "a rule added to a chain": "iptables -I ISTHMUS-FORWARD -j DROP",
    "rules in another order": "iptables -D ISTHMUS-FORWARD 1; iptables -A ISTHMUS-FORWARD -s 172.16.0.0/24"
    " -d 172.16.0.0/12 -i wg0 -o wg0 -j ACCEPT",
    "a jump removed": "iptables -D FORWARD -j ISTHMUS-FORWARD",
    "a chain removed": "iptables -D INPUT -j ISTHMUS-INPUT; iptables -F ISTHMUS-INPUT; iptables -X ISTHMUS-INPUT",
    "another MTU": "ip link set mtu 1300 dev wg0",
    "an address added": "ip address add 10.9.9.9/32 dev wg0",
    "another address": "ip address add 172.16.0.1/24 dev wg0 noprefixroute; ip address del 172.16.0.1/32 dev wg0",
    "the interface taken down": "ip link set wg0 down",
    "the interface deleted": "ip link del wg0",
    "the service stopped": "systemctl stop wg-quick@wg0",
    "the service disabled": "systemctl disable wg-quick@wg0",
    "forwarding switched off": "echo 0 >/proc/sys/net/ipv4/ip_forward",
    "redirects switched on": "echo 1 >/proc/sys/net/ipv4/conf/wg0/send_redirects",
}


UNSEEN = {"redirects switched on"}
"""Every other one is in the next plan."""


def planned(gateway: NamespaceHost) -> HostPlan:
    facts = parse_probe("n1", "wg0", gateway.probe())
    return plan_host(CONFIGS["n1"], files_of(CONFIGS["n1"]), public_keys(), facts)


@pytest.mark.parametrize("change", BY_HAND)
def test_sync_repairs_what_hands_did(gateway: NamespaceHost, good: str, change: str) -> None:
    keys = " ".join(f"{name}={key}" for name, key in public_keys().items())
    gateway.run(f"{keys}; {BY_HAND[change]}")
    assert gateway.state() != good, "the change changed nothing"
    assert bool(planned(gateway)) == (change not in UNSEEN)
    gateway.run("isthmus sync wg0")
    assert gateway.state() == good
    assert not planned(gateway)


def test_a_repair_does_not_touch_the_peers_that_are_right(gateway: NamespaceHost, good: str) -> None:
    keys = public_keys()
    gateway.run(
        f"wg set wg0 peer {keys['n2']} remove; wg set wg0 peer {keys['n3']} allowed-ips 172.16.0.9/32; rm /run/wg.log"
    )
    gateway.run("isthmus sync wg0")
    assert gateway.state() == good
    (command,) = gateway.run("cat /run/wg.log").splitlines()  # in one step
    assert sorted(re.findall(r" peer (\S+)", command)) == sorted([keys["n2"], keys["n3"]])


def test_a_wider_route_is_there_before_the_narrower_goes(gateway: NamespaceHost, good: str) -> None:
    gateway.run(
        "cp -p /etc/isthmus/wg0.routes /run/routes; sed -i s,172.16.128.0/24,172.16.128.0/23, /etc/isthmus/wg0.routes"
    )
    gateway.run("ip monitor route >/run/monitor 2>&1 </dev/null & echo $! >/run/monitor.pid; sleep 0.2")
    gateway.run(
        "isthmus sync wg0; ip route add 10.3.3.0/24 dev wg0; until grep -q 10.3.3.0 /run/monitor; do sleep 0.02; done"
    )
    gateway.run("kill $(cat /run/monitor.pid); ip route del 10.3.3.0/24; mv /run/routes /etc/isthmus/wg0.routes")
    seen = [line.split(" dev ")[0] for line in gateway.run("cat /run/monitor").splitlines()]
    assert seen == ["172.16.128.0/23", "Deleted 172.16.128.0/24", "10.3.3.0/24"]
    gateway.run("isthmus sync wg0")
    assert gateway.state() == good


def test_a_peer_that_has_been_talked_to_keeps_its_session() -> None:
    with NamespaceHost("172.16.0.1/24") as host:
        keys = public_keys()
        files = files_of(CONFIGS["n1"])
        conf = files["/etc/wireguard/wg0.conf"]
        here = conf.text.replace("203.0.113.129:51820", "127.0.0.1:4444")
        started(host, {**files, "/etc/wireguard/wg0.conf": File(here, 0o600)}, PRIVATE["n1"])
        # s1 on the same host, on another port: a handshake and a keepalive each way is all the traffic there is.
        host.put({"/etc/wireguard/far.key": File(PRIVATE["s1"], 0o600)})
        host.run(
            "wireguard-go far >/dev/null 2>&1; wg set far listen-port 4444 private-key /etc/wireguard/far.key"
            f" peer {keys['n1']} endpoint 127.0.0.1:51820 allowed-ips 172.16.0.1/32 persistent-keepalive 1;"
            " ip link set far up;"
            " until wg show wg0 latest-handshakes | grep -q '[1-9][0-9]*$'; do sleep 0.02; done;"
            f" wg set far peer {keys['n1']} persistent-keepalive 0; sleep 0.1; rm /run/wg.log"
        )
        session = f"wg show wg0 dump | grep ^{keys['s1']}"
        before = host.run(session)
        assert "\t127.0.0.1:4444\t172.16.128.0/24\t" in before
        assert before.split("\t")[4] != "0", "no handshake"
        host.run(f"wg set wg0 peer {keys['n2']} remove; isthmus sync wg0; isthmus up wg0")
        assert host.run(session) == before
        assert keys["s1"] not in host.run("cat /run/wg.log")


@pytest.mark.parametrize(("ahead", "waits"), [(2, True), (0, False), (-3600, False), (3600, False)])
def test_peers_change_at_the_moment_that_is_told_unless_a_clock_is_wrong(
    gateway: NamespaceHost, good: str, ahead: int, waits: bool
) -> None:
    key = public_keys()["n3"]
    moment = math.ceil(time.time()) + ahead
    gateway.run(f"wg set wg0 peer {key} allowed-ips 172.16.0.9/32; rm /run/wg.log; MOMENT={moment} isthmus sync wg0")
    changed = float(gateway.run("cat /run/wg.at"))
    assert changed >= moment or not waits  # an hour would be too long for this test
    assert gateway.state() == good


def test_nobody_waits_for_a_moment_with_nothing_to_change(gateway: NamespaceHost, good: str) -> None:
    began = time.monotonic()
    gateway.run(f"rm -f /run/wg.log; MOMENT={math.ceil(time.time()) + 9} isthmus sync wg0")
    assert time.monotonic() < began + 8
    assert gateway.state() == good


# --- DNS names ----------------------------------------------------------------------------------------------------

NAMED = compile_mesh(load_inventory(ARTICLE.parent / "tests" / "golden" / "dns_names" / "hosts.toml"))["s1"]
NAMED_KEYS = {"n1": public_key("a" * 42 + "A="), "b1": public_key("e" * 42 + "A=")}


def endpoints(host: NamespaceHost) -> dict[str, str]:
    """Return where n1 and b1 are, as the running interface has it."""
    runs = dict(line.split("\t") for line in host.run("wg show wg0 endpoints").splitlines())
    return {name: runs[key] for name, key in NAMED_KEYS.items()}


def test_names_are_looked_up_at_the_start_and_again_when_a_peer_is_not_heard() -> None:
    with NamespaceHost("172.16.128.1/24") as host:
        files = render_host(NAMED, NAMED_KEYS)
        host.run("cp /etc/hosts /run/hosts; echo 192.0.2.1 n1.example.com >>/etc/hosts")
        started(host, files, PRIVATE["s1"])
        assert endpoints(host) == {"n1": "192.0.2.1:51820", "b1": "(none)"}, "b1's name leads nowhere"
        assert "isthmus-names.active" in host.run("ls /run/units")
        assert not plan_host(NAMED, files, NAMED_KEYS, parse_probe("s1", "wg0", host.probe()))

        host.run("echo 192.0.2.2 n1.example.com >/etc/hosts; echo 192.0.2.9 b1.example.com >>/etc/hosts")
        host.run("isthmus look-up wg0")
        assert endpoints(host) == {"n1": "192.0.2.2:51820", "b1": "192.0.2.9:51820"}
        host.run(": >/etc/hosts; isthmus look-up wg0; isthmus sync wg0")  # DNS is down
        assert endpoints(host) == {"n1": "192.0.2.2:51820", "b1": "192.0.2.9:51820"}
        host.run("systemctl stop wg-quick@wg0; systemctl start wg-quick@wg0")  # a reboot without DNS
        assert endpoints(host) == {"n1": "192.0.2.2:51820", "b1": "192.0.2.9:51820"}, "where they led last"

        host.run("rm /etc/systemd/system/isthmus-names.service")
        host.put(render_host(CONFIGS["s1"], public_keys()))
        host.run("isthmus sync wg0")
        assert "isthmus-names" not in host.run("ls /run/units")


def test_a_peer_that_is_heard_is_not_looked_up() -> None:
    with NamespaceHost("172.16.128.1/24") as host:
        host.run("echo 127.0.0.1 n1.example.com >>/etc/hosts")
        conf = render_host(NAMED, NAMED_KEYS)["/etc/wireguard/wg0.conf"].text
        here = conf.replace("n1.example.com:51820", "n1.example.com:4444")
        started(host, {**render_host(NAMED, NAMED_KEYS), "/etc/wireguard/wg0.conf": File(here, 0o600)}, PRIVATE["s1"])
        host.put({"/etc/wireguard/far.key": File(PRIVATE["n1"], 0o600)})
        host.run(
            "wireguard-go far >/dev/null 2>&1; wg set far listen-port 4444 private-key /etc/wireguard/far.key"
            f" peer {public_keys()['s1']} endpoint 127.0.0.1:51820 allowed-ips 172.16.128.1/32 persistent-keepalive 1;"
            " ip link set far up;"
            " until wg show wg0 latest-handshakes | grep -q '[1-9][0-9]*$'; do sleep 0.02; done"
        )
        host.run("echo 192.0.2.2 n1.example.com >/etc/hosts; isthmus look-up wg0")
        assert endpoints(host)["n1"] == "127.0.0.1:4444"


# --- preshared keys -----------------------------------------------------------------------------------------------

SHARING = compile_mesh(
    parse_inventory(ARTICLE.read_text().replace("[mesh]", "[mesh]\npreshared_keys = true"), "hosts.toml")
)["n1"]
PSK_OF_S1 = "/etc/wireguard/wg0.psk/s1"
SHARED = "g" * 42 + "A="


def test_a_preshared_key_is_set_from_its_file_and_in_no_other_place() -> None:
    files = render_host(SHARING, public_keys())

    def changes() -> list[str]:
        return [str(change) for change in plan_host(SHARING, files, public_keys(), facts()).changes]

    def facts() -> Facts:
        text = host.probe()
        assert SHARED not in text
        return parse_probe("n1", "wg0", text)

    with NamespaceHost("172.16.0.1/24") as host:
        in_use = f"wg show wg0 preshared-keys | grep ^{public_keys()['s1']} | cut -f 2"
        started(host, files, PRIVATE["n1"])
        assert host.run(in_use) == "(none)\n", "there is no key yet"
        assert changes()[0].startswith("key preshared with s1\n    +made")
        host.run(f"{host_script('preshare', interface='wg0', owner='')}take\n", f"s1 {SHARED}\n")
        assert host.run(f"stat -c %a {PSK_OF_S1} /etc/wireguard/wg0.psk") == "600\n700\n"
        host.run("isthmus sync wg0")
        assert host.run(in_use) == f"{SHARED}\n"
        assert SHARED not in host.run("cat /run/wg.log /etc/wireguard/wg0.conf; grep -r . /run 2>/dev/null || true")
        assert changes() == []
        host.run("rm /run/wg.log; isthmus sync wg0; [ ! -e /run/wg.log ]")

        host.run(
            f"wg genpsk >/run/other; wg set wg0 peer {public_keys()['s1']} preshared-key /run/other; rm /run/other"
        )
        assert "-preshared-key (hidden, another)" in changes()[0]
        host.run("isthmus sync wg0")
        assert host.run(in_use) == f"{SHARED}\n"
        host.run("systemctl stop wg-quick@wg0; systemctl start wg-quick@wg0")
        assert host.run(in_use) == f"{SHARED}\n", "after a reboot"

        host.put(files_of(CONFIGS["n1"]))
        host.run("isthmus sync wg0")
        assert host.run(in_use) == "(none)\n"


def test_new_preshared_keys_are_taken_first_and_go_with_the_new_key_of_their_peer() -> None:
    keys = public_keys()
    renewed = {**keys, "s1": public_key("e" * 42 + "A=")}
    with NamespaceHost("172.16.0.1/24") as host:
        host.put({PSK_OF_S1: File(f"{SHARED}\n", 0o600)})
        started(host, render_host(SHARING, keys), PRIVATE["n1"])
        host.put(render_host(SHARING, renewed))
        host.put({PSK_OF_S1: File(f"{'h' * 42}A=\n", 0o600)})
        host.run("rm /run/wg.log")
        rounds = f"0 preshared\n1 peer {keys['s1']} {renewed['s1']}\n"
        host.run(f"MOMENT={math.ceil(time.time())} isthmus rotate wg0", rounds)
        shared, took, *_ = host.run("cat /run/wg.log").splitlines()
        assert shared == f"wg set wg0 peer {keys['s1']} preshared-key {PSK_OF_S1}"
        assert f"peer {renewed['s1']} preshared-key {PSK_OF_S1} persistent-keepalive 25" in took
        assert host.run("wg show wg0 preshared-keys | grep -v none") == f"{renewed['s1']}\t{'h' * 42}A=\n"


@pytest.mark.parametrize("verb", ["peers", "rotate"])
def test_of_new_keys_and_a_new_gateway_in_charge_one_waits_for_the_other(
    gateway: NamespaceHost, good: str, verb: str
) -> None:
    gateway.run(f"wg set wg0 peer {public_keys()['n3']} allowed-ips 172.16.0.9/32; rm -f /run/wg.at")
    held = "flock /run/isthmus-peers.lock sh -c 'sleep 3; date +%s.%N >/run/released' &"
    gateway.run(f"{held} sleep 0.5; MOMENT={math.ceil(time.time())} isthmus {verb} wg0; wait", "0 nothing\n")
    assert float(gateway.run("cat /run/wg.at")) > float(gateway.run("cat /run/released"))
    assert gateway.state() == good


# --- new keys -----------------------------------------------------------------------------------------------------


def test_new_keys_take_the_place_of_the_old_in_steps_that_keep_prefixes_endpoints_and_the_other_peers() -> None:
    keys = public_keys()
    new = {"n1": "e" * 42 + "A=", "n3": "f" * 42 + "A="}
    renewed = {**keys, **{name: public_key(key) for name, key in new.items()}}
    with NamespaceHost("172.16.0.1/24") as host:
        started(host, files_of(CONFIGS["n1"]), PRIVATE["n1"])
        host.put(render_host(CONFIGS["n1"], renewed))
        host.put_key(new["n1"])
        host.run(f"wg set wg0 peer {keys['n3']} endpoint 172.16.0.3:4444; rm -f /run/wg.log")  # where it is heard from
        moment = math.ceil(time.time())
        host.run(f"MOMENT={moment} isthmus rotate wg0", f"0 peer {keys['n3']} {renewed['n3']}\n1 own\n")
        assert time.time() >= moment + 1
        took, own, settled, *removed = host.run("cat /run/wg.log").splitlines()
        assert took.endswith(
            f"peer {renewed['n3']} persistent-keepalive 25 allowed-ips 172.16.0.3/32 endpoint 172.16.0.3:4444"
        )
        assert "private-key /etc/wireguard/wg0.key" in own
        # Each peer is spoken to at once, in vain: so this host does not begin when the others do.
        for key in (keys["n2"], keys["s1"], renewed["n3"]):
            assert f"peer {key} persistent-keepalive 0 peer {key} persistent-keepalive 25" in own
        assert keys["s1"] not in settled, "its keepalive is 25"
        assert [line.split(" set ")[1] for line in removed] == [f"wg0 peer {keys['n3']} remove"]
        facts = parse_probe("n1", "wg0", host.probe())
        assert not plan_host(CONFIGS["n1"], render_host(CONFIGS["n1"], renewed), renewed, facts)


# --- what is not ours ---------------------------------------------------------------------------------------------

FOREIGN = """
    ip link add docker0 type bridge; ip address add 172.31.0.1/16 dev docker0; ip link set docker0 up
    ip route add default via 172.16.0.254 dev eth0
    ip route add 10.1.0.0/16 via 172.16.0.254 dev eth0 proto static metric 50
    ip route add 10.2.0.0/16 dev docker0 table 5182 proto static
    ip route add 10.3.0.0/16 dev docker0 proto 183
    ip route add unreachable 10.4.0.0/16 proto 182
    ip rule add iif docker0 lookup 5182 priority 5181
    ip rule add iif docker0 lookup 77 priority 5183 protocol 182
    ip rule add iif wg0 lookup 77 priority 5184
    iptables -P FORWARD DROP
    iptables -N DOCKER-USER; iptables -A DOCKER-USER -s 10.0.0.0/8 -m comment --comment "not ISTHMUS-INPUT" -j RETURN
    iptables -A FORWARD -j DOCKER-USER; iptables -A FORWARD -o docker0 -j ACCEPT; iptables -A INPUT -p icmp -j ACCEPT
    iptables -t nat -A POSTROUTING -s 172.31.0.0/16 ! -o docker0 -j MASQUERADE
    iptables -t mangle -A FORWARD -j TTL --ttl-inc 1 2>/dev/null || iptables -t mangle -A FORWARD -j ACCEPT
    iptables -t raw -A PREROUTING -p udp --dport 53 -j ACCEPT
    nft add table inet mine; nft add chain inet mine forward '{ type filter hook forward priority 5; }'
    wg genkey >/run/their.key; wireguard-go their0 >/dev/null 2>&1
    wg set their0 private-key /run/their.key peer $(wg genkey | wg pubkey) allowed-ips 10.8.0.0/24
    ip address add 10.8.0.1/24 dev their0; ip link set their0 up
"""


def test_what_is_not_ours_stays_as_it_is_and_down_leaves_nothing_of_ours() -> None:
    with NamespaceHost("172.16.0.1/24") as host:
        host.run(FOREIGN)
        files = files_of(CONFIGS["n1"])
        # The sysctls are put back by mesh.down, which knows what they were before.
        before_alone = host.state().split("ip_forward:")[0]
        rules_before = host.run("nft list table inet mine")

        started(host, files, PRIVATE["n1"])
        with_mesh = host.state()
        host.run("isthmus sync wg0; ip rule del priority 5182; iptables -F ISTHMUS-FORWARD; isthmus sync wg0")
        assert host.state() == with_mesh
        assert set(before_alone.split("\n")) - {""} <= set(with_mesh.split("\n"))
        forward = [line for line in with_mesh.split("\n") if line.startswith("-A FORWARD")]
        assert forward[-3:] == [
            "-A FORWARD -j ISTHMUS-FORWARD",
            "-A FORWARD -j DOCKER-USER",
            "-A FORWARD -o docker0 -j ACCEPT",
        ], "ours comes before whatever could drop"

        host.run(
            f"systemctl disable --now wg-quick@wg0; rm {' '.join(files)} /etc/wireguard/wg0.key; rmdir /etc/isthmus"
        )
        assert host.state().split("ip_forward:")[0] == before_alone
        assert host.run("nft list table inet mine") == rules_before


def test_down_succeeds_and_leaves_nothing_where_hands_were_before_it(gateway: NamespaceHost, good: str) -> None:
    gateway.run(
        "iptables -A FORWARD -j ISTHMUS-FORWARD;"
        "iptables -A FORWARD -s 10.0.0.0/8 -m comment --comment 'a b' -j ISTHMUS-FORWARD;"
        "iptables -N MINE; iptables -A MINE -j ISTHMUS-INPUT; ip rule del priority 5182; ip route flush table 5182;"
        "iptables -t mangle -D FORWARD -j ISTHMUS-FORWARD"
    )
    gateway.run("isthmus down wg0; isthmus down wg0")
    left = gateway.state()
    assert "ISTHMUS" not in left
    assert "proto 182" not in left
    assert ":MINE - " in left
    gateway.run("iptables -X MINE; isthmus sync wg0")
    assert gateway.state() == good


def test_a_gateway_that_becomes_a_leaf_loses_its_forwarding_and_keeps_its_interface() -> None:
    with NamespaceHost("172.16.0.2/24") as host:
        as_leaf = files_of(CONFIGS["n2"])
        started(host, as_leaf, PRIVATE["n2"])
        leaf = host.state()
        number = host.run("cat /sys/class/net/wg0/ifindex")

        host.put(files_of(BY_N2["n2"]))
        host.run("isthmus sync wg0")
        gateway = host.state()
        for line in (
            "5182:\tfrom all iif wg0 lookup 5182 proto 182",
            "172.16.0.3 dev wg0 table 5182 proto 182 scope link ",
            "-A POSTROUTING -j ISTHMUS-POSTROUTING",
            "-A ISTHMUS-POSTROUTING -s 172.16.0.0/12 -d 172.16.0.50/32 ! -o wg0 -j SNAT --to-source 172.16.0.2",
            "ip_forward:1",
        ):
            assert line in gateway.split("\n")

        host.run("rm /etc/sysctl.d/90-isthmus.conf")
        host.put(as_leaf)
        host.run("isthmus sync wg0")
        assert host.run("cat /sys/class/net/wg0/ifindex") == number, "restarting it would take flannel.1 with it"
        assert steady(host.state()) == steady(leaf)


def steady(state: str) -> list[str]:
    """Leave out when files were written, and the sysctls, which stay: others may rely on them by now."""
    return [
        re.sub(r" \d{4}-\d\d-\d\d .*", "", line)
        for line in state.split("\n")
        if not line.startswith(("ip_forward:", "conf/"))
    ]
