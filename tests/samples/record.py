"""Records the samples beside it: what scripts/host/probe.sh prints on hosts in several states. Needs root.

Run it again when the probe changes, then READ THE DIFF: `python tests/samples/record.py`.
Private keys are made up from the hosts' names, so that a new recording differs only where the probe does.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from pathlib import Path

SAMPLES = Path(__file__).parent
sys.path[:0] = [str(SAMPLES.parent), str(SAMPLES.parent.parent)]

from namespace_host import NamespaceHost  # noqa: E402

from isthmus.compile import compile_mesh  # noqa: E402
from isthmus.inventory import load_inventory  # noqa: E402
from isthmus.render import render_host  # noqa: E402

WITHOUT_TOOLS = """
    rm /usr/bin/wg /usr/bin/wg-quick /usr/bin/ping
    mount --bind /dev/null "$(readlink -f "$(command -v iptables)")"
"""
DOCKER = """
    ip link add docker0 type bridge
    ip address add 172.17.0.1/16 dev docker0
    ip link set docker0 up
    iptables -N DOCKER-USER
    iptables -A FORWARD -j DOCKER-USER
    iptables -A DOCKER-USER -j RETURN
    iptables -P FORWARD DROP
    iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
"""
FOREIGN = """
    umask 077
    {
        echo '[Interface]'
        echo "  privatekey=$(wg genkey)"
        echo "# PrivateKey = $(wg genkey) (the old one)"
        echo 'Address = 10.8.0.2/24'
        echo "PostUp = wg set %i peer $(wg genkey | wg pubkey) preshared-key <(echo $(wg genpsk))"
        echo '[Peer]'
        echo 'PublicKey = Sj8u1QgaCoZpqCgVl97YKIbWHhLwRoZSJbVyhlgL6VQ='
        echo "PresharedKey = $(wg genpsk)"
        printf 'AllowedIPs = 10.8.0.0/24'
    } >/etc/wireguard/wg0.conf
"""
ROUTES = """
    ip route add default via 172.16.0.254 dev eth0 proto dhcp src 172.16.0.1 metric 100
    ip route add 10.1.0.0/24 nexthop via 172.16.0.253 weight 2 nexthop via 172.16.0.254 weight 1
    ip route add unreachable 10.2.0.0/24
    ip route add blackhole 10.3.0.0/24
    ip route add 10.4.0.0/24 via 172.16.0.254 table 77 proto static
    ip route add throw 10.5.0.0/24 table 77
    ip rule add to 10.4.0.0/24 lookup 77 priority 1000
    ip rule add fwmark 0x1 iif eth0 lookup 77 priority 1001
    ip address add 10.9.0.1 peer 10.9.0.2 dev eth0
    ip link add eth0.100 type veth peer name far-end.100
    ip address add 192.168.5.1/24 brd + dev eth0.100 label eth0.100:one
    ip link set eth0.100 up
"""


def private_key(host: str) -> str:
    return base64.b64encode(hashlib.sha256(f"a sample's {host}".encode()).digest()).decode()


def meshed(name: str, after: str = "") -> str:
    """Return the probe's answer on a host of the article with its mesh up."""
    inventory = load_inventory(SAMPLES.parent.parent / "hosts.toml")
    configs = compile_mesh(inventory)
    with NamespaceHost(f"{inventory.hosts[name].address}/24") as host:
        keys = {other: host.run("wg pubkey", private_key(other)).strip() for other in configs}
        host.put(render_host(configs[name], keys))
        host.put_key(private_key(name))
        host.run("/usr/local/sbin/isthmus sync wg0")
        host.run(after or ":")
        return host.probe()


def bare(before: str = "", system: str = "debian 12") -> str:
    with NamespaceHost(system=system) as host:
        host.run(before or ":")
        return host.probe()


if __name__ == "__main__":
    samples = {
        "bare": bare(WITHOUT_TOOLS, "debian 11"),
        "gateway": meshed("n1"),
        "leaf": meshed("n2"),
        "gateway-with-docker": meshed("s1", DOCKER),
        "foreign-conf": bare(FOREIGN),
        "many-routes": bare(ROUTES),
        "held": meshed(
            "n3", "cd /var/lib; mkdir -p isthmus/transaction; echo 'ada@desk (0a1b2c3d)' >isthmus/transaction/owner"
        ),
    }
    for name, text in samples.items():
        text = re.sub(r"(@@ clock\n)\d+", r"\g<1>1795416825", text)
        text = re.sub(r"(@@ program 755\n)\w+", r"\g<1>" + "0" * 64, text)
        # WireGuard gives its peers in any order.
        text = re.sub(r"(peer .*\n)+", lambda peers: "".join(sorted(peers[0].splitlines(keepends=True))), text)
        (SAMPLES / f"{name}.txt").write_text(text, encoding="utf-8")
