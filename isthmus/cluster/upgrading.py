"""From one version of Kubernetes to the next: carries out what isthmus.kubernetes.upgrade has found to be left.

The bundle and its images come to all hosts first: kubeadm's own health check may put its pod on any of them, and it
renews kube-proxy and the DNS for the whole cluster at once. Then one node after the other; the first
that fails ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

from isthmus.cluster.bootstrap import busy_hosts, silent_planes, wait_while
from isthmus.cluster.phases import API_S, KUBEADM_TIMEOUT_S, LOCK_WAIT_S, READY_S, Phases
from isthmus.cluster.staging import staged
from isthmus.cluster.survey import ClusterReport, load_bundle, look, nodes_of, on_plane, replan
from isthmus.errors import HostError
from isthmus.host_scripts import host_script
from isthmus.kubernetes.bundle import BundleFile, Deb
from isthmus.kubernetes.cluster import cluster_of
from isthmus.kubernetes.facts import NodeFacts
from isthmus.kubernetes.plan import missing_debs, missing_images
from isthmus.kubernetes.state import JOINED
from isthmus.kubernetes.upgrade import Act, Step, UpgradePlan, plan_upgrade
from isthmus.model import Inventory
from isthmus.remote import Fleet, Remote
from isthmus.survey import Progress, silent

DRAIN_S = 300
"""So long may pods take to leave a node, unless the user says otherwise."""
SHORT_S = 120
ASK_S = 60
"""So long may an API that was just exchanged refuse to say whether pods may leave."""


class Upgrade(Phases):
    """One upgrade: what is left of it, and the way there. Refusals and failures are in the report's failures."""

    def __init__(self, inventory: Inventory, fleet: Fleet, progress: Progress = silent, drain_s: int = DRAIN_S) -> None:
        """Look at the hosts and plan; changes nothing. What another run has begun is waited for."""
        cluster = cluster_of(inventory)
        bundle = load_bundle(inventory, cluster)
        report = ClusterReport(cluster)
        super().__init__(inventory, fleet, bundle, report, progress)
        self.drain_s = drain_s
        self.begun: set[str] = set()
        began = time.monotonic()
        self._look()
        words = "another run is at work here, or what it began; waiting for its end"
        busy = wait_while(lambda: busy_hosts(report), LOCK_WAIT_S, words, self._look, progress)
        words = "the API does not answer yet; waiting for it"
        wait_while(lambda: silent_planes(report), API_S, words, self._look, progress)
        report.failures.update({name: HostError(name, "another run is still at work here") for name in busy})
        self.plane = report.plane
        self.plan: UpgradePlan = plan_upgrade(cluster, bundle, report.facts)
        report.notes = self.plan.notes
        self._leave_out_who_is_no_node()
        for name, reason in self.plan.against:
            report.failures.setdefault(name, HostError(name, reason))
        if not report.failures:
            self._ask_whether_pods_may_leave()
        report.times.append(("look at the hosts", time.monotonic() - began))

    def carry_out(self) -> None:
        """Do what is left, one node after the other; ends at the first failure, and is resumed by another Upgrade.

        Raises InventoryError, before anything is touched, for a bundle with a wrong sum.
        """
        report = self.report
        if report.failures or not self.plan:
            return
        self.check_bundle()
        if any(self._needed().values()):
            self._timed("send the bundle", self.deliver)
        if images := [node.host for node in self.plan.nodes if node.has(Act.IMAGES)]:
            self._timed("import images", lambda: self._each(images, self._import, "has the images"))
        for node in self.plan.nodes:
            for step in node.steps:
                if step.act is not Act.IMAGES:
                    self._timed(f"{node.host}: {step.act.value}", partial(self._do, node.host, step))
        if self.plan.manifests:
            self._timed("apply flannel and Services", self.apply)
        failures, times, notes = report.failures, report.times, report.notes
        replan(report, self.bundle, self.fleet)
        members = {node.host for node in self.plan.nodes}
        now = {name: error for name, error in report.failures.items() if name in members}
        report.failures, report.times = failures or now, times
        report.plans = {name: plan for name, plan in report.plans.items() if plan.found.state in JOINED}
        self._timed("wait until all is ready", self.wait)
        waiting = [node.host for node in self.plan.nodes if node.host not in self.begun]
        if report.failures and waiting:
            notes += (f"not begun: {', '.join(waiting)}; the next k8s.upgrade goes on where this one ended",)
        elif not report.failures and report.waiting:
            notes += (f"{', '.join(report.waiting)}: `inv k8s.bootstrap` does what else there is to do",)
        report.notes = notes
        report.changed = tuple(name for name in self.cluster.nodes if name in self.begun)

    # --- one node's steps -----------------------------------------------------------------------------------------

    def _do(self, name: str, step: Step) -> None:
        self.begun.add(name)
        acts: Mapping[Act, Callable[[str], None]] = {
            Act.KUBEADM: self._install_kubeadm,
            Act.UPGRADE: lambda name: self._upgrade(name, step.what[0]),
            Act.DRAIN: self._drain,
            Act.INSTALL: self._install,
            Act.RESTART: self._restart,
            Act.FINISH: self._finish,
        }
        acts[step.act](name)

    def _import(self, remote: Remote) -> None:
        images = missing_images(self.wanted[remote.name], self.report.facts[remote.name])
        self._run_prepare(remote, images, keep=True)

    def _install_kubeadm(self, name: str) -> None:
        debs = [deb for deb in self._debs(name) if deb.package == "kubeadm"]
        self._each([name], lambda remote: self._run_prepare(remote, debs, keep=True), "has the new kubeadm")

    def _upgrade(self, name: str, what: str) -> None:
        how = what.partition(" ")[0]
        script = host_script("k8s-upgrade", how=how, version=self.bundle.kubernetes, node=name, wait_s=LOCK_WAIT_S)
        before = f"kubeadm upgrade {what}"
        self._each([name], lambda remote: remote.run(script, timeout=KUBEADM_TIMEOUT_S), "kubeadm is done", before)

    def _drain(self, name: str) -> None:
        script = host_script("k8s-upgrade-drain", node=name, limit_s=self.drain_s, only_ask="no")
        self._ask_of(name, script, self.drain_s + SHORT_S, "draining", "drained")

    def _install(self, name: str) -> None:
        stage = staged(self.wanted[name].files, self.report.facts[name])
        debs = [deb for deb in self._debs(name) if deb.package != "kubeadm"]
        self._each([name], lambda remote: self._run_prepare(remote, debs, stage), "installed", "installing packages")

    def _restart(self, name: str) -> None:
        script = host_script("k8s-upgrade-kubelet")
        self._each([name], lambda remote: remote.run(script, timeout=SHORT_S), "its kubelet is restarted")

    def _finish(self, name: str) -> None:
        script = host_script("k8s-upgrade-finish", node=name, version=self.bundle.kubernetes, wait_s=READY_S)
        self._ask_of(name, script, READY_S + SHORT_S, "waiting until it is ready", f"runs {self.bundle.kubernetes}")

    # --- inside ---------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        found = look(self.fleet, self.cluster, list(self.cluster.nodes))
        self.report.facts = {name: facts for name, facts in found.items() if isinstance(facts, NodeFacts)}
        self.report.failures = {name: error for name, error in found.items() if isinstance(error, HostError)}

    def _leave_out_who_is_no_node(self) -> None:
        """A host that does not answer and was never a node keeps nobody from anything."""
        known = nodes_of(self.report.facts, self.cluster)
        for name in [name for name in self.report.failures if known and name not in known]:
            self.report.notes += (f"{name}: {self.report.failures.pop(name).message}; it is no node, and left out",)

    def _ask_whether_pods_may_leave(self) -> None:
        """Ask before anything is touched: a pod without a controller would be gone for good."""
        for node in self.plan.nodes:
            if node.has(Act.DRAIN):
                script = host_script("k8s-upgrade-drain", node=node.host, limit_s=ASK_S, only_ask="yes")
                self._ask_of(node.host, script, SHORT_S)

    def _ask_of(self, name: str, script: str, timeout: float, before: str = "", success: str = "") -> None:
        """Run a script on the control plane that is about a node: its failure is the node's."""
        if before:
            self.progress(name, before)
        said = success
        try:
            on_plane(self.fleet, self.cluster, lambda remote: remote.run(script, timeout=timeout))
        except HostError as error:
            said = error.message
            self._fail(name, HostError(name, said))
        if said:
            self.progress(name, said)

    def _needed(self) -> Mapping[str, tuple[BundleFile, ...]]:
        return {
            node.host: (
                *(self._debs(node.host) if node.has(Act.KUBEADM) or node.has(Act.INSTALL) else ()),
                *missing_images(self.wanted[node.host], self.report.facts[node.host]),
            )
            for node in self.plan.nodes
        }

    def _debs(self, name: str) -> tuple[Deb, ...]:
        return missing_debs(self.wanted[name], self.report.facts[name])

    def _timed(self, title: str, phase: Callable[[], None]) -> None:
        """Do one thing unless something has failed, and remember how long it took."""
        if self.report.failures:
            return
        began = time.monotonic()
        phase()
        self.report.times.append((title, time.monotonic() - began))
