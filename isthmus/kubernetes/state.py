"""NodeFacts -> the state of a host, and why.

Only what we began and never finished is ever cleaned up by itself: a host says so in a file of ours. A cluster whose
API is silent, or whose CA is another one, is somebody's, and is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from isthmus.kubernetes.cluster import API_PORT, Cluster
from isthmus.kubernetes.facts import ApiFacts, NodeFacts, ca_hash


class State(Enum):
    """What a host is to the cluster."""

    CLEAN = "clean"
    """Nothing of a cluster on it; packages or not."""
    STALE = "stale"
    """Clean, but the cluster still has its Node."""
    HALF_INITIALISED = "half-initialised"
    HALF_JOINED = "half-joined"
    LOST = "lost"
    """In our cluster by its files, but the cluster has no such Node."""
    NOT_READY = "not ready"
    READY = "ready"
    SILENT = "silent"
    """In our cluster by its files, but the API does not answer: nobody can say more."""
    FOREIGN = "of another cluster"


CLEANED = (State.HALF_INITIALISED, State.HALF_JOINED, State.LOST)
"""What bootstrap takes off and begins anew."""
JOINED = (State.READY, State.NOT_READY)


@dataclass(frozen=True)
class Found:
    """The state of one host and the evidence."""

    state: State
    evidence: str = ""


def states(cluster: Cluster, facts: Mapping[str, NodeFacts]) -> dict[str, Found]:
    """Return the state of every host that was looked at. What cannot be told without the control plane is SILENT."""
    plane = facts.get(cluster.control_plane.name)
    api = plane.api if plane else None
    found = {}
    for name, host in facts.items():
        role = _of_control_plane if cluster.nodes[name].control_plane else _of_worker
        found[name] = role(cluster, host, plane, api)
    return found


def _of_control_plane(cluster: Cluster, host: NodeFacts, _plane: NodeFacts | None, api: ApiFacts | None) -> Found:
    if host.unfinished:
        return Found(State.HALF_INITIALISED, f"kubeadm {host.unfinished} was begun and not finished")
    if not host.is_member:
        return Found(State.CLEAN)
    if "admin.conf" not in host.kubeadm:
        return Found(State.FOREIGN, f"has {_files(host)} that no run of ours made")
    if foreign := _other_servers(cluster, host):
        return Found(State.FOREIGN, foreign)
    if api is None:
        return Found(State.SILENT, "its API does not answer")
    if host.host not in api.nodes:
        return Found(State.NOT_READY, "its Node is gone: restart its kubelet, which makes it anew")
    return _by_node(host.host, api)


def _of_worker(cluster: Cluster, host: NodeFacts, plane: NodeFacts | None, api: ApiFacts | None) -> Found:
    if host.unfinished:
        return Found(State.HALF_JOINED, f"kubeadm {host.unfinished} was begun and not finished")
    if not host.is_member:
        if api and host.host in api.nodes:
            return Found(State.STALE, "the cluster has a Node of this name, the host has nothing")
        return Found(State.CLEAN)
    if "admin.conf" in host.kubeadm:
        return Found(State.FOREIGN, "is a control plane")
    if "kubelet.conf" not in host.kubeadm:
        return Found(State.FOREIGN, f"has {_files(host)} that no run of ours made")
    if foreign := _other_servers(cluster, host):
        return Found(State.FOREIGN, foreign)
    if plane is None:
        return Found(State.SILENT, f"{cluster.control_plane.name} could not be asked")
    if not plane.ca or not host.ca or ca_hash(plane.ca) != ca_hash(host.ca):
        return Found(State.FOREIGN, f"its cluster's CA is not that of {plane.host}")
    if api is None:
        return Found(State.SILENT, f"the API on {plane.host} does not answer")
    return _by_node(host.host, api)


def _by_node(name: str, api: ApiFacts) -> Found:
    if name not in api.nodes:
        return Found(State.LOST, "has joined, but the cluster has no such Node")
    return Found(State.READY if api.nodes[name].ready else State.NOT_READY)


def _other_servers(cluster: Cluster, host: NodeFacts) -> str:
    own = f"https://{cluster.endpoint}:{API_PORT}"
    # kubeadm's admin.conf and kubelet.conf of a control plane may name the host itself.
    local = f"https://{cluster.control_plane.address}:{API_PORT}"
    others = [server for server in host.servers if server not in (own, local)]
    return f"its API is {others[0]}" if others else ""


def _files(host: NodeFacts) -> str:
    return ", ".join(sorted(host.kubeadm))
