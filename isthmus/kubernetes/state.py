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
    OTHER_ROLE = "in another role"
    """In our cluster, as a worker where hosts.toml makes it a control plane, or the other way round."""
    FOREIGN = "of another cluster"


CLEANED = (State.HALF_INITIALISED, State.HALF_JOINED, State.LOST)
"""What bootstrap takes off and begins anew."""
JOINED = (State.READY, State.NOT_READY)


@dataclass(frozen=True)
class Found:
    """The state of one host and the evidence."""

    state: State
    evidence: str = ""


def speaker(cluster: Cluster, facts: Mapping[str, NodeFacts]) -> NodeFacts | None:
    """Return the control plane that speaks for the cluster: the first that is a node of it and whose API answers.

    Where there is none such, the first whose API answers, else the first that holds a cluster, else the one that
    initialises it; None when that one was not looked at.
    """
    first = facts.get(cluster.control_plane.name)
    if not cluster.has_balancers:
        return first
    planes = [facts[node.name] for node in cluster.control_planes if node.name in facts]
    holding = [plane for plane in planes if holds_cluster(plane) and not _other_servers(cluster, plane)]
    answering = [plane for plane in holding if plane.api]
    known = [plane for plane in answering if plane.api and plane.host in plane.api.nodes]
    return next(iter((*known, *answering, *holding)), first)


def api_of(cluster: Cluster, facts: Mapping[str, NodeFacts]) -> ApiFacts | None:
    """Return what the cluster's API says; None where it does not answer, or what answers is of another cluster."""
    plane = speaker(cluster, facts)
    return plane.api if plane and not _other_servers(cluster, plane) else None


def holds_cluster(host: NodeFacts) -> bool:
    """Return whether a host is a control plane that kubeadm has finished."""
    return "admin.conf" in host.kubeadm and not host.unfinished


def states(cluster: Cluster, facts: Mapping[str, NodeFacts]) -> dict[str, Found]:
    """Return the state of every host that was looked at. What cannot be told without a control plane is SILENT."""
    plane, api = speaker(cluster, facts), api_of(cluster, facts)
    found = {}
    for name, host in facts.items():
        if not cluster.nodes[name].control_plane:
            found[name] = _of_worker(cluster, host, plane, api)
        elif plane is None or plane is host:
            found[name] = _of_speaker(cluster, host, api)
        else:
            found[name] = _of_control_plane(cluster, host, plane, api)
    return found


def _of_speaker(cluster: Cluster, host: NodeFacts, api: ApiFacts | None) -> Found:
    """Return the state of the control plane that speaks for the cluster, or would initialise it."""
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


def _of_control_plane(cluster: Cluster, host: NodeFacts, plane: NodeFacts, api: ApiFacts | None) -> Found:
    """Return the state of a control plane for which another one speaks."""
    if early := _before_membership(host, api):
        return early
    if "admin.conf" not in host.kubeadm and "kubelet.conf" not in host.kubeadm:
        return Found(State.FOREIGN, f"has {_files(host)} that no run of ours made")
    if foreign := _other_cluster(cluster, host, plane):
        return Found(State.FOREIGN, foreign)
    if "admin.conf" not in host.kubeadm:
        return Found(State.OTHER_ROLE, "has joined as a worker, hosts.toml makes it a control plane")
    if api is None:
        return Found(State.SILENT, f"the API on {plane.host} does not answer")
    return _by_node(host.host, api)


def _of_worker(cluster: Cluster, host: NodeFacts, plane: NodeFacts | None, api: ApiFacts | None) -> Found:
    if early := _before_membership(host, api):
        return early
    if "admin.conf" in host.kubeadm:
        if plane is None or _other_cluster(cluster, host, plane):
            return Found(State.FOREIGN, "is a control plane")
        return Found(State.OTHER_ROLE, "is a control plane, hosts.toml makes it a worker")
    if "kubelet.conf" not in host.kubeadm:
        return Found(State.FOREIGN, f"has {_files(host)} that no run of ours made")
    if foreign := _other_servers(cluster, host):
        return Found(State.FOREIGN, foreign)
    if plane is None:
        return Found(State.SILENT, f"{cluster.control_plane.name} could not be asked")
    if foreign := _other_cluster(cluster, host, plane):
        return Found(State.FOREIGN, foreign)
    if api is None:
        return Found(State.SILENT, f"the API on {plane.host} does not answer")
    return _by_node(host.host, api)


def _before_membership(host: NodeFacts, api: ApiFacts | None) -> Found | None:
    if host.unfinished:
        return Found(State.HALF_JOINED, f"kubeadm {host.unfinished} was begun and not finished")
    if host.is_member:
        return None
    if api and host.host in api.nodes:
        return Found(State.STALE, "the cluster has a Node of this name, the host has nothing")
    return Found(State.CLEAN)


def _by_node(name: str, api: ApiFacts) -> Found:
    if name not in api.nodes:
        return Found(State.LOST, "has joined, but the cluster has no such Node")
    return Found(State.READY if api.nodes[name].ready else State.NOT_READY)


def _other_servers(cluster: Cluster, host: NodeFacts) -> str:
    own = f"https://{cluster.endpoint}:{API_PORT}"
    # kubeadm's admin.conf and kubelet.conf of a control plane may name the host itself.
    local = f"https://{cluster.nodes[host.host].address}:{API_PORT}"
    others = [server for server in host.servers if server not in (own, local)]
    return f"its API is {others[0]}" if others else ""


def _other_cluster(cluster: Cluster, host: NodeFacts, plane: NodeFacts) -> str:
    if foreign := _other_servers(cluster, host):
        return foreign
    if not plane.ca or not host.ca or ca_hash(plane.ca) != ca_hash(host.ca):
        return f"its cluster's CA is not that of {plane.host}"
    return ""


def _files(host: NodeFacts) -> str:
    return ", ".join(sorted(host.kubeadm))
