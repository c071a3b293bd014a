"""(wanted, found) -> what is left of an upgrade, node by node and in order, or why there is none to be had.

The control planes come first, then the workers, one at a time, each by kubeadm's documented steps. What is done is not
listed, so an upgrade that was interrupted goes on where it was, and a second one finds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from isthmus.kubernetes.bundle import Bundle
from isthmus.kubernetes.cluster import Cluster
from isthmus.kubernetes.configs import CONTAINERD, sum_of
from isthmus.kubernetes.facts import ApiFacts, NodeFacts, NodeObject
from isthmus.kubernetes.plan import (
    Wanted,
    against_host,
    differing_files,
    missing_debs,
    missing_images,
    wanted_of,
)
from isthmus.kubernetes.state import JOINED, Found, State, speaker, states
from isthmus.kubernetes.versions import minors_between, next_minor, numbers, upstream

KUBELET_SKEW = 3
"""By so many minors a kubelet may be older than the API, by Kubernetes' version skew policy."""


class Act(Enum):
    """One step of a node's upgrade, in its order."""

    IMAGES = "import images"
    KUBEADM = "install kubeadm"
    UPGRADE = "kubeadm upgrade"
    DRAIN = "drain"
    INSTALL = "install"
    RESTART = "restart the kubelet"
    FINISH = "wait until it is ready"


@dataclass(frozen=True)
class Step:
    """What is left to do on a node: who does it, and with what."""

    act: Act
    what: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.act.value}{': ' if self.what else ''}{', '.join(self.what)}"


@dataclass(frozen=True)
class NodeUpgrade:
    """The steps that are left on one node, from the version it runs."""

    host: str
    runs: str
    steps: tuple[Step, ...]

    def has(self, act: Act) -> bool:
        """Return whether this step is left."""
        return any(step.act is act for step in self.steps)


@dataclass(frozen=True)
class UpgradePlan:
    """The nodes with something left, in the order in which they are upgraded; with `against` nothing is done."""

    target: str
    nodes: tuple[NodeUpgrade, ...] = ()
    manifests: tuple[str, ...] = ()
    """Manifests of ours that the cluster has otherwise; applied when all nodes are upgraded."""
    against: tuple[tuple[str, str], ...] = ()
    """(host, why)."""
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.nodes or self.manifests)


def plan_upgrade(cluster: Cluster, bundle: Bundle, facts: Mapping[str, NodeFacts]) -> UpgradePlan:
    """Return what is left to do until every node of the cluster runs what the bundle has."""
    target = bundle.kubernetes
    found = states(cluster, facts)
    plane = speaker(cluster, facts)
    if plane is None:
        return UpgradePlan(target)
    if against := _against_plane(plane, found[plane.host]):
        return UpgradePlan(target, against=((plane.host, against),))
    api = plane.api
    assert api is not None
    wanted = wanted_of(cluster, bundle)
    if refused := tuple(_refusals(wanted, facts, found, api)):
        return UpgradePlan(target, against=refused)
    nodes = []
    planes = [node.name for node in cluster.control_planes if node.name in found and found[node.name].state in JOINED]
    for name in _order(cluster, api):
        if name in facts and found[name].state in JOINED:
            known = api.nodes[name]
            if left := tuple(_steps(wanted[name], facts[name], known, first=name == planes[0])):
                nodes.append(NodeUpgrade(name, known.version, left))
    manifests = wanted[plane.host].manifests
    return UpgradePlan(
        target,
        tuple(nodes),
        tuple(name for name, text in manifests.items() if api.manifests.get(name) != sum_of(text)),
        notes=tuple(_notes(cluster, target, found, api)),
    )


def _order(cluster: Cluster, api: ApiFacts) -> list[str]:
    """Return the nodes, control planes first; what was cordoned by a run that ended comes before what was not begun."""

    def place(name: str) -> tuple[bool, bool]:
        return not cluster.nodes[name].control_plane, not api.nodes[name].cordoned_by_us

    return sorted((name for name in cluster.nodes if name in api.nodes), key=place)


# --- the steps ----------------------------------------------------------------------------------------------------


def _steps(wanted: Wanted, facts: NodeFacts, known: NodeObject, *, first: bool) -> Iterator[Step]:
    target = wanted.bundle.kubernetes
    debs = missing_debs(wanted, facts)
    packages = {deb.package: deb for deb in debs}
    if images := missing_images(wanted, facts):
        yield Step(Act.IMAGES, tuple(image.references[0] for image in images))
    if "kubeadm" in packages:
        yield Step(Act.KUBEADM, (packages.pop("kubeadm").version,))
    behind = wanted.node.control_plane and facts.api_version != target
    kubeadm = ("kubelet" in packages or behind) and known.kubeadm_upgraded != target
    if kubeadm:
        yield Step(Act.UPGRADE, (f"apply v{target}" if first else "node",))
    files = differing_files(wanted.files, facts)
    restart = "kubelet" in packages or known.version != target
    # What disturbs no pod is left to k8s.bootstrap, which does it without a drain.
    disturbing = bool(packages) or CONTAINERD in files
    if disturbing or restart:
        yield Step(Act.DRAIN)
    if disturbing:
        yield Step(Act.INSTALL, (*(f"{deb.package} {deb.version}" for deb in packages.values()), *files))
    if restart:
        yield Step(Act.RESTART, (target,))
    if kubeadm or disturbing or restart or known.under_upgrade:
        stays = known.unschedulable and not known.cordoned_by_us
        yield Step(Act.FINISH, ("it stays cordoned, as it was",) if stays else ("uncordon",))


# --- refusals -----------------------------------------------------------------------------------------------------


def _against_plane(facts: NodeFacts, found: Found) -> str:
    """Return why the cluster cannot be asked what it is; nothing when it can."""
    if found.state is State.CLEAN:
        return "holds no cluster: `inv k8s.bootstrap` makes one, in the bundle's version"
    if found.state is State.SILENT and facts.certificates and facts.certificates[0].timestamp() < facts.clock:
        ended = facts.certificates[0].date().isoformat()
        return f"its API does not answer, and its certificates ended on {ended}: `kubeadm certs renew all` there first"
    if found.state not in JOINED:
        return f"{found.state.value}: {found.evidence}"
    return "" if facts.api else "its API does not answer"


def _refusals(
    wanted: Mapping[str, Wanted], facts: Mapping[str, NodeFacts], found: Mapping[str, Found], api: ApiFacts
) -> Iterator[tuple[str, str]]:
    """Yield (host, why) for every node that an upgrade must not begin with."""
    for name, node in api.nodes.items():
        if name not in wanted:
            if reason := _too_old(node.version, next(iter(wanted.values())).bundle.kubernetes):
                yield name, f"is not in hosts.toml, and {reason}"
        elif name in facts and found[name].state not in JOINED:
            state = found[name]
            way = "" if state.state is State.FOREIGN else f"; `inv k8s.remove {name}` first, it joins again afterwards"
            yield name, f"{state.state.value}: {state.evidence}{way}"
        elif name in facts:
            if not node.ready and not node.under_upgrade:
                yield name, "its Node is not Ready: an upgrade begins with all of them well"
            yield from ((name, reason) for reason in against_host(wanted[name], facts[name]))
            yield from ((name, reason) for reason in _against_versions(wanted[name], facts[name], node))
    yield from _mixed(wanted, facts, api)


def _against_versions(wanted: Wanted, facts: NodeFacts, node: NodeObject) -> Iterator[str]:
    target = wanted.bundle.kubernetes
    package = facts.packages.get("kubelet")
    # The newest tells whether it is to go back, the oldest whether it would skip a minor.
    kubelets = [version for version in (node.version, upstream(package.version) if package else "") if version]
    versions = [*kubelets, *([facts.api_version] if facts.api_version else [])]
    newest = max(versions, key=numbers, default=target)
    if numbers(newest) > numbers(target):
        yield f"runs {newest}, the bundle has {target}: Kubernetes does not go back"
        return
    if wanted.node.control_plane and facts.api_version and minors_between(facts.api_version, target) > 1:
        step = next_minor(facts.api_version)
        yield f"runs {facts.api_version}, the bundle has {target}: one minor at a time, {step} comes first"
    elif reason := _too_old(min(kubelets, key=numbers, default=target), target):
        yield reason


def _too_old(kubelet: str, target: str) -> str:
    if minors_between(kubelet, target) <= KUBELET_SKEW:
        return ""
    return f"its kubelet {kubelet} would be too old for an API of {target}: {KUBELET_SKEW} minors at most"


def _mixed(wanted: Mapping[str, Wanted], facts: Mapping[str, NodeFacts], api: ApiFacts) -> Iterator[tuple[str, str]]:
    """Yield what no upgrade leaves behind: control planes more than a minor apart, a worker newer than the API."""
    planes = {name: facts[name].api_version for name in facts if wanted[name].node.control_plane}
    planes = {name: version for name, version in planes.items() if version}
    if not planes:
        return
    oldest = min(planes, key=lambda name: numbers(planes[name]))
    for name, version in planes.items():
        if minors_between(planes[oldest], version) > 1:
            yield name, f"its API runs {version}, that of {oldest} {planes[oldest]}: more than one minor apart"
    for name, node in api.nodes.items():
        worker = name in wanted and name not in planes and bool(node.version)
        if worker and numbers(node.version)[:2] > numbers(planes[oldest])[:2]:
            yield name, f"its kubelet {node.version} is newer than the API, which runs {planes[oldest]} on {oldest}"


def _notes(cluster: Cluster, target: str, found: Mapping[str, Found], api: ApiFacts) -> Iterator[str]:
    for name, node in api.nodes.items():
        if name not in cluster.nodes and node.version != target:
            yield f"{name} is a node and not in hosts.toml: it is left at {node.version}"
    for name, state in found.items():
        if name not in api.nodes:
            yield f"{name} is no node of the cluster ({state.state.value}): `inv k8s.bootstrap` makes it one afterwards"
