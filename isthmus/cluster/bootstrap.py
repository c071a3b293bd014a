"""From a mesh that is up to a working cluster: carries out a plan, phase by phase, and looks again.

Each phase does what the plan has for it and nothing else, so a run that was interrupted is resumed by the next one, and
a second run does nothing. A host that fails leaves the later phases; without the control plane they end.
"""

from __future__ import annotations

import base64
import os
import shlex
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from isthmus.cluster.delivery import check_files, deliver, size
from isthmus.cluster.marking import marks
from isthmus.cluster.survey import (
    ClusterReport,
    apply,
    bundle_folder,
    kubectl,
    look,
    nodes_of,
    on_plane,
    replan,
    survey,
)
from isthmus.errors import CommandError, HostError, UsageError
from isthmus.host_scripts import host_script
from isthmus.kubernetes.bundle import PACKAGES, Bundle, BundleFile
from isthmus.kubernetes.configs import init_config, join_config
from isthmus.kubernetes.facts import NodeFacts, ca_hash
from isthmus.kubernetes.plan import (
    Do,
    NodePlan,
    Wanted,
    differing_files,
    missing_debs,
    missing_images,
    wanted_of,
)
from isthmus.kubernetes.state import State
from isthmus.model import Inventory
from isthmus.remote import Fleet, Remote
from isthmus.survey import Progress, silent

T = TypeVar("T")

APT_WAIT_S = 300
PREPARE_TIMEOUT_S = 1800
LOCK_WAIT_S = 600
"""How long a host may be at work for a run that was killed: kubeadm's own limit is 4 minutes for each of its waits."""
KUBEADM_TIMEOUT_S = 1200
READY_S = 300
API_S = 120
ROOM_MB = 500
"""What a node must have left below /var/lib when all is unpacked."""
TOKEN_TTL = "10m0s"


def bootstrap(
    inventory: Inventory,
    fleet: Fleet,
    only: Collection[str] | None = None,
    forced: Collection[str] = (),
    progress: Progress = silent,
) -> ClusterReport:
    """Make hosts nodes of the cluster, the control plane first; what is done already is left alone.

    Raises InventoryError, before anything is touched, for what cannot be asked of any host, such as a bundle with a
    wrong sum. Hosts that failed are in the report's failures.
    """
    began = time.monotonic()
    report, bundle = survey(inventory, fleet, only, forced)

    def look_again() -> None:
        replan(report, bundle, fleet, only, forced)

    # What a run began whose workstation is gone goes on: kubeadm comes to its end, and so does dpkg.
    words = "another run is at work here, or what it began; waiting for its end"
    for name in _wait_while(lambda: _busy(report), LOCK_WAIT_S, words, look_again, progress):
        report.failures[name] = HostError(name, "another run is still at work here")
    # After a reboot the API takes half a minute.
    words = "the API does not answer yet; waiting for it"
    _wait_while(lambda: _silent(report), API_S, words, look_again, progress)
    report.times.append(("look at the hosts", time.monotonic() - began))
    plane = report.cluster.control_plane.name
    if plane not in report.plans and plane in report.facts and report.facts[plane].api is None:
        report.failures.setdefault(plane, HostError(plane, "holds no cluster yet: begin with it"))
    if not report.waiting:
        return report
    run = _Bootstrap(inventory, fleet, bundle, report, progress)
    run.check_bundle()
    for title, phase in run.phases():
        if run.plane in report.failures:
            break
        with run.timed(title):
            phase()
    report.changed = tuple(name for name in report.plans if name in run.touched)
    failures, times = report.failures, report.times
    replan(report, bundle, fleet, only, (), silent)
    report.failures, report.times = {**report.failures, **failures}, times
    for name in report.waiting:
        left = "; ".join(map(str, report.plans[name].todo))
        report.failures.setdefault(name, HostError(name, f"still to be done: {left}"))
    for name, error in misplaced(report).items():
        report.failures.setdefault(name, error)
    return report


def _wait_while(
    hosts: Callable[[], list[str]], limit: float, words: str, look_again: Callable[[], None], progress: Progress
) -> list[str]:
    """Look again until there are no such hosts, for `limit` seconds at most; return those there still are."""
    deadline = time.monotonic() + limit
    told: set[str] = set()
    while (found := hosts()) and time.monotonic() < deadline:
        for name in set(found) - told:
            progress(name, words)
        told.update(found)
        time.sleep(3)
        look_again()
    return found


def _busy(report: ClusterReport) -> list[str]:
    return [name for name, facts in report.facts.items() if facts.busy]


def _silent(report: ClusterReport) -> list[str]:
    plane = report.facts.get(report.cluster.control_plane.name)
    initialised = plane is not None and "admin.conf" in plane.kubeadm and not plane.unfinished
    return [plane.host] if plane is not None and initialised and plane.api is None else []


def misplaced(report: ClusterReport) -> dict[str, HostError]:
    """Return the nodes that speak from another address than their mesh address, by their own or flannel's word."""
    errors = {}
    for name, node in nodes_of(report.facts, report.cluster).items():
        wanted = report.cluster.nodes.get(name)
        if wanted is None:
            continue
        for what, address in (("its node", node.address), ("flannel on it", node.public_ip or str(wanted.address))):
            if address != str(wanted.address):
                errors[name] = HostError(name, f"{what} has the address {address}, expected {wanted.address}")
    return errors


def write_kubeconfig(fleet: Fleet, report: ClusterReport, path: Path) -> bool:
    """Keep the admin's kubeconfig on the workstation, for its owner only; False when it is there already."""
    text = on_plane(
        fleet, report.cluster, lambda remote: remote.run(f"{host_script('k8s-kubectl')}cat $KUBECONFIG\n", timeout=60)
    )
    try:
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return False
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        beside.replace(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--kubeconfig: cannot write {path}: {reason}") from None
    return True


class _Bootstrap:
    """One run: what is wanted, what was found, and a method a phase."""

    def __init__(
        self, inventory: Inventory, fleet: Fleet, bundle: Bundle, report: ClusterReport, progress: Progress
    ) -> None:
        self.inventory = inventory
        self.fleet = fleet
        self.bundle = bundle
        self.report = report
        self.progress = progress
        self.cluster = report.cluster
        self.plane = report.cluster.control_plane.name
        self.folder = bundle_folder(inventory)
        self.wanted = wanted_of(report.cluster, bundle)
        self.touched: set[str] = set()

    def phases(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield what there is to do, in order; each is asked for when those before it are done."""
        phases: tuple[tuple[str, Callable[[], None], bool], ...] = (
            ("clean up", self.clean_up, self._any(Do.CLEAN_UP)),
            ("send the bundle", self.deliver, self._any(Do.PREPARE)),
            ("prepare the hosts", self.prepare, self._any(Do.PREPARE)),
            ("initialise the control plane", self.initialise, self._any(Do.INITIALISE)),
            ("apply flannel and Services", self.apply, self._any(Do.APPLY)),
            ("join", self.join, self._any(Do.JOIN)),
            ("label and taint", self.mark, self._any(Do.MARK)),
            ("wait until all is ready", self.wait, True),
        )
        yield from ((title, phase) for title, phase, needed in phases if needed)

    @contextmanager
    def timed(self, title: str) -> Iterator[None]:
        """Note how long a phase took."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.report.times.append((title, time.monotonic() - began))

    def check_bundle(self) -> None:
        """Compare every file that some host needs with its sum, before anything is touched."""
        check_files(self.folder, [file for files in self._needed().values() for file in files])

    # --- the phases ---------------------------------------------------------------------------------------------

    def clean_up(self) -> None:
        """Take off what was begun and not finished, and forced hosts out of their clusters."""
        stale = []
        scripts = {}
        for name in self._left(Do.CLEAN_UP):
            facts, state = self.report.facts[name], self.report.plans[name].found.state
            if state is State.STALE:
                stale.append(name)
                continue
            only_unfinished = "yes" if facts.unfinished else "no"
            scripts[name] = host_script("k8s-reset", only_unfinished=only_unfinished, wait_s=LOCK_WAIT_S)
        lost = [name for name in scripts if self.report.plans[name].found.state is not State.FOREIGN]
        self._each(scripts, lambda remote: remote.run(scripts[remote.name], timeout=KUBEADM_TIMEOUT_S), "cleaned up")
        known = nodes_of(self.report.facts, self.cluster)
        gone = [name for name in [*stale, *lost] if name in known and name != self.plane]
        if gone:
            self._ask(lambda remote: forget_nodes(remote, gone))

    def deliver(self) -> None:
        """Bring the hosts the files of the bundle that they need."""
        needed = {name: files for name, files in self._needed().items() if name not in self.report.failures}
        for name, files in list(needed.items()):
            # As archives and, unpacked, as images: about three times as much.
            megabytes = 3 * size(self.folder, files) // 1_000_000 + ROOM_MB
            free = self.report.facts[name].disk_mb
            if free < megabytes:
                del needed[name]
                self._fail(name, HostError(name, f"{free} MB free below /var/lib, expected {megabytes}"))
        if any(needed.values()):
            for name, error in deliver(self.fleet, self.inventory, self.folder, needed, self.progress).items():
                self._fail(name, error)

    def prepare(self) -> None:
        """Install packages, write files, start containerd, import images: all hosts at once."""
        hosts = self._left(Do.PREPARE)
        self._each(hosts, self._prepare, "prepared", before="preparing: " + ", ".join(("packages", "files", "images")))

    def initialise(self) -> None:
        """Run `kubeadm init`, and wait for the API."""
        config = init_config(self.cluster, self.bundle.kubernetes)

        def init(remote: Remote) -> str:
            script = host_script("k8s-init", wait_s=LOCK_WAIT_S)
            return remote.run(script, timeout=KUBEADM_TIMEOUT_S, stdin=config.encode())

        if self._left(Do.INITIALISE):
            self._each([self.plane], init, "initialised", before="kubeadm init")
        self._look_at_plane()

    def apply(self) -> None:
        """Hand the cluster the manifests that it does not have, and take those off that are no longer wanted."""
        self._look_at_plane()
        facts = self.report.facts[self.plane]
        if facts.api is None or self.plane in self.report.failures:
            return
        plan = [(name, text) for name, text in self.wanted[self.plane].manifests.items()]
        there = facts.api.manifests
        missing = [(name, text) for name, text in plan if there.get(name) is None or there[name] not in text]
        surplus = [name for name in there if name not in self.wanted[self.plane].manifests]

        def hand_over(remote: Remote) -> None:
            for name, text in missing:
                if name not in there and name.startswith("Service "):
                    refuse_others_service(remote, name)
                apply(remote, text)
            for name in surplus:
                namespace, _, service = name.partition(" ")[2].partition("/")
                words = ("-n", namespace, service, "--ignore-not-found")
                slices = ("delete", "endpointslice", "-n", namespace, f"{service}-isthmus", "--ignore-not-found")
                kubectl(remote, ("delete", name.partition(" ")[0].lower(), *words), slices)

        self._ask(hand_over)
        self.progress(self.plane, "applied " + (", ".join([name for name, _ in missing] + surplus) or "nothing"))

    def join(self) -> None:
        """Join all hosts that are left, at once, each with a token of its own that is deleted afterwards."""
        hosts = self._left(Do.JOIN)
        if not hosts:
            return
        ca = ca_hash(self.report.facts[self.plane].ca)
        script = host_script("k8s-tokens", count=len(hosts), ttl=TOKEN_TTL)
        answer = self._ask(lambda remote: remote.run(script, timeout=KUBEADM_TIMEOUT_S))
        tokens = dict(zip(hosts, (answer or "").split(), strict=False))
        if len(tokens) < len(hosts):
            self._fail(self.plane, HostError(self.plane, "k8s-tokens: fewer tokens than hosts"))
            return

        def join(remote: Remote) -> str:
            config = join_config(self.cluster, self.cluster.nodes[remote.name], tokens[remote.name], ca)
            script = host_script("k8s-join", wait_s=LOCK_WAIT_S)
            return remote.run(script, timeout=KUBEADM_TIMEOUT_S, stdin=config.encode())

        try:
            self._each(hosts, join, "joined", before="kubeadm join")
        finally:
            ids = " ".join(token.partition(".")[0] for token in tokens.values())
            self._ask(lambda remote: remote.run(host_script("k8s-forget", ids=ids)))

    def mark(self) -> None:
        """Set the labels and taints of hosts.toml; a Node comes a moment after its kubelet."""
        hosts = self._left(Do.MARK)
        deadline = time.monotonic() + API_S
        while True:
            self._look_at_plane()
            known = nodes_of(self.report.facts, self.cluster)
            if all(name in known for name in hosts) or time.monotonic() > deadline:
                break
            time.sleep(1)
        for name in hosts:
            if name not in known:
                self._fail(name, HostError(name, f"the cluster has no Node of it within {API_S} s"))
        commands = marks(self.cluster, known, hosts)
        if commands:
            self._ask(lambda remote: kubectl(remote, *commands))

    def wait(self) -> None:
        """Wait until every node is Ready, and with it flannel and the cluster's DNS."""
        nodes = [f"node/{name}" for name in self.report.plans if name not in self.report.failures]
        limit = f"--timeout={READY_S}s"

        def wait(remote: Remote) -> str:
            return kubectl(
                remote,
                ("wait", "--for=condition=Ready", *nodes, limit),
                ("-n", "kube-flannel", "rollout", "status", "daemonset/isthmus-flannel", limit),
                ("-n", "kube-system", "rollout", "status", "daemonset/kube-proxy", limit),
                ("-n", "kube-system", "rollout", "status", "deployment/coredns", limit),
                timeout=4 * READY_S,
            )

        if nodes:
            self._ask(wait)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _prepare(self, remote: Remote) -> str:
        wanted, facts = self.wanted[remote.name], self.report.facts[remote.name]
        script = host_script(
            "k8s-prepare",
            debs=" ".join(deb.path for deb in missing_debs(wanted, facts)),
            images=" ".join(image.path for image in missing_images(wanted, facts)),
            hold=" ".join(PACKAGES),
            endpoint=self.cluster.endpoint,
            address=str(self.cluster.control_plane.address),
            apt_wait=APT_WAIT_S,
        )
        return remote.run(f"{script}{staged(wanted, facts)}prepare\n", timeout=PREPARE_TIMEOUT_S)

    def _needed(self) -> Mapping[str, tuple[BundleFile, ...]]:
        return {
            name: (*missing_debs(self.wanted[name], facts), *missing_images(self.wanted[name], facts))
            for name in self._left(Do.PREPARE)
            if (facts := self.report.facts[name])
        }

    def _any(self, do: Do) -> bool:
        return any(plan.has(do) for plan in self.report.plans.values())

    def _left(self, do: Do) -> list[str]:
        """Return the hosts that have this to do and have not failed."""
        plans: Mapping[str, NodePlan] = self.report.plans
        return [name for name, plan in plans.items() if plan.has(do) and name not in self.report.failures]

    def _each(
        self, hosts: Collection[str], function: Callable[[Remote], object], success: str, before: str = ""
    ) -> None:
        for name in hosts:
            self.touched.add(name)
            if before:
                self.progress(name, before)
        results = self.fleet.each(
            hosts,
            function,
            on_done=lambda name, result: self.progress(
                name, result.message if isinstance(result, HostError) else success
            ),
        )
        for name, result in results.items():
            if isinstance(result, HostError):
                self._fail(name, result)

    def _ask(self, function: Callable[[Remote], T]) -> T | None:
        """Ask the control plane; its failure is noted, and ends the run."""
        self.touched.add(self.plane)
        try:
            return on_plane(self.fleet, self.cluster, function)
        except HostError as error:
            self._fail(self.plane, error)
            return None

    def _fail(self, name: str, error: HostError) -> None:
        self.report.failures[name] = error

    def _look_at_plane(self) -> None:
        """Look at the control plane again, and wait for its API."""
        deadline = time.monotonic() + API_S
        while self.plane not in self.report.failures:
            found = look(self.fleet, self.cluster, [self.plane])[self.plane]
            if isinstance(found, NodeFacts):
                self.report.facts[self.plane] = found
                if found.api:
                    return
            if time.monotonic() > deadline:
                words = found.message if isinstance(found, HostError) else f"its API does not answer within {API_S} s"
                self._fail(self.plane, CommandError(self.plane, words, None))
                return
            time.sleep(1)


def forget_nodes(remote: Remote, names: Collection[str]) -> None:
    """Delete nodes and whatever the cluster believes to run there: what comes back by this name is another machine."""
    for name in names:
        pods = ("delete", "pods", "-A", "--field-selector", f"spec.nodeName={name}", "--force", "--grace-period=0")
        kubectl(remote, pods, ("delete", "node", name, "--ignore-not-found"))


def refuse_others_service(remote: Remote, name: str) -> None:
    """Raise HostError when a Service of this name is there and not ours."""
    namespace, _, service = name.partition(" ")[2].partition("/")
    label = r"jsonpath={.metadata.name} {.metadata.labels.app\.kubernetes\.io/managed-by}"
    found = kubectl(remote, ("get", "service", "-n", namespace, service, "--ignore-not-found", "-o", label)).split()
    if found and found != [service, "isthmus"]:
        raise HostError(remote.name, f"the cluster has a {name} of somebody else's: it is left alone")


def staged(wanted: Wanted, facts: NodeFacts) -> str:
    """Return the lines that write the files that differ."""
    lines = []
    for path in differing_files(wanted, facts):
        file = wanted.files[path]
        content = base64.encodebytes(file.text.encode()).decode()
        lines.append(f"stage {shlex.quote(path)} {file.mode:o} <<'.'\n{content}.\n")
    return "".join(lines)
