"""The phases of a bootstrap: each does what the plan has for it, and nothing else, on hosts that have not failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from isthmus.cluster.delivery import Files, check_files, deliver, room
from isthmus.cluster.fetching import sweep
from isthmus.cluster.marking import marks
from isthmus.cluster.planes import certificates, is_plane, leave_etcd, refused, renew_proxy
from isthmus.cluster.sourcing import supply_of
from isthmus.cluster.staging import APT_WAIT_S, balance_script, staged
from isthmus.cluster.survey import ClusterReport, apply, bundle_folder, kubectl, look, nodes_of, on_plane, planes_and
from isthmus.errors import CommandError, HostError, SourceError
from isthmus.host_scripts import host_script
from isthmus.kubernetes.bundle import PACKAGES, Bundle, BundleFile, Deb, Image
from isthmus.kubernetes.configs import init_config, join_config, sum_of
from isthmus.kubernetes.facts import NodeFacts, ca_hash
from isthmus.kubernetes.plan import Do, NodePlan, missing_debs, missing_images, wanted_of
from isthmus.kubernetes.state import State
from isthmus.model import Inventory
from isthmus.remote import Fleet, Remote
from isthmus.survey import Progress

T = TypeVar("T")

PREPARE_TIMEOUT_S = 1800
LOCK_WAIT_S = 600
"""How long a host may be at work for a run that was killed: kubeadm's own limit is 4 minutes for each of its waits."""
KUBEADM_TIMEOUT_S = LOCK_WAIT_S + 1800
READY_S = 300
API_S = 120
ROOM_MB = 500
"""What a node must have left below /var/lib when all is unpacked."""
TOKEN_TTL = "10m0s"


class Phases:
    """What there is to do, a method a phase; `touched` are the hosts where one began."""

    def __init__(
        self, inventory: Inventory, fleet: Fleet, bundle: Bundle, report: ClusterReport, progress: Progress
    ) -> None:
        self.inventory = inventory
        self.fleet = fleet
        self.bundle = bundle
        self.report = report
        self.progress = progress
        self.cluster = report.cluster
        self.plane = report.plane
        self.folder = bundle_folder(inventory)
        self.supply = supply_of(inventory, self.folder, self.cluster, bundle)
        self.wanted = wanted_of(report.cluster, bundle)
        self.touched: set[str] = set()

    def in_order(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        """Return (title, method) of every phase that the plan has something for, and of the last, which waits."""
        phases: tuple[tuple[str, Callable[[], None], bool], ...] = (
            ("clean up", self.clean_up, self._any(Do.CLEAN_UP)),
            ("send the bundle", self.deliver, self._any(Do.PREPARE)),
            ("prepare the hosts", self.prepare, self._any(Do.PREPARE)),
            ("initialise the control plane", self.initialise, self._any(Do.INITIALISE)),
            ("apply flannel and Services", self.apply, self._any(Do.APPLY)),
            ("join the control planes", self.join_planes, bool(self._joining(planes=True))),
            ("join", self.join, bool(self._joining(planes=False))),
            ("label and taint", self.mark, self._any(Do.MARK)),
            ("wait until all is ready", self.wait, True),
        )
        return tuple((title, phase) for title, phase, needed in phases if needed)

    def check_bundle(self) -> None:
        """Compare files that hosts need with their sums, or find them at their source, before anything is touched."""
        files = list(dict.fromkeys(file for files in self._needed().values() for file in files))
        if self.supply is not None and files:
            self.supply.find(files)
        elif self.supply is None:
            check_files(self.folder, files)

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
        # A member of etcd that is wiped still counts: it leaves first.
        self._leave_etcd([name for name in lost if name != self.plane and is_plane(self.report.facts[name])])
        if self.plane in self.report.failures:
            return
        self._each(scripts, lambda remote: remote.run(scripts[remote.name], timeout=KUBEADM_TIMEOUT_S), "cleaned up")
        known = nodes_of(self.report.facts, self.cluster)
        gone = [name for name in [*stale, *scripts] if name in known and name != self.plane]
        if gone:
            self._ask(lambda remote: forget_nodes(remote, gone))

    def deliver(self) -> None:
        """Bring the hosts the files of the bundle that they need."""
        needed = {name: files for name, files in self._needed().items() if name not in self.report.failures}
        for name, files in list(needed.items()):
            megabytes = (self.supply.room(files) if self.supply else room(self.folder, files)) // 1_000_000 + ROOM_MB
            free = self.report.facts[name].disk_mb
            if free < megabytes:
                del needed[name]
                self._fail(name, HostError(name, f"{free} MB free below /var/lib, expected {megabytes}"))
        if any(needed.values()):
            for name, error in self._bring(needed).items():
                self._fail(name, error)

    def prepare(self) -> None:
        """Install packages, write files, start containerd, import images: all hosts at once."""
        hosts = self._left(Do.PREPARE)
        self._each(hosts, self._prepare, "prepared", before="preparing: packages, files, images")
        known = nodes_of(self.report.facts, self.cluster)
        moved = [name for name in self._left(Do.PREPARE) if name in known and self._led_elsewhere(name)]
        if moved:
            self._ask(lambda remote: renew_proxy(remote, *moved))

    def initialise(self) -> None:
        """Run `kubeadm init`, and wait for the API."""
        config = init_config(self.cluster, self.bundle.kubernetes)

        def init(remote: Remote) -> str:
            script = host_script("k8s-init", wait_s=LOCK_WAIT_S)
            return remote.run(script, timeout=KUBEADM_TIMEOUT_S, stdin=config.encode())

        if self._left(Do.INITIALISE):
            self._compare_images()
        if self._left(Do.INITIALISE):
            self._each([self.plane], init, "initialised", before="kubeadm init")
        self._look_at_plane()

    def apply(self) -> None:
        """Hand the cluster the manifests that it does not have, and take those off that are no longer wanted."""
        self._look_at_plane()
        facts = self.report.facts[self.plane]
        if facts.api is None or self.plane in self.report.failures:
            return
        wanted, there = self.wanted[self.plane].manifests, facts.api.manifests
        missing = [(name, text) for name, text in wanted.items() if there.get(name) != sum_of(text)]
        surplus = [name for name in there if name not in wanted]

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

    def join_planes(self) -> None:
        """Join further control planes, one after the other; after one that failed the others wait for the next run."""
        hosts = self._joining(planes=True)
        self._leave_etcd(hosts)  # a machine that was made anew is still a member by its old self
        if not hosts or self.plane in self.report.failures:
            return
        try:
            with certificates(self.fleet, self.cluster, self.bundle.kubernetes) as key:
                for number, name in enumerate(hosts):
                    self._join([name], key)
                    self._look_at_plane()
                    if name in self.report.failures or self.plane in self.report.failures:
                        for later in hosts[number + 1 :]:
                            self._fail(later, refused(later, name))
                        break
        except HostError as error:
            self._fail(self.plane, error)

    def join(self) -> None:
        """Join all workers that are left, at once."""
        self._join(self._joining(planes=False))

    def _leave_etcd(self, names: Collection[str]) -> None:
        if names:
            nodes = [self.cluster.nodes[name] for name in names]
            self._ask(lambda remote: leave_etcd(remote, *nodes), besides=names)

    def _joining(self, *, planes: bool) -> list[str]:
        return [name for name in self._left(Do.JOIN) if self.cluster.nodes[name].control_plane is planes]

    def _join(self, hosts: Collection[str], key: str = "") -> None:
        """Join hosts, each with a token of its own that is deleted afterwards."""
        if not hosts:
            return
        ca = ca_hash(self.report.facts[self.plane].ca)
        script = host_script("k8s-tokens", count=len(hosts), ttl=TOKEN_TTL)
        answer = self._ask(lambda remote: remote.run(script, timeout=KUBEADM_TIMEOUT_S))
        if answer is None:
            return
        tokens = dict(zip(hosts, answer.split(), strict=False))
        if len(tokens) < len(hosts):
            self._fail(self.plane, HostError(self.plane, "k8s-tokens: fewer tokens than hosts"))
            return

        def join(remote: Remote) -> str:
            config = join_config(self.cluster, self.cluster.nodes[remote.name], tokens[remote.name], ca, key)
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
            self.touched.update(hosts)
            self._ask(lambda remote: kubectl(remote, *commands))

    def wait(self) -> None:
        """Wait until these nodes are Ready, and flannel and kube-proxy on them; others may be off. And for the DNS."""
        names = [name for name in self.report.plans if name not in self.report.failures]
        limit = f"--timeout={READY_S}s"
        ready = ("wait", "--for=condition=Ready", limit)
        pods = (("kube-flannel", "app=isthmus-flannel"), ("kube-system", "k8s-app=kube-proxy"))

        def wait(remote: Remote) -> str:
            return kubectl(
                remote,
                (*ready, *(f"node/{name}" for name in names)),
                *(
                    (*ready, "pod", "-n", namespace, "-l", label, "--field-selector", f"spec.nodeName={name}")
                    for name in names
                    for namespace, label in pods
                ),
                ("wait", "--for=condition=Available", limit, "-n", "kube-system", "deployment/coredns"),
                timeout=4 * READY_S,
            )

        def wait_once_more(remote: Remote) -> str:
            try:
                return wait(remote)
            except CommandError as error:
                if "found" not in error.message:  # a pod is not there yet, or was replaced while we waited for it
                    raise
                time.sleep(3)
                return wait(remote)

        if names:
            self._ask(wait_once_more)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _compare_images(self) -> None:
        """Note a failure where kubeadm wants other images than the bundle has: it would look for them elsewhere."""
        script = host_script("k8s-images", version=self.bundle.kubernetes)
        wanted = self._ask(lambda remote: remote.run(script, timeout=KUBEADM_TIMEOUT_S))
        there = {reference for image in self.bundle.images for reference in image.references}
        if missing := sorted(set((wanted or "").split()) - there):
            words = f"kubeadm wants {', '.join(missing)}, which the bundle does not have"
            self._fail(self.plane, HostError(self.plane, words))

    def _bring(self, needed: Files) -> dict[str, HostError]:
        """Bring the files, from the source or from here; return where that failed."""
        holders: Mapping[str, str] = {}
        supply = self.supply
        if supply is None:
            return deliver(self.fleet, self.inventory, self.folder, needed, self.progress)
        try:
            needed, holders = supply.fetch(self.fleet, self.inventory, needed, self.progress)
        except SourceError as error:
            return {name: HostError(name, str(error)) for name in needed}

        def have_here() -> None:
            supply.have_here(self.progress, "not all hosts are reached by their neighbours: the workstation sends")

        try:
            return deliver(self.fleet, self.inventory, self.folder, needed, self.progress, holders, have_here)
        finally:
            sweep(self.fleet, [name for name in holders.values() if not needed.get(name)])

    def _prepare(self, remote: Remote) -> None:
        wanted, facts = self.wanted[remote.name], self.report.facts[remote.name]
        balance = balance_script(wanted, facts)
        if balance and wanted.balancer:  # the API's name leads to it: it is there first
            remote.run(balance, timeout=PREPARE_TIMEOUT_S)
        files = (*missing_debs(wanted, facts), *missing_images(wanted, facts))
        self._run_prepare(remote, files, staged(wanted.files, facts))
        if balance and not wanted.balancer:
            remote.run(balance, timeout=PREPARE_TIMEOUT_S)

    def _run_prepare(self, remote: Remote, files: Iterable[BundleFile], stage: str = "", *, keep: bool = False) -> None:
        """Install and import files of the bundle that are on the host; with `keep`, the others there stay."""
        files = tuple(files)
        script = host_script(
            "k8s-prepare",
            debs=" ".join(file.path for file in files if isinstance(file, Deb)),
            images=" ".join(file.path for file in files if isinstance(file, Image)),
            hold=" ".join(PACKAGES),
            endpoint=self.cluster.endpoint,
            address=" ".join(map(str, self.cluster.api_addresses(self.cluster.nodes[remote.name]))),
            apt_wait=APT_WAIT_S,
            keep="yes" if keep else "no",
        )
        remote.run(f"{script}{stage}prepare\n", timeout=PREPARE_TIMEOUT_S)

    def _led_elsewhere(self, name: str) -> bool:
        """Return whether the API's name led elsewhere on this host before it was prepared."""
        wanted = self.cluster.api_addresses(self.cluster.nodes[name])
        return self.report.facts[name].endpoint not in ((), tuple(map(str, wanted)))

    def _needed(self) -> Mapping[str, tuple[BundleFile, ...]]:
        return {
            name: (*missing_debs(self.wanted[name], facts), *missing_images(self.wanted[name], facts))
            for name, facts in self.report.facts.items()
            if name in self._left(Do.PREPARE)
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

    def _ask(self, function: Callable[[Remote], T], besides: Collection[str] = ()) -> T | None:
        """Ask a control plane, none of `besides`; its failure is noted, and ends the run."""
        self.touched.add(self.plane)
        off = [name for name in planes_and(self.cluster) if name in self.report.failures and name != self.plane]
        try:
            return on_plane(self.fleet, self.cluster, function, [*besides, *off])
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
        # The Node first: as long as it is there, DaemonSets put new pods on it.
        kubectl(remote, ("delete", "node", name, "--ignore-not-found"), pods)


def refuse_others_service(remote: Remote, name: str) -> None:
    """Raise HostError when a Service of this name is there and not ours."""
    namespace, _, service = name.partition(" ")[2].partition("/")
    label = r"jsonpath={.metadata.name} {.metadata.labels.app\.kubernetes\.io/managed-by}"
    found = kubectl(remote, ("get", "service", "-n", namespace, service, "--ignore-not-found", "-o", label)).split()
    if found and found != [service, "isthmus"]:
        raise HostError(remote.name, f"the cluster has a {name} of somebody else's: it is left alone")
