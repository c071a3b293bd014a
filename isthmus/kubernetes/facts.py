"""Facts of one node: what scripts/host/k8s-probe.sh printed there, read into values.

A value that is not there is None or empty, never an exception: a bare host is as good an answer as a full one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from isthmus.errors import CommandError
from isthmus.kubernetes.cluster import Taint

PUBLIC_IP = "flannel.alpha.coreos.com/public-ip"
"""The annotation by which flannel tells other nodes where to send."""
SET_BY_US = "isthmus.internal/set"
"""The annotation that remembers which labels and taints are ours, so that those gone from hosts.toml are taken off."""
UPGRADE_CORDONED = "isthmus.internal/upgrade-cordoned"
"""The annotation of a Node that an upgrade of ours has cordoned: one that the user has cordoned stays so."""
UPGRADE_KUBEADM = "isthmus.internal/upgrade-kubeadm"
"""The annotation that remembers to which version `kubeadm upgrade` has come to its end, while the upgrade goes on."""


@dataclass(frozen=True)
class Package:
    """An installed Debian package."""

    version: str
    held: bool


@dataclass(frozen=True)
class FoundFile:
    """A file at a path of ours."""

    mode: int
    sha256: str
    ours: bool


@dataclass(frozen=True)
class NodeObject:
    """A Node as the cluster knows it."""

    name: str
    ready: bool
    address: str
    version: str
    runtime: str
    labels: Mapping[str, str]
    taints: frozenset[Taint]
    public_ip: str | None
    """Where flannel says that this node is."""
    set_by_us: frozenset[str]
    """Keys of labels, and `key:effect` of taints."""
    unschedulable: bool = False
    cordoned_by_us: bool = False
    kubeadm_upgraded: str = ""
    """The version to which kubeadm has upgraded it, while an upgrade of ours is under way."""

    @property
    def under_upgrade(self) -> bool:
        """Whether an upgrade of ours has begun with it and not ended."""
        return self.cordoned_by_us or bool(self.kubeadm_upgraded)


@dataclass(frozen=True)
class ApiFacts:
    """What the control plane says, where its API answers."""

    nodes: Mapping[str, NodeObject]
    manifests: Mapping[str, str]
    """`Kind namespace/name` of what is ours -> its sum."""
    system_pods: tuple[tuple[str, str, bool], ...]
    """(pod, node, whether all of it is ready)."""


@dataclass(frozen=True)
class NodeFacts:
    """Everything one probe found."""

    host: str
    system: str
    cgroup: str
    """The file system of /sys/fs/cgroup: cgroup2fs, or tmpfs for v1."""
    cpus: int
    memory_mb: int
    disk_mb: int
    """Free below /var/lib."""
    clock: int
    machine_id: str
    hostname: str
    swap_mb: int
    nameservers: int
    """That others than the host itself serve."""
    addresses: tuple[IPv4Address, ...]
    """Of the mesh interface."""
    packages: Mapping[str, Package]
    files: Mapping[str, FoundFile]
    endpoint: tuple[str, ...]
    """The addresses that /etc/hosts has for the API's name."""
    kernel: frozenset[str]
    """overlay, br_netfilter."""
    sysctls: Mapping[str, str]
    units: Mapping[str, tuple[str, str]]
    """Unit -> (active, enabled), in systemctl's words."""
    images: frozenset[str]
    kubeadm: frozenset[str]
    """Which of kubeadm's files are there, such as kubelet.conf; etcd for its data."""
    servers: tuple[str, ...]
    """The URLs of kubelet.conf and admin.conf."""
    ca: str
    """The cluster's CA certificate in PEM."""
    unfinished: str | None
    """`init` or `join`: begun by us and never finished."""
    busy: bool = False
    """A run is at work on the host, or what it began goes on though its workstation is gone."""
    static_pods: tuple[str, ...] = ()
    """The images of the control plane's own pods, as their files on the host have them."""
    certificates: tuple[datetime, ...] = field(default=())
    """When the control plane's own certificates end."""
    api: ApiFacts | None = None

    @property
    def is_member(self) -> bool:
        """Return whether the host is, or was half-way to be, in some cluster."""
        return bool(self.kubeadm)

    @property
    def api_version(self) -> str:
        """Return the version of the API server that the host's kubelet is to run; nothing where there is none."""
        tags = (image.partition(":v") for image in self.static_pods)
        return next((tag for name, _, tag in tags if name.endswith("/kube-apiserver")), "")


def ca_hash(pem: str) -> str:
    """Return the hash by which kubeadm knows a CA: `sha256:` and that of the public key's DER."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509 import load_pem_x509_certificate

    key = load_pem_x509_certificate(pem.encode()).public_key()
    return f"sha256:{hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()}"


def parse_probe(host: str, text: str) -> NodeFacts:
    """Return what a probe printed; CommandError when it is not whole."""
    sections = dict(_sections(text))
    if "end" not in sections:
        raise CommandError(host, f"k8s-probe: the answer is not whole: {text[-80:]!r}", 0)
    machine = dict(_pairs(sections["machine"]))
    kernel = [line for line in sections["kernel"] if ":" not in line]
    sysctls = dict(line.split(":", 1) for line in sections["kernel"] if ":" in line)
    bridged = ["br_netfilter"] if any(name.startswith("net/bridge/") for name in sysctls) else []
    return NodeFacts(
        host=host,
        system=" ".join(sections["system"]),
        cgroup=machine.get("cgroup", ""),
        cpus=_number(machine.get("cpus")),
        memory_mb=_number(machine.get("memory")),
        disk_mb=_number(machine.get("disk")),
        clock=_number(machine.get("clock")),
        machine_id=machine.get("id", ""),
        hostname=machine.get("hostname", ""),
        swap_mb=_number(machine.get("swap")),
        nameservers=_number(machine.get("nameservers")),
        addresses=tuple(IPv4Interface(line).ip for line in sections["addresses"]),
        packages=dict(_packages(sections["packages"])),
        files=dict(_files(sections["files"])),
        endpoint=tuple(sections["endpoint"]),
        kernel=frozenset([*kernel, *bridged]),
        sysctls={name.replace("/", "."): value for name, value in sysctls.items()},
        units={words[0]: (words[1], words[-1]) for line in sections["units"] if len(words := line.split()) >= 2},
        images=frozenset(sections["images"]),
        kubeadm=frozenset(sections["kubeadm"]),
        servers=tuple(dict.fromkeys(sections["servers"])),
        ca="\n".join(sections["ca"]),
        unfinished=next(iter(sections.get("unfinished", [])), None),
        busy="busy" in sections,
        static_pods=tuple(sections.get("static pods", [])),
        certificates=_ends("\n".join(sections.get("certificates", []))),
        api=_api(sections) if sections.get("api") == ["ready"] and "nodes" in sections else None,
    )


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    name, lines = "", []  # type: str, list[str]
    for line in text.splitlines():
        if line.startswith("@@ "):
            yield name, lines
            name, lines = line[3:], []
        elif line.strip():
            lines.append(line)
    yield name, lines


def _pairs(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, _, value = line.partition(" ")
        yield name, value.strip()


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def _packages(lines: list[str]) -> Iterator[tuple[str, Package]]:
    for line in lines:
        words = line.split()
        if len(words) == 4 and words[3] == "installed":
            yield words[0], Package(words[1], words[2] == "hold")


def _files(lines: list[str]) -> Iterator[tuple[str, FoundFile]]:
    for line in lines:
        words = line.split(maxsplit=3)
        if len(words) >= 3:
            yield words[0], FoundFile(int(words[1], 8), words[2], words[3:] == ["# isthmus-kubernetes"])


def _ends(pem: str) -> tuple[datetime, ...]:
    if "BEGIN CERTIFICATE" not in pem:
        return ()
    from cryptography.x509 import load_pem_x509_certificates

    certificates = load_pem_x509_certificates(pem.encode())
    return tuple(sorted(one.not_valid_after_utc for one in certificates))


def _api(sections: Mapping[str, list[str]]) -> ApiFacts | None:
    try:
        items = json.loads("\n".join(sections["nodes"]))["items"]
    except (ValueError, KeyError):
        return None  # it went away while we asked
    nodes = (_node(item) for item in items)
    manifests = (line.rpartition(" ") for line in sections.get("manifests", []))
    pods = (line.split() for line in sections.get("system pods", []))
    return ApiFacts(
        nodes={node.name: node for node in nodes},
        manifests={name.strip(): digest for name, _, digest in manifests},
        system_pods=tuple(
            (words[0], words[1], words[2] == "Running" and set(words[3:]) == {"true"})
            for words in pods
            if len(words) > 2
        ),
    )


def _node(item: Any) -> NodeObject:
    metadata, spec, status = item["metadata"], item.get("spec", {}), item.get("status", {})
    annotations = metadata.get("annotations", {})
    addresses = {entry["type"]: entry["address"] for entry in status.get("addresses", [])}
    conditions = {entry["type"]: entry["status"] for entry in status.get("conditions", [])}
    info = status.get("nodeInfo", {})
    return NodeObject(
        name=metadata["name"],
        ready=conditions.get("Ready") == "True",
        address=addresses.get("InternalIP", ""),
        version=info.get("kubeletVersion", "").removeprefix("v"),
        runtime=info.get("containerRuntimeVersion", ""),
        labels=metadata.get("labels", {}),
        taints=frozenset(
            Taint(entry["key"], entry["effect"], entry.get("value", "")) for entry in spec.get("taints", [])
        ),
        public_ip=annotations.get(PUBLIC_IP),
        set_by_us=frozenset(annotations.get(SET_BY_US, "").split()),
        unschedulable=bool(spec.get("unschedulable", False)),
        cordoned_by_us=UPGRADE_CORDONED in annotations,
        kubeadm_upgraded=annotations.get(UPGRADE_KUBEADM, ""),
    )
