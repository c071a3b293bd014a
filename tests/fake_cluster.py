"""Nodes in memory that behave as kubeadm, kubectl and containerd make real ones behave, and the fleet that leads there.

A FakeNode has packages, files, images and kubeadm's files; the control plane's has a Kube: Nodes, manifests, tokens. It
runs the scripts of scripts/host by recognising their very texts; what it does not know fails the test.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any

import pytest

from isthmus.errors import CommandError, HostError, UnreachableError
from isthmus.host_scripts import SCRIPTS
from isthmus.model import Inventory

INPUTS = {
    "k8s-probe": {"interface", "endpoint", "paths"},
    "k8s-have": set(),
    "k8s-receive": {"path", "sha256"},
    "k8s-serve": {"address", "token", "idle_s"},
    "k8s-fetch": {"address", "port", "token"},
    "k8s-prepare": {"debs", "images", "hold", "endpoint", "address", "apt_wait", "keep"},
    "k8s-balance": {"config", "unit_file", "apt_wait"},
    "k8s-certs": set(),
    "k8s-uncerts": set(),
    "k8s-etcd": {"members"},
    "k8s-init": {"wait_s"},
    "k8s-join": {"wait_s"},
    "k8s-tokens": {"count", "ttl"},
    "k8s-forget": {"ids"},
    "k8s-kubectl": set(),
    "k8s-reset": {"only_unfinished", "wait_s"},
    "k8s-preflight": {"phase"},
    "k8s-images": {"version"},
    "k8s-sweep": set(),
    "k8s-download": {"path", "sha256", "urls", "index", "blobs", "places"},
    "k8s-upgrade": {"how", "version", "node", "wait_s"},
    "k8s-upgrade-kubelet": set(),
    "k8s-upgrade-drain": {"node", "limit_s", "only_ask"},
    "k8s-upgrade-finish": {"node", "version", "wait_s"},
    "k8s-pods": {"namespace", "port", "bytes", "targets", "dns_name", "dns_address"},
    "hush": {"pid", "token"},
}
TEXTS = {name: (SCRIPTS / f"{name}.sh").read_text(encoding="utf-8") for name in INPUTS}
ENDPOINT = "https://api.isthmus.internal:6443"
HEADER = "# isthmus-kubernetes"
CORDONED = "isthmus.internal/upgrade-cordoned"


class DiedError(Exception):
    """The workstation, or the line to the host, is gone in the middle of a script."""


class RefusalError(Exception):
    """A script ends with status 1 and these last words."""


@cache
def ca(name: str) -> str:
    """Return a CA certificate in PEM, the same for the same name."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    began = datetime(2026, 1, 1, tzinfo=timezone.utc)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(began).not_valid_after(began + timedelta(days=400))
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


@dataclass
class KubeNode:
    """A Node object."""

    address: str
    labels: dict[str, str] = field(default_factory=dict)
    taints: set[str] = field(default_factory=set)
    annotations: dict[str, str] = field(default_factory=dict)
    up: bool = True
    version: str = ""
    """Of the kubelet that speaks for it."""
    unschedulable: bool = False
    pods: bool = True
    """Whether any runs here that a drain would have to move."""


@dataclass
class Kube:
    """What etcd holds."""

    ca: str
    nodes: dict[str, KubeNode] = field(default_factory=dict)
    manifests: dict[str, str] = field(default_factory=dict)
    """`Kind namespace/name` -> the sum in it; "" for somebody else's."""
    tokens: set[str] = field(default_factory=set)
    minted: list[str] = field(default_factory=list)
    answers: bool = True
    version: str = ""
    """To which kubeadm has upgraded it."""
    namespaces: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)
    """etcd's, by name; one that has not begun yet counts as much."""
    certificates: str | None = None
    """The key of those that are handed over now."""
    keys: list[str] = field(default_factory=list)

    @property
    def networked(self) -> bool:
        return "DaemonSet kube-flannel/isthmus-flannel" in self.manifests

    def ready(self, name: str) -> bool:
        return self.networked and self.nodes[name].up


class FakeNode:
    """One host."""

    def __init__(self, name: str, address: str, fleet: FakeClusterFleet) -> None:
        self.name = name
        self.address = address
        self.fleet = fleet
        self.system = "debian 12"
        self.mesh_up = True
        self.disk_mb = 50_000
        self.nameservers = 1
        self.cgroup, self.cpus, self.memory_mb, self.clock = "cgroup2fs", 2, 4000, 1_795_416_825
        self.machine_id = _sum(name)[:32]
        self.hostname, self.swap_mb = f"{name}.example", 0
        self.preflight_says: list[str] = []
        self.packages: dict[str, str] = {}
        self.held: set[str] = set()
        self.files: dict[str, tuple[str, int]] = {}
        self.endpoint: str | None = None
        self.balancer_up = False
        self.kernel: set[str] = {"overlay"}
        self.sysctls = {"net/ipv4/ip_forward": "0"}
        self.running: set[str] = set()
        self.enabled: set[str] = set()
        self.images: set[str] = set()
        self.online = True
        """It reaches the internet."""
        self.bundle: dict[str, str] = {}
        """Files of the bundle here, with the sum they have."""
        self.kubeadm: set[str] = set()
        self.servers: list[str] = []
        self.ca = ""
        self.unfinished: str | None = None
        self.static_pods = ""
        """The version of the control plane's own pods."""
        self.kubelet_config = ""
        """The version of kubeadm that wrote the kubelet's configuration."""
        self.pod_replaced = False
        self.busy = 0
        """For so many looks somebody is at work here."""
        self.kube: Kube | None = None
        self.unreachable: str | None = None
        self.refuses: dict[str, str] = {}
        """Script -> the words with which it fails."""
        self.dies_in: str | None = None
        """`SCRIPT:POINT`, where the line is lost and whatever ran is killed."""
        self.serving: dict[str, int] = {}

    def __str__(self) -> str:
        """The machine as text: equal texts are equal hosts."""
        parts = [
            self.name,
            *sorted(
                f"{name} {version}{' held' if name in self.held else ''}" for name, version in self.packages.items()
            ),
            *sorted(f"{path} {mode:o} {_sum(text)}" for path, (text, mode) in self.files.items()),
            f"endpoint {self.endpoint}; {sorted(self.kernel)} {self.sysctls}",
            f"{sorted(self.running)} {sorted(self.enabled)}{' balances' if self.balancer_up else ''}",
            f"{sorted(self.images)} {sorted(self.bundle)} {sorted(self.kubeadm)} {self.servers} {self.unfinished}",
            f"{self.static_pods} {self.kubelet_config}",
        ]
        if self.kube:
            parts += [f"{name} {node}" for name, node in sorted(self.kube.nodes.items())]
            parts += [
                f"{sorted(self.kube.manifests.items())} {sorted(self.kube.tokens)} {sorted(self.kube.namespaces)}",
                f"{sorted(self.kube.members)} {self.kube.certificates}",
            ]
        return "\n".join(parts)

    def make_foreign(self, how: str = "worker") -> None:
        """Put it into somebody else's cluster."""
        self.kubeadm = (
            {"kubelet.conf", "pki/ca.crt"} if how == "worker" else {"admin.conf", "kubelet.conf", "pki/ca.crt"}
        )
        self.servers = ["https://10.9.9.9:6443"]
        self.ca = ca("somebody else's")

    # --- scripts ----------------------------------------------------------------------------------------------------

    def run(self, script: str, stdin: bytes) -> tuple[str, str]:
        name = next((name for name, text in TEXTS.items() if text in script), None)
        if name is None:
            pytest.fail(f"a fake node is given a script it does not know:\n{script}")
        head, _, tail = script.partition(TEXTS[name])
        words = [word for line in head.splitlines() if not line.startswith("#") for word in shlex.split(line)]
        inputs = dict(word.split("=", 1) for word in words)
        assert inputs.keys() == INPUTS[name], f"{name}.sh needs {INPUTS[name]}, got {inputs}"
        if name in self.refuses:
            raise RefusalError(self.refuses[name])
        if stdin:
            allowed = ("k8s-receive", "k8s-init", "k8s-join", "k8s-certs", "k8s-kubectl", "k8s-preflight")
            assert name in allowed, name
        function: Callable[..., str] = getattr(self, "_" + name.replace("-", "_").removeprefix("k8s_"))
        return name, function(inputs, tail, stdin)

    def _point(self, where: str) -> None:
        if self.dies_in == where:
            self.dies_in = None
            raise DiedError(where)

    def _probe(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        lines = ["@@ system", self.system, "@@ machine"]
        lines += [f"cgroup {self.cgroup}", f"cpus {self.cpus}", f"memory {self.memory_mb}"]
        lines += [f"disk {self.disk_mb}", f"clock {self.clock}", f"id {self.machine_id}"]
        lines += [f"hostname {self.hostname}", f"swap {self.swap_mb}"]
        lines += [f"nameservers {self.nameservers}", "@@ addresses"]
        lines += [f"{self.address}/32"] if self.mesh_up else []
        lines.append("@@ packages")
        lines += [
            f"{name} {version} {'hold' if name in self.held else 'install'} installed"
            for name, version in self.packages.items()
        ]
        lines.append("@@ files")
        for path in inputs["paths"].split():
            if path in self.files:
                text, mode = self.files[path]
                lines.append(f"{path} {mode:o} {_sum(text)} {text.splitlines()[0][:20]}")
        lines += ["@@ endpoint", *(self.endpoint or "").split(), "@@ kernel", *sorted(self.kernel)]
        lines += [f"{name}:{value}" for name, value in self.sysctls.items()]
        lines.append("@@ units")
        for unit in ("containerd", "kubelet"):
            active = "active" if unit in self.running else "inactive"
            lines.append(f"{unit} {active} {'enabled' if unit in self.enabled else 'disabled'}")
        lines.append("isthmus-api active enabled" if self.balancer_up else "isthmus-api inactive")
        lines += ["@@ images", *sorted(self.images), "@@ kubeadm", *sorted(self.kubeadm), "@@ servers", *self.servers]
        lines += ["@@ static pods"]
        lines += [f"registry.k8s.io/kube-apiserver:v{self.static_pods}"] if self.static_pods else []
        lines += ["@@ ca", *self.ca.splitlines()]
        lines += ["@@ busy"] if self.busy else []
        lines += ["@@ unfinished", self.unfinished] if self.unfinished else []
        self.busy = max(0, self.busy - 1)
        if "admin.conf" in self.kubeadm:
            lines += ["@@ certificates", *self.ca.splitlines(), "@@ api"]
            if self.kube and self._api() and not self.unfinished:
                lines += ["ready", "@@ nodes", *self._nodes().splitlines(), "@@ manifests"]
                lines += [f"{name} {digest}" for name, digest in self.kube.manifests.items() if digest]
                lines += ["@@ system pods", *(f"kube-proxy-{n} {n} Running true" for n in self.kube.nodes)]
        return "\n".join([*lines, "@@ end", ""])

    def _api(self) -> bool:
        """Return whether some control plane where the API's name leads from here answers."""
        addresses = (self.endpoint or "").split()
        if addresses == ["127.0.0.1"]:
            config = self.files.get("/etc/isthmus-kubernetes/haproxy.cfg", ("", 0))[0]
            addresses = re.findall(r"^    server \S+ (\S+):6443$", config, re.MULTILINE) if self.balancer_up else []
        return any(host.serves for host in self.fleet.hosts.values() if host.address in addresses)

    @property
    def serves(self) -> bool:
        """Whether an API runs here, with an etcd that has a majority."""
        if self.kube is None or not self.kube.answers or self.unreachable or self.name not in self.kube.members:
            return False
        hosts = [self.fleet.hosts[name] for name in self.kube.members]
        well = [host for host in hosts if not host.unreachable and "etcd" in host.kubeadm]
        return "etcd" in self.kubeadm and 2 * len(well) > len(hosts)

    def _nodes(self) -> str:
        assert self.kube is not None
        items = []
        for name, node in self.kube.nodes.items():
            taints = []
            for text in sorted(node.taints):
                key_value, _, effect = text.rpartition(":")
                key, _, value = key_value.partition("=")
                taints.append({"key": key, "effect": effect, **({"value": value} if value else {})})
            cordon = {"unschedulable": True} if node.unschedulable else {}
            items.append(
                {
                    "metadata": {"name": name, "labels": node.labels, "annotations": node.annotations},
                    "spec": {**({"taints": taints} if taints else {}), **cordon},
                    "status": {
                        "addresses": [{"type": "InternalIP", "address": node.address}],
                        "conditions": [{"type": "Ready", "status": str(self.kube.ready(name))}],
                        "nodeInfo": {
                            "kubeletVersion": f"v{node.version}",
                            "containerRuntimeVersion": "containerd://2.2.7",
                        },
                    },
                }
            )
        return json.dumps({"items": items}, indent=1)

    def _have(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        wanted = [line.split() for line in tail.splitlines()]
        assert all(words[0] == "file" for words in wanted)
        return "".join(f"{path}\n" for _, path, digest in wanted if self.bundle.get(path) == digest)

    def _receive(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        self._point("receive:begun")
        digest = hashlib.sha256(stdin).hexdigest()
        if digest != inputs["sha256"]:
            raise RefusalError(f"{inputs['path']} arrived with another sum than it left with")
        self.bundle[inputs["path"]] = digest
        return ""

    def _images(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        assert self.packages["kubeadm"].startswith(f"{inputs['version']}-")
        known = (name for names in self.fleet.references.values() for name in names)
        return "".join(f"{name}\n" for name in known if name.startswith("registry.k8s.io/") and "/e2e" not in name)

    def _download(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        self._point("download:begun")
        if not self.online:
            raise RefusalError("https://registry.k8s.io: Could not resolve host")
        digest = self.fleet.download(inputs)
        self.bundle[inputs["path"]] = digest
        return f"{digest}\n"

    def _sweep(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        self.bundle.clear()
        return ""

    def _serve(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        assert inputs["address"] == self.address
        self.serving[inputs["token"]] = 40000
        return "4711 40000\n"

    def _hush(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        del self.serving[inputs["token"]]
        return ""

    def _fetch(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        seed = next(host for host in self.fleet.hosts.values() if host.address == inputs["address"])
        assert seed.serving[inputs["token"]] == int(inputs["port"])
        for _, path, digest in (line.split() for line in tail.splitlines()):
            if seed.bundle.get(path) != digest:
                raise RefusalError(f"{path} did not arrive whole from {seed.address}")
            self.bundle[path] = digest
            self._point("fetch:one")
        return ""

    def _prepare(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        rest = tail
        while match := re.match(r"stage (\S+) ([0-7]+) <<'\.'\n([A-Za-z0-9+/=\n]*)\.\n", rest):
            self.files[match[1]] = (base64.b64decode(match[3]).decode(), int(match[2], 8))
            rest = rest[match.end() :]
        assert rest == "prepare\n", rest
        self._point("prepare:files")
        for path in inputs["debs"].split():
            assert path in self.bundle, f"{path} was never sent"
            name, version, _ = path.removeprefix("debs/").split("_")
            self.packages[name] = version
            del self.bundle[path]
        self._point("prepare:packages")
        assert set(inputs["hold"].split()) <= self.packages.keys()
        self.held |= set(inputs["hold"].split())
        self.endpoint = inputs["address"]
        self.kernel.add("br_netfilter")
        text, _ = self.files["/etc/sysctl.d/90-isthmus-kubernetes.conf"]
        for line in text.splitlines():
            if "=" in line:
                name, _, value = line.partition(" = ")
                self.sysctls[name.replace(".", "/").replace("call/", "call-")] = value
        self.running.add("containerd")
        self.enabled |= {"containerd", "kubelet"}
        for path in inputs["images"].split():
            assert path in self.bundle, f"{path} was never sent"
            self.images |= set(self.fleet.references[path])
            del self.bundle[path]
            self._point("prepare:image")
        if inputs["keep"] == "no":
            self.bundle.clear()
        return ""

    def _preflight(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        held = any(host.kube for host in self.fleet.hosts.values())
        assert inputs["phase"] == ("init" if self.name == "n1" and not held else "join")
        assert f"kind: {inputs['phase'].title()}Configuration\n" in stdin.decode()
        return "".join(f"{line}\n" for line in self.preflight_says)

    def _check(self) -> None:
        """Complain as kubeadm does."""
        if not {"kubeadm", "kubelet", "containerd.io"} <= self.packages.keys():
            raise RefusalError("kubeadm: not found")
        errors = []
        if "containerd" not in self.running:
            errors.append("[ERROR CRI]: container runtime is not running")
        if self.sysctls.get("net/ipv4/ip_forward") != "1":
            errors.append("[ERROR FileContent--proc-sys-net-ipv4-ip_forward]: contents are not set to 1")
        if self.kubeadm:
            errors += [f"[ERROR FileAvailable--etc-kubernetes-{name}]: already exists" for name in sorted(self.kubeadm)]
        if errors:
            raise RefusalError("; ".join(errors))

    def _unfinished(self) -> None:
        if self.unfinished:
            raise RefusalError(f"kubeadm {self.unfinished} was begun by another run and not finished")

    def _init(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        config = stdin.decode()
        assert tail == ""
        self._unfinished()
        if "admin.conf" in self.kubeadm:
            return ""
        for kind in ("InitConfiguration", "ClusterConfiguration", "KubeletConfiguration", "KubeProxyConfiguration"):
            assert f"kind: {kind}\n" in config, kind
        assert f'advertiseAddress: "{self.address}"\n' in config
        self._check()
        self.unfinished = "init"
        self._point("init:begun")
        self.kubeadm = {"pki/ca.crt", "manifests/kube-apiserver.yaml", "etcd"}
        self.ca = ca("ours")
        self._point("init:half")
        self.kubeadm |= {"admin.conf", "kubelet.conf"}
        self.servers = [ENDPOINT]
        assert not any(host.kube for host in self.fleet.hosts.values()), "a second cluster is made beside the first"
        self.static_pods = self._version("kubeadm")
        self.kube = Kube(self.ca, members={self.name})
        self.running.add("kubelet")
        self._register(self.kube, config)
        self._point("init:done")
        self.unfinished = None
        return ""

    def _register(self, kube: Kube, config: str) -> None:
        name = re.search(r'^  name: "(\S+)"$', config, re.MULTILINE)
        assert name is not None
        assert name[1] == self.name
        taints = re.findall(r'  - key: "(\S+)"\n(?:    value: "(\S*)"\n)?    effect: (\S+)\n', config)
        kube.nodes[self.name] = KubeNode(
            self.address, {"kubernetes.io/hostname": self.name}, {f"{k}{'=' if v else ''}{v}:{e}" for k, v, e in taints}
        )
        if kube is self.kube:
            kube.nodes[self.name].labels["node-role.kubernetes.io/control-plane"] = ""
        kube.nodes[self.name].version = self._version("kubelet")
        self.kubelet_config = self._version("kubeadm")
        kube.nodes[self.name].annotations["flannel.alpha.coreos.com/public-ip"] = self.address

    def _join(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        config = stdin.decode()
        self._unfinished()
        if "kubelet.conf" in self.kubeadm:
            return ""
        kube = next(host.kube for host in self.fleet.hosts.values() if host.kube)
        token = re.search(r'^    token: "(\S+)"$', config, re.MULTILINE)
        assert token is not None
        key = re.search(r'^  certificateKey: "([0-9a-f]{64})"$', config, re.MULTILINE)
        self._check()
        if key and self.balancer_up:
            raise RefusalError("[ERROR Port-6443]: Port 6443 is in use")
        self.unfinished = "join"
        self._point("join:begun")
        if not self._api():
            raise RefusalError("error: dial tcp: lookup api.isthmus.internal: no such host")
        if token[1] not in kube.tokens:
            raise RefusalError("error: couldn't validate the identity of the API Server: invalid token")
        if self.name in kube.nodes:
            raise RefusalError(
                f'error: a Node with name "{self.name}" and status "Ready" already exists in the cluster'
            )
        if key:
            self._join_etcd(kube, key[1], config)
        else:
            self.kubeadm = {"bootstrap-kubelet.conf", "pki/ca.crt"}
            self.ca = kube.ca
            self._point("join:half")
            self.kubeadm = {"kubelet.conf", "pki/ca.crt"}
        self.servers = [ENDPOINT, f"https://{self.address}:6443"] if key else [ENDPOINT]
        self.running.add("kubelet")
        self._register(kube, config)
        self._point("join:done")
        self.unfinished = None
        return ""

    def _join_etcd(self, kube: Kube, key: str, config: str) -> None:
        """Become a control plane as kubeadm makes one: certificates, then the kubelet, then etcd."""
        if key != kube.certificates:
            raise RefusalError('error: Secret "kubeadm-certs" was not found, or is of another key')
        assert f'    advertiseAddress: "{self.address}"\n' in config
        self.kubeadm = {"pki/ca.crt", "manifests/kube-apiserver.yaml"}
        self.ca = kube.ca
        self._point("join:half")
        if self.name in kube.members:
            raise RefusalError("error: etcd has a member of this address already")
        well = all("etcd" in self.fleet.hosts[name].kubeadm for name in kube.members)
        assert well, "a member is added while another one is gone"
        self.kubeadm |= {"admin.conf", "kubelet.conf", "etcd"}
        kube.members.add(self.name)
        self.kube = kube
        self.static_pods = self._version("kubeadm")
        self._point("join:member")

    def _certs(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        assert self.kube is not None
        assert tail == ""
        key = re.search(r'^certificateKey: "([0-9a-f]{64})"$', stdin.decode(), re.MULTILINE)
        assert key is not None
        # kubeadm asks the API at this address, whatever its kubeconfig says.
        assert f'  advertiseAddress: "{self.address}"\n' in stdin.decode()
        assert "kind: ClusterConfiguration\n" in stdin.decode(), "kubeadm would ask the internet for its version"
        self.kube.certificates = key[1]
        self.kube.keys.append(key[1])
        self._point("certs:there")
        return ""

    def _uncerts(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        assert self.kube is not None
        self.kube.certificates = None
        return ""

    def _etcd(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        assert self.kube is not None
        if not self._api():
            raise RefusalError("etcd cannot be asked: context deadline exceeded")
        for member in inputs["members"].split():
            name, _, address = member.partition("=")
            assert self.fleet.hosts[name].address == address
            if name in self.kube.members:
                staying = self.kube.members - {name}
                well = [one for one in staying if self.fleet.hosts[one].unreachable is None]
                if 2 * len(well) <= len(staying):
                    raise RefusalError(f"etcd keeps {name}: Error: etcdserver: unhealthy cluster")
                self.kube.members.discard(name)
        self._point("etcd:left")
        return ""

    def _balance(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        rest = tail
        while match := re.match(r"stage (\S+) ([0-7]+) <<'\.'\n([A-Za-z0-9+/=\n]*)\.\n", rest):
            self.files[match[1]] = (base64.b64decode(match[3]).decode(), int(match[2], 8))
            rest = rest[match.end() :]
        paths = (inputs["config"], inputs["unit_file"])
        if rest == "balance\n":
            assert all(path in self.files for path in paths)
            self._point("balance:files")
            assert "etcd" not in self.kubeadm, "port 6443 is the API's own here"
            self.balancer_up = True
        else:
            assert rest == "unbalance\n", rest
            self.balancer_up = False
            for path in paths:
                self.files.pop(path, None)
        return ""

    def _tokens(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        assert inputs["ttl"] == "10m0s"
        assert self.kube is not None
        made = [f"{number:06x}.{'0123456789abcdef'}" for number in range(len(self.kube.minted), 99)][
            : int(inputs["count"])
        ]
        self.kube.minted += made
        self.kube.tokens |= set(made)
        self._point("tokens:made")
        return "".join(f"{token}\n" for token in made)

    def _forget(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        assert self.kube is not None
        self.kube.tokens = {token for token in self.kube.tokens if token.partition(".")[0] not in inputs["ids"].split()}
        return ""

    def _reset(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        if inputs["only_unfinished"] == "yes" and not self.unfinished:
            return ""
        self.unfinished = "reset"
        self._point("reset:begun")
        kube = next((host.kube for host in self.fleet.hosts.values() if host.kube), None)
        if kube and self.name in kube.nodes:
            kube.nodes[self.name].up = False
        self.kubeadm, self.servers, self.ca, self.kube, self.unfinished = set(), [], "", None, None
        self.static_pods = self.kubelet_config = ""
        self.running.discard("kubelet")
        return ""

    def _version(self, package: str) -> str:
        return self.packages[package].partition("-")[0]

    # --- upgrades ---------------------------------------------------------------------------------------------------

    @property
    def _cluster(self) -> Kube:
        return next(host.kube for host in self.fleet.hosts.values() if host.kube)

    def _upgrade(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        """As kubeadm does it: by the version it is itself, never over a minor, workers after the control plane."""
        target, kube = self._version("kubeadm"), self._cluster
        assert inputs["version"] == target, "kubeadm itself is upgraded first"
        self._point("upgrade:begun")
        if inputs["how"] == "apply":
            assert self.kube, "apply is for the first control plane"
            assert abs(_minor(target) - _minor(self.static_pods)) <= 1, "kubeadm skips no minor"
            for host in self.fleet.hosts.values():  # the pod of its health check may come to any node
                if host.name in kube.nodes and not kube.nodes[host.name].unschedulable:
                    assert self.fleet.pause in host.images, f"{host.name} has no {self.fleet.pause}"
            self.static_pods = target
            kube.version = target
        else:
            assert kube.version == target, "the control plane is upgraded first"
            if self.static_pods:
                self.static_pods = target
        self.kubelet_config = target
        self._point("upgrade:half")
        kube.nodes[inputs["node"]].annotations["isthmus.internal/upgrade-kubeadm"] = target
        self._point("upgrade:done")
        return ""

    def _upgrade_kubelet(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        node = self._cluster.nodes[self.name]
        assert node.unschedulable, "a kubelet of another minor comes to a node without pods"
        assert not node.pods
        assert self.kubelet_config == self._version("kubelet"), "kubeadm upgrade comes before the kubelet"
        self._point("kubelet:begun")
        node.version = self._version("kubelet")
        node.up = True
        self._point("kubelet:done")
        return ""

    def _upgrade_drain(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        node = self._cluster.nodes[inputs["node"]]
        bare = self.fleet.bare_pods.get(inputs["node"])
        if bare:
            raise RefusalError(f"cannot delete Pods that declare no controller: {bare}")
        if inputs["only_ask"] == "yes":
            return ""
        others = [n for n, one in self._cluster.nodes.items() if CORDONED in one.annotations and one is not node]
        if others:
            raise RefusalError(f"another run upgrades {others[0]} just now, or has ended there: run it again later")
        ours = not node.unschedulable or CORDONED in node.annotations
        if ours:
            node.unschedulable = True
            node.annotations[CORDONED] = "yes"
        self.fleet.cordoned.append((inputs["node"], [n for n, one in self._cluster.nodes.items() if one.unschedulable]))
        self._point("drain:cordoned")
        if stuck := self.fleet.stuck_pods.get(inputs["node"]):
            if ours:
                node.unschedulable = False
                del node.annotations[CORDONED]
            raise RefusalError(f"these pods did not leave within {inputs['limit_s']} s: {stuck}")
        node.pods = False
        self._point("drain:done")
        return ""

    def _upgrade_finish(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        kube = self._cluster
        node = kube.nodes[inputs["node"]]
        self._point("finish:begun")
        if node.version != inputs["version"] or not kube.ready(inputs["node"]):
            raise RefusalError(f"not well within {inputs['wait_s']} s: runs v{node.version}")
        node.annotations.pop("isthmus.internal/upgrade-kubeadm", None)
        if node.annotations.pop(CORDONED, None):
            node.unschedulable = False
            node.pods = True
        self._point("finish:done")
        return ""

    # --- kubectl ----------------------------------------------------------------------------------------------------

    def _kubectl(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        if "admin.conf" not in self.kubeadm or self.kube is None:
            raise RefusalError("there is no cluster on this host")
        if not self._api():
            raise RefusalError("The connection to the server was refused")
        output = ""
        for line in tail.splitlines():
            if line == "cat $KUBECONFIG":
                output += f"server: {ENDPOINT}\nclient-key-data: SECRET\n"
            elif line == "kubectl apply -f - >/dev/null":
                self._apply(self.kube, stdin.decode())
            else:
                words = shlex.split(line)
                assert words[0] == "kubectl", line
                assert words[-1] == "</dev/null", line
                output += self._command(self.kube, words[1:-1])
                self._point("kubectl:one")
        return output

    def _apply(self, kube: Kube, text: str) -> None:
        self._point("apply:begun")
        for document in text.split("---\n"):
            kind = re.search(r"^kind: (\S+)$", document, re.MULTILINE)
            name = re.search(r'^  name: "?([^"\s]+)"?$', document, re.MULTILINE)
            namespace = re.search(r'^  namespace: "?([^"\s]+)"?$', document, re.MULTILINE)
            digest = re.search(r'isthmus.internal/sha256: "(\w+)"', document)
            assert kind is not None
            assert name is not None
            if kind[1] == "Namespace":
                kube.namespaces.add(name[1])
            elif namespace:
                assert namespace[1] in kube.namespaces | {"default"}, f"there is no namespace {namespace[1]}"
                kube.manifests[f"{kind[1]} {namespace[1]}/{name[1]}"] = digest[1] if digest else ""

    def _command(self, kube: Kube, words: list[str]) -> str:
        verb, what = words[0], words[1]
        if verb in ("label", "taint", "annotate") and what == "node":
            assert "--overwrite" in words
            changes = [word for word in words[3:] if not word.startswith("--")]
            {"label": _label, "taint": _taint, "annotate": _annotate}[verb](kube.nodes[words[2]], changes)
        elif verb == "delete":
            self._delete(kube, what, words[2:])
        elif verb == "wait":
            if self.pod_replaced:
                self.pod_replaced = False
                raise RefusalError('Error from server (NotFound): pods "isthmus-flannel-x" not found')
            field = "spec.nodeName="
            nodes = [word.removeprefix("node/") for word in words if word.startswith("node/")]
            for node in [*nodes, *(word.removeprefix(field) for word in words if word.startswith(field))]:
                if node not in kube.nodes or not kube.ready(node):
                    raise RefusalError(f"error: timed out waiting for the condition on nodes/{node}")
        elif "rollout" in words:
            _roll_out(kube)
        elif verb == "get":
            return self._get(kube, what, words[2:])
        elif verb in ("drain", "uncordon"):
            kube.nodes[what].unschedulable = verb == "drain"
        else:
            pytest.fail(f"a fake kubectl does not know: {words}")
        return ""

    def _delete(self, kube: Kube, what: str, words: list[str]) -> None:
        kinds = {"service": "Service", "endpointslice": "EndpointSlice", "daemonset": "DaemonSet"}
        if what == "node":
            kube.nodes.pop(words[0], None)
        elif what == "namespace":
            kube.namespaces.discard(words[0])
            kube.manifests = {name: text for name, text in kube.manifests.items() if f" {words[0]}/" not in name}
        elif what in kinds:
            assert words[0] == "-n"
            kube.manifests.pop(f"{kinds[what]} {words[1]}/{words[2]}", None)
        else:
            assert what == "pods", what

    def _get(self, kube: Kube, what: str, words: list[str]) -> str:
        if (what, *words)[:2] == ("--raw", "/readyz"):
            return "ok"
        if what == "service":
            name = f"Service {words[1]}/{words[2]}"
            there = name in kube.manifests
            return f"{words[2]} {'isthmus' if kube.manifests[name] else ''}" if there else ""
        if what == "pods":
            return "".join(f"{name} check-{name} 10.244.{number}.9\n" for number, name in enumerate(kube.nodes))
        assert what == "nodes", what
        return "".join(f"{name}\n" for name in kube.nodes)

    def _pods(self, inputs: dict[str, str], tail: str, stdin: bytes) -> str:
        *questions, last = tail.splitlines()
        assert last == "wait"
        targets = [target.split("=")[0] for target in inputs["targets"].split()]
        asking = [line.split()[1] for line in questions]
        return "".join(
            f"{node} {target} {self.fleet.unheard.get((node, target), 'ok')}\n"
            for node in asking
            for target in [*targets, "dns"]
        )


def _roll_out(kube: Kube) -> None:
    if not all(map(kube.ready, kube.nodes)):
        raise RefusalError("error: timed out waiting for the condition")


def _minor(version: str) -> int:
    return int(version.split(".")[1])


def _label(node: KubeNode, changes: list[str]) -> None:
    for change in changes:
        key, equals, value = change.partition("=")
        if equals:
            node.labels[key] = value
        else:
            node.labels.pop(key.removesuffix("-"))


def _annotate(node: KubeNode, changes: list[str]) -> None:
    node.annotations.update(dict(change.split("=", 1) for change in changes))


def _taint(node: KubeNode, changes: list[str]) -> None:
    def name(taint: str) -> tuple[str, str]:
        key_value, _, effect = taint.rpartition(":")
        return key_value.partition("=")[0], effect

    for change in changes:
        node.taints = {taint for taint in node.taints if name(taint) != name(change.removesuffix("-"))}
        if not change.endswith("-"):
            node.taints.add(change)


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- the fleet ----------------------------------------------------------------------------------------------------


class FakeNodeRemote:
    """What isthmus.remote.Remote is to a real host."""

    def __init__(self, host: FakeNode, fleet: FakeClusterFleet) -> None:
        self.name = host.name
        self._host = host
        self._fleet = fleet

    def run(self, script: str, *, timeout: float = 60, stdin: bytes = b"") -> str:
        assert timeout > 0
        if self._host.unreachable:
            raise UnreachableError(self.name, self._host.unreachable)
        self._fleet.scripts.append(script)
        title = script.splitlines()[0].lstrip("# ")
        try:
            name, output = self._host.run(script, stdin)
        except RefusalError as error:
            raise CommandError(self.name, f"{title}: status 1: {error}", 1) from None
        self._fleet.calls.append((self.name, name))
        return output


def _no_internet(inputs: dict[str, str]) -> str:
    raise RefusalError("no internet")


class FakeClusterFleet:
    """What isthmus.remote.Fleet is to real hosts."""

    def __init__(self, inventory: Inventory, references: dict[str, tuple[str, ...]]) -> None:
        self.inventory = inventory
        self.references = references
        """Which images are in which archive."""
        self.hosts = {name: FakeNode(name, str(host.address), self) for name, host in inventory.hosts.items()}
        self.calls: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self.unheard: dict[tuple[str, str], str] = {}
        self.download: Callable[[dict[str, str]], str] = _no_internet
        """What k8s-download does on a host that is online; returns the sum."""
        self.pause = "registry.k8s.io/pause:3.10.2"
        """The image of kubeadm's health check."""
        self.bare_pods: dict[str, str] = {}
        self.stuck_pods: dict[str, str] = {}
        """Node -> pods that do not leave it."""
        self.cordoned: list[tuple[str, list[str]]] = []
        """What was drained, and which nodes were cordoned then."""

    def __getitem__(self, name: str) -> FakeNode:
        return self.hosts[name]

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.hosts.values()))

    def __enter__(self) -> FakeClusterFleet:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ran(self, *scripts: str) -> list[str]:
        """Return the hosts where one of these scripts was run, in order."""
        return [host for host, script in self.calls if script in scripts]

    @property
    def changing(self) -> list[tuple[str, str]]:
        """What was run that may change something."""
        return [call for call in self.calls if call[1] not in ("k8s-probe", "k8s-have", "k8s-preflight", "k8s-images")]

    def each(
        self, hosts: Iterable[str], function: Callable[[Any], Any], on_done: Callable[[str, Any], None] | None = None
    ) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for name in dict.fromkeys(hosts):
            try:
                results[name] = function(FakeNodeRemote(self.hosts[name], self))
            except HostError as error:
                results[name] = error
            if on_done:
                on_done(name, results[name])
        return results
