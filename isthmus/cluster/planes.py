"""Control planes come one after the other, and go one by one: etcd needs a majority at every moment."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from isthmus.cluster.survey import kubectl, on_plane
from isthmus.errors import HostError
from isthmus.host_scripts import host_script
from isthmus.kubernetes.cluster import Cluster, Node
from isthmus.kubernetes.configs import upload_config
from isthmus.kubernetes.facts import NodeFacts
from isthmus.remote import Fleet, Remote

HAND_OVER_S = 120
ETCD_S = 180


@contextmanager
def certificates(fleet: Fleet, cluster: Cluster, version: str) -> Iterator[str]:
    """While inside, the cluster holds its certificates for those who have the key, which is made for this once."""
    key = secrets.token_hex(32)

    def hand_over(remote: Remote) -> None:
        config = upload_config(cluster, cluster.nodes[remote.name], version, key)
        remote.run(host_script("k8s-certs"), timeout=HAND_OVER_S, stdin=config.encode())

    on_plane(fleet, cluster, hand_over)
    try:
        yield key
    finally:
        on_plane(fleet, cluster, lambda remote: remote.run(host_script("k8s-uncerts"), timeout=HAND_OVER_S))


def leave_etcd(remote: Remote, *nodes: Node) -> None:
    """Take nodes out of etcd, on a control plane that stays; HostError where the others would be no majority.

    It comes before their disks are cleaned: a member that is gone for good still counts.
    """
    members = " ".join(f"{node.name}={node.address}" for node in nodes)
    remote.run(host_script("k8s-etcd", members=members), timeout=ETCD_S)


def is_plane(facts: NodeFacts | None) -> bool:
    """Return whether a host has something of a control plane, by its files; finished or not."""
    return facts is not None and bool({"admin.conf", "etcd", "manifests/kube-apiserver.yaml"} & facts.kubeadm)


def renew_proxy(remote: Remote, *names: str) -> None:
    """Have kube-proxy of these nodes start anew: a pod keeps the /etc/hosts that its node had when it began."""
    for name in names:
        which = ("-l", "k8s-app=kube-proxy", "--field-selector", f"spec.nodeName={name}")
        kubectl(remote, ("delete", "pods", "-n", "kube-system", *which, "--wait=false"))


def majority_note(cluster: Cluster, gone: str) -> tuple[str, ...]:
    """Return a word on what the control planes that stay can bear."""
    left = [node.name for node in cluster.control_planes if node.name != gone]
    if len(left) % 2:
        return ()
    names = ", ".join(left)
    return (f"the control planes {names} are left: with one of them off the API stops, until there is a third again",)


def refused(name: str, other: str) -> HostError:
    """Return why a control plane was not joined: after a join that failed etcd may not be whole."""
    return HostError(name, f"waits for {other}, which did not join: etcd takes one after the other")
