"""Do pods reach each other? One on every node asks one on every other, over TCP at full packet size, and the DNS."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from isthmus.cluster.survey import apply, kubectl, load_bundle, on_plane
from isthmus.errors import CommandError, HostError, InventoryError, Problem
from isthmus.host_scripts import host_script
from isthmus.kubernetes.cluster import Cluster, cluster_of
from isthmus.kubernetes.configs import CHECK_BYTES, CHECK_NAMESPACE, CHECK_PORT, check_manifest
from isthmus.model import Inventory
from isthmus.remote import Fleet, Remote
from isthmus.survey import Progress, silent

GONE_S = 120
READY_S = 120
ASK_S = 300
DNS_NAME = "kubernetes.default.svc.cluster.local"
DNS = "dns"


@dataclass(frozen=True)
class PodPair:
    """One ordered pair of nodes, or a node and the DNS; `fault` is what came instead of an answer."""

    source: str
    destination: str
    crossed: bool
    """The two are in different sites."""
    fault: str = ""

    @property
    def whole(self) -> bool:
        """Whether everything arrived."""
        return not self.fault


@dataclass(frozen=True)
class PodReport:
    """Every ordered pair, a pod and itself included, and the DNS from every node."""

    pairs: tuple[PodPair, ...]
    failures: Mapping[str, HostError]

    @property
    def broken(self) -> tuple[PodPair, ...]:
        """The pairs that are not whole."""
        return tuple(pair for pair in self.pairs if not pair.whole)


def check_pods(inventory: Inventory, fleet: Fleet, progress: Progress = silent) -> PodReport:
    """Put a pod on every node, have them ask each other, and take them off again, whatever happens."""
    cluster = cluster_of(inventory)
    bundle = load_bundle(inventory, cluster)
    if not bundle.check:
        problem = Problem("bundle.check", "nothing", "the image for the pods of check.pods")
        raise InventoryError("bundle.toml", (problem,))

    def run(remote: Remote) -> str:
        try:
            # Those of an earlier check may be on their way out: what is put beside them would go with them.
            gone = ("delete", "namespace", CHECK_NAMESPACE, "--ignore-not-found", f"--timeout={GONE_S}s")
            kubectl(remote, gone, timeout=GONE_S + 60)
            apply(remote, check_manifest(bundle.check))
            progress(remote.name, "waiting for a pod on every node")
            return _ask(remote, cluster)
        finally:
            with suppress(HostError):
                kubectl(remote, ("delete", "namespace", CHECK_NAMESPACE, "--ignore-not-found", "--wait=false"))

    try:
        answer = on_plane(fleet, cluster, run, seen=False)
    except HostError as error:
        return PodReport((), {error.host: error})
    return PodReport(tuple(_read(cluster, answer)), {})


def _ask(remote: Remote, cluster: Cluster) -> str:
    waited = ("-n", CHECK_NAMESPACE, "rollout", "status", "daemonset/check", f"--timeout={READY_S}s")
    listed = r'jsonpath={range .items[*]}{.spec.nodeName} {.metadata.name} {.status.podIP}{"\n"}{end}'
    words = ("get", "pods", "-n", CHECK_NAMESPACE, "-l", "app=check", "-o", listed)
    kubectl(remote, waited, timeout=READY_S + 60)
    pods = [line.split() for line in kubectl(remote, words).splitlines()]
    pods = [pod for pod in pods if len(pod) == 3]
    if not pods:
        raise CommandError(remote.name, "no pod of check.pods runs anywhere", None)
    script = host_script(
        "k8s-pods",
        namespace=CHECK_NAMESPACE,
        port=CHECK_PORT,
        bytes=CHECK_BYTES,
        targets=" ".join(f"{node}={address}" for node, _, address in pods),
        dns_name=DNS_NAME,
        dns_address=str(cluster.service_subnet[1]),
    )
    questions = "".join(f"ask {node} {pod}\n" for node, pod, _ in pods)
    return remote.run(f"{script}{questions}wait\n", timeout=ASK_S)


def _read(cluster: Cluster, answer: str) -> list[PodPair]:
    """Return what every node of the cluster has found; a pair that nobody spoke of is broken, too."""
    said = {}
    for line in answer.splitlines():
        source, _, rest = line.partition(" ")
        destination, _, result = rest.partition(" ")
        said[source, destination] = "" if result == "ok" else result or "no answer"
    sites = {name: node.site for name, node in cluster.nodes.items()}
    pairs = []
    for source in cluster.nodes:
        for destination in (*cluster.nodes, DNS):
            crossed = destination != DNS and sites[source] != sites[destination]
            pairs.append(PodPair(source, destination, crossed, said.get((source, destination), "no pod was asked")))
    return pairs
