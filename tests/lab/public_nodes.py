"""`inv`, but Kubernetes' nodes have their hosts' public addresses, as the article's first cluster had: no mesh.

As there, each host must have its public address on an interface of its own, INTERFACE: a kubelet and an API speak from
an address that their host has. flannel sends from the NIC, whose address the cloud's router translates, and tells the
others the public one.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from invoke.main import program

from isthmus.kubernetes import cluster, configs
from isthmus.kubernetes.bundle import Bundle
from isthmus.kubernetes.cluster import Cluster
from isthmus.model import Inventory

INTERFACE = "public0"
NIC_MTU = 1500
ARGUMENTS = f"--iface={INTERFACE}]"
ENVIRONMENT = "        env:\n"
PUBLIC_IP = "        - name: PUBLIC_IP\n          valueFrom: {fieldRef: {fieldPath: status.hostIP}}\n"

_cluster_of = cluster.cluster_of
_flannel_manifest = configs.flannel_manifest


def public_cluster_of(inventory: Inventory) -> Cluster:
    """Return the inventory's cluster with public addresses."""
    found = _cluster_of(inventory)
    nodes = {}
    for name, node in found.nodes.items():
        public = inventory.hosts[name].public
        assert public is not None, f"{name} has no public address"
        nodes[name] = replace(node, address=public)
    return replace(found, interface=INTERFACE, mtu=NIC_MTU, nodes=nodes)


def public_flannel_manifest(wanted: Cluster, bundle: Bundle) -> str:
    """Return flannel's manifest, with the node's address as the one that flannel tells."""
    text = _flannel_manifest(wanted, bundle)
    for old, new in (
        (ARGUMENTS, "--iface=eth0, --public-ip=$(PUBLIC_IP)]"),
        (ENVIRONMENT, f"{ENVIRONMENT}{PUBLIC_IP}"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


cluster.cluster_of = public_cluster_of
configs.flannel_manifest = public_flannel_manifest
program.run(["inv", *sys.argv[1:]])
