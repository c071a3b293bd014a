"""Cluster -> the text of kubeadm's, containerd's, flannel's and the resources' files. Templates are in files/."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from isthmus.kubernetes.bundle import Bundle
from isthmus.kubernetes.cluster import API_PORT, LOOPBACK, Cluster, Node
from isthmus.model import Resource
from isthmus.render import File, render_text, static_text

HEADER = "# isthmus-kubernetes: written by Isthmus; changes made here are undone by the next k8s.bootstrap"
"""The first line of every file of ours that stays on a host."""

CRI_SOCKET = "unix:///run/containerd/containerd.sock"
TEMPLATES = "run/isthmus-kubernetes"
"""Where texts are that no host keeps: they are handed to kubeadm or kubectl and removed."""

CONTAINERD = "/etc/containerd/config.toml"
_STATIC = (
    "/etc/crictl.yaml",
    "/etc/modules-load.d/90-isthmus-kubernetes.conf",
    "/etc/sysctl.d/90-isthmus-kubernetes.conf",
)
_RENDERED = (CONTAINERD, "/etc/systemd/system/kubelet.service.d/90-isthmus.conf")
BALANCER = "/etc/isthmus-kubernetes/haproxy.cfg"
BALANCER_UNIT = "/etc/systemd/system/isthmus-api.service"
_ON_NODES = tuple(sorted((*_STATIC, *_RENDERED)))
PATHS = (*_ON_NODES, BALANCER, BALANCER_UNIT)
"""Every file of ours on a node; the last two on workers of several control planes."""

CHECK_NAMESPACE = "isthmus-check"
CHECK_PORT = 18080
CHECK_BYTES = 262_144
"""What pods send each other: hundreds of packets as large as they can be."""


def host_files(cluster: Cluster, bundle: Bundle) -> dict[str, File]:
    """Return {absolute path: file} for what every node keeps."""
    values = {"cluster": cluster, "pause": bundle.reference("pause")}
    texts = {path: static_text(path.lstrip("/")) for path in _STATIC}
    texts.update({path: render_text(path.lstrip("/"), **values) for path in _RENDERED})
    return {path: File(texts[path], 0o644) for path in _ON_NODES}


def balancer_files(cluster: Cluster, node: Node) -> dict[str, File]:
    """Return {absolute path: file} of the load balancer that a node keeps, nothing where it needs none."""
    if node.control_plane or not cluster.has_balancers:
        return {}
    values = {"cluster": cluster, "address": LOOPBACK, "port": API_PORT}
    return {path: File(render_text(path.lstrip("/"), **values), 0o644) for path in (BALANCER, BALANCER_UNIT)}


def init_config(cluster: Cluster, version: str) -> str:
    """Return what `kubeadm init` gets."""
    return _init_config(cluster, cluster.control_plane, version)


def upload_config(cluster: Cluster, node: Node, version: str, key: str) -> str:
    """Return what hands the certificates over from this control plane, encrypted by a key. It holds that secret."""
    return _init_config(cluster, node, version, key)


def _init_config(cluster: Cluster, node: Node, version: str, key: str = "") -> str:
    planes = [name for plane in cluster.control_planes for name in (str(plane.address), plane.name)]
    sans = (cluster.endpoint, *planes, "localhost", str(LOOPBACK))
    return _render("init.yaml", cluster=cluster, node=node, version=version, sans=sans, key=key)


def join_config(cluster: Cluster, node: Node, token: str, ca_hash: str, key: str = "") -> str:
    """Return what `kubeadm join` gets; with the key of the certificates the node joins as a control plane.

    It holds secrets.
    """
    return _render("join.yaml", cluster=cluster, node=node, token=token, ca_hash=ca_hash, key=key)


def flannel_manifest(cluster: Cluster, bundle: Bundle) -> str:
    """Return flannel for this cluster; the sum in it tells an older one."""
    images = {"flannel": bundle.reference("flannel"), "plugin": bundle.reference("flannel-cni-plugin")}
    return _summed("flannel.yaml", cluster=cluster, images=images)


def resource_manifest(resource: Resource) -> str:
    """Return the Service of a resource and the EndpointSlice that leads to its address."""
    assert resource.service is not None
    namespace, _, name = resource.service.partition("/")
    return _summed(
        "resource.yaml", resource=resource, namespace=namespace, service_name=name, port_name=f"tcp-{resource.port}"
    )


def manifests(cluster: Cluster, bundle: Bundle) -> dict[str, str]:
    """Return every manifest of ours by what it is known by on the cluster: `Kind namespace/name`."""
    found = {"DaemonSet kube-flannel/isthmus-flannel": flannel_manifest(cluster, bundle)}
    found.update({f"Service {resource.service}": resource_manifest(resource) for resource in cluster.resources})
    return found


def check_manifest(image: str) -> str:
    """Return the pods of check.pods."""
    return _render("pods.yaml", namespace=CHECK_NAMESPACE, image=image, port=CHECK_PORT, bytes=CHECK_BYTES)


def sum_of(manifest: str) -> str:
    """Return the sum that a manifest carries."""
    _, _, after = manifest.partition('isthmus.internal/sha256: "')
    return after.partition('"')[0]


def _summed(template: str, **values: object) -> str:
    digest = hashlib.sha256(_render(template, sha256="", **values).encode()).hexdigest()
    return _render(template, sha256=digest, **values)


def _render(template: str, **values: object) -> str:
    fixed: Mapping[str, object] = {"port": API_PORT, "cri_socket": CRI_SOCKET}
    return render_text(f"{TEMPLATES}/{template}", **{**fixed, **values})
