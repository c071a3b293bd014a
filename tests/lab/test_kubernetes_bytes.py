"""What a cloud bills of the same work between pods: nodes with public addresses, as in the article's first cluster, and
nodes on the mesh.

Billed is what leaves a cloud by its uplink, as the lab's routers count it. The hosts are the article's: n1, n2 and n3
in Nanjing, s1 in Shanghai. A pod on every node gets the same file from a pod on every other node.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from promises import OK
from test_kubernetes import LONG_S, POD, Cluster, tell
from workstation import ROOT, until

from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions

pytestmark = [pytest.mark.lab, pytest.mark.bundle]

NODES = ("n1", "n2", "n3", "s1")
MEGABYTES = 10
"""That each pod gets from each other pod: 12 ordered pairs, of which 6 are within Nanjing."""
CHATTER_S = 120
"""So long nobody has work to do, and the cluster's own traffic is counted."""
PORTS = ("6443/tcp", "10250/tcp", "8472/udp")
"""What a cluster with public addresses must open to the world: the API, the kubelets, flannel."""
ARTICLE = 20
"""Per cent of the former costs, says the article."""
PUBLIC = """set -e
ip link add public0 type bridge
ip link set public0 up
ip address add {public}/32 dev public0
iptables -t nat -I POSTROUTING -o eth0 -s {public} -j SNAT --to-source {address}
"""
"""The interface with the public address, as the article's first cluster had one. flannel sends from the address that it
tells the others, and the cloud lets a host send from its private one only."""
NOT_PUBLIC = """set -e
ip link delete public0
iptables -t nat -D POSTROUTING -o eth0 -s {public} -j SNAT --to-source {address}
"""
NO_OFFLOAD = """
import array, fcntl, socket, struct
value = array.array("B", struct.pack("II", 0x17, 0))  # ETHTOOL_STXCSUM: off
request = struct.pack("16sP", b"flannel.1", value.buffer_info()[0])
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8946, request)  # SIOCETHTOOL
"""
"""Checksums are made before packets are wrapped in UDP: Linux' NAT, as which the lab's clouds have, spoils those that
are left to a NIC."""


@dataclass(frozen=True)
class Billed:
    """Bytes that left the clouds."""

    within: int
    """While pods of one site worked with each other."""
    across: int
    chatter: int

    @property
    def pairs(self) -> int:
        """While every pod worked with every other."""
        return self.within + self.across


class BothWays(Cluster):
    """The workstation, which can also make the article's first cluster."""

    def public(self, line: str) -> None:
        """Run `inv LINE` for nodes with public addresses."""
        _, *words = self.command(line)
        program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("public_nodes.py"))]
        result = self.lab.run([*program, *words], capture=True, cwd=ROOT, timeout=LONG_S, text="")
        assert result.returncode == OK, f"{line}: {result.returncode}\n{result.stdout}{result.stderr}"

    def on_host(self, name: str, script: str) -> None:
        """Run a script in which the host's addresses stand open."""
        host = self.lab.inventory.hosts[name]
        self.said(name, script.format(public=host.public, address=host.address))

    def measure(self) -> Billed:
        """Put a pod on every node, have them work, and return what was billed meanwhile."""
        self.kubectl("apply -f -", "---".join(POD.format(node=node) for node in NODES))
        until(lambda: self.where("one") == sorted(NODES), "a pod on every node")
        listed = "-o jsonpath='{range .items[*]}{.spec.nodeName} {.status.podIP}{\"\\n\"}{end}'"
        lines = self.kubectl(f"get pods -l app=one {listed}").splitlines()
        addresses = dict(line.split() for line in lines)
        size = MEGABYTES * 1_000_000
        serve = f"mkdir /tmp/www; head -c {size} /dev/urandom >/tmp/www/w; httpd -p 8080 -h /tmp/www"
        for node in NODES:
            self.kubectl(f"exec on-{node} -- sh -c '{serve}'")
        site = {name: self.lab.inventory.hosts[name].site for name in NODES}
        pairs = [(one, other) for one in NODES for other in NODES if one != other]
        within = self.work(addresses, [pair for pair in pairs if site[pair[0]] == site[pair[1]]], size)
        across = self.work(addresses, [pair for pair in pairs if site[pair[0]] != site[pair[1]]], size)
        self.kubectl("delete pods -l app=one")
        before = self.left()
        time.sleep(CHATTER_S)
        return Billed(within, across, self.left() - before)

    def work(self, addresses: dict[str, str], pairs: list[tuple[str, str]], size: int) -> int:
        """Have the first of each pair get the file from the second one; return what was billed."""
        before = self.left()
        for node in dict.fromkeys(one for one, _ in pairs):
            urls = " ".join(f"http://{addresses[other]}:8080/w" for one, other in pairs if one == node)
            get = f"for url in {urls}; do wget -q -O - $url | wc -c; done"
            counts = self.kubectl(f'exec on-{node} -- sh -c "{get}"'.replace("$", "\\$")).split()
            assert counts == [str(size)] * len(urls.split()), f"{node}: {counts}"
        return self.left() - before

    def left(self) -> int:
        """Return how many bytes have left the clouds."""
        return sum(traffic.sent for traffic in self.lab.counters().values())


@pytest.fixture(scope="module")
def cluster(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> BothWays:
    """The article's hosts, each with a public address."""
    folder = tmp_path_factory.mktemp("bytes")
    text = (ROOT / "hosts.toml").read_text(encoding="utf-8")
    old = 'address = "172.16.0.3"\n'
    assert text.count(old) == 1
    text = text.replace(old, f'{old}public  = "203.0.113.3"\n')
    text += f'bundle         = "{Path(os.environ["ISTHMUS_BUNDLE"]).resolve()}"\n'
    (folder / "hosts.toml").write_text(text, encoding="utf-8")
    options = HostOptions(packages=True, kubernetes=True, open_ports=PORTS)
    return BothWays(lab(load_inventory(folder / "hosts.toml"), options), folder, text)


def test_what_is_still_billed_of_the_same_work_between_pods(cluster: BothWays) -> None:
    for name in NODES:
        cluster.on_host(name, PUBLIC)
    cluster.public(f"k8s.bootstrap --only {','.join(NODES)}")  # without asking pods: flannel.1 is as yet as it came
    for name in NODES:
        assert cluster.lab.host_run(name, ["python3", "-c", NO_OFFLOAD]).returncode == 0
    cluster.public("check.pods")
    public = cluster.measure()
    cluster.public("k8s.reset --yes")
    for name in NODES:
        cluster.on_host(name, NOT_PUBLIC)
    cluster.inv("mesh.up", code=OK)
    cluster.bootstrap()
    mesh = cluster.measure()

    payload = 6 * MEGABYTES * 1_000_000
    tell(f"bytes billed while each pod gets {MEGABYTES} MB from each other one; on the mesh, with public addresses:")
    for what in ("within", "across", "pairs", "chatter"):
        old, new = getattr(public, what), getattr(mesh, what)
        tell(f"  {what}: {new / 1e6:.2f}, {old / 1e6:.2f} MB, {100 * new / old:.1f} %")
    share = ARTICLE * public.across / mesh.across
    tell(f"  the article's {ARTICLE} % is what remains where {share:.0f} % of the bytes between pods cross sites")
    assert public.within > payload
    assert public.across > payload
    assert mesh.within < payload / 100
    assert payload < mesh.across < 1.2 * public.across
    assert mesh.pairs < 0.6 * public.pairs
    assert mesh.chatter < public.chatter
