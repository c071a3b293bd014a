"""Which images a cluster of a Kubernetes version consists of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Companions:
    """What kubeadm runs beside Kubernetes' own images."""

    since: int
    """The first patch release of its minor version with these."""
    etcd: str
    coredns: str
    pause: str


COMPANIONS = {
    "1.34": (Companions(0, "3.6.4-0", "v1.12.1", "3.10.1"), Companions(2, "3.6.5-0", "v1.12.1", "3.10.1")),
    "1.35": (Companions(0, "3.6.6-0", "v1.13.1", "3.10.1"),),
    "1.36": (Companions(0, "3.6.8-0", "v1.14.2", "3.10.2"),),
    "1.37": (Companions(0, "3.7.0-0", "v1.14.6", "3.10.2"),),
}
"""What `kubeadm config images list` prints in these versions. A later patch release may have others, so they are looked
for in the kubeadm that goes into a bundle, too."""

FLANNEL = "0.28.9"
FLANNEL_IMAGES = (f"ghcr.io/flannel-io/flannel:v{FLANNEL}", "ghcr.io/flannel-io/flannel-cni-plugin:v1.9.1-flannel3")
CHECK = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"
"""For check.pods: sh, httpd, wget, nslookup."""


def companions(version: str) -> Companions:
    """Return what an exact version of a supported minor has beside it."""
    minor, _, patch = version.rpartition(".")
    return [known for known in COMPANIONS[minor] if known.since <= int(patch)][-1]


def images_of(version: str) -> tuple[str, ...]:
    """Return the references of every image of a cluster, as kubeadm and flannel name them, and that of check.pods."""
    beside = companions(version)
    kubernetes = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
    return (
        *(f"registry.k8s.io/{name}:v{version}" for name in kubernetes),
        f"registry.k8s.io/coredns/coredns:{beside.coredns}",
        f"registry.k8s.io/pause:{beside.pause}",
        f"registry.k8s.io/etcd:{beside.etcd}",
        *FLANNEL_IMAGES,
        CHECK,
    )
