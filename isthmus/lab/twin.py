"""The lab itself: the twin of an inventory on this machine."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path

from isthmus.errors import LabError
from isthmus.lab import admin, cgroups, cloud, disk, image, kubernetes, machine, stale
from isthmus.lab.cloud import Client, Traffic
from isthmus.lab.guest import Guest
from isthmus.lab.layout import Layout, Names, with_addresses
from isthmus.lab.options import HostOptions, LabOptions
from isthmus.lab.removal import take_down
from isthmus.lab.steps import Progress, Steps, each
from isthmus.model import Inventory

START_SECONDS = 300
"""How long a host may take until sshd answers: 2 s are usual, an emulated machine is far slower."""
STOP_SECONDS = 15

_Image = tuple[str, tuple[str, ...]]
"""A suite and the packages that are installed beyond a bare host's."""


class State(Enum):
    """What one host does."""

    ABSENT = "absent"
    """Not built, or not since this machine was started."""
    OFF = "off"
    STARTING = "starting"
    """Switched on, but sshd does not answer."""
    UP = "up"


@dataclass(frozen=True)
class Status:
    """What there is of a lab."""

    name: str
    network: bool
    """Whether internet, admin workstation and every router are there."""
    hosts: Mapping[str, State]
    resources: Mapping[str, bool]

    @property
    def up(self) -> bool:
        """Whether all of it is there and every host's sshd answers."""
        return self.network and all(state is State.UP for state in self.hosts.values()) and all(self.resources.values())


class Lab:
    """The twin of an inventory: hosts, clouds and an internet, made of network namespaces and systemd machines.

    Nothing is kept in this object but the wish: every method looks at the machine, so several processes may use one
    lab. All methods need root and raise LabError.
    """

    def __init__(
        self,
        inventory: Inventory,
        name: str = "lab",
        options: LabOptions | None = None,
        addresses: Mapping[str, IPv4Address] | None = None,
    ) -> None:
        """Wish for a lab; `addresses` are where DNS names lead, those that matter."""
        self.inventory = inventory = with_addresses(inventory, addresses or {})
        self.names = Names(name)
        self.options = options or LabOptions()
        self.layout = Layout(inventory, self.names, self.options)

    # --- the whole ------------------------------------------------------------------------------------------------

    def up(self, progress: Progress | None = None) -> None:
        """Make the machine equal to the inventory: build what is missing, remove what is too much, leave the rest.

        Hosts that stay keep running. A host whose options changed starts from a new disk; one whose NIC changed (its
        address, its site's subnet) is restarted. Returns once every host's sshd answers.
        """
        machine.check_machine()
        machine.prepare_kernel()
        if any(self._options(name).kubernetes for name in self.inventory.hosts):
            kubernetes.prepare_machine()
        steps = Steps(progress, 2 + len(self.inventory.hosts))
        layers = self._images(steps)
        steps.done("images are there")
        with machine.locked(self.names.lock), ThreadPoolExecutor(8) as pool:
            self._remove_surplus()
            cloud.build_internet(self.layout)
            each(pool, lambda site: cloud.build_router(self.layout, site), self.inventory.sites)
            cloud.build_routes(self.layout)
            each(pool, lambda name: cloud.build_resource(self.layout, name), self.inventory.resources)
            steps.done("clouds are built")
            key, hosts = admin.make_key(self.names), self.inventory.hosts
            each(pool, lambda name: self._build_host(name, layers[self._image_of(name)], key), hosts)
            admin.write_names(self.names, self.inventory, {name: self._guest(name).host_keys() for name in hosts})

            def finish(name: str) -> None:
                self._await_host(name)
                self._serve_names(name)
                steps.done(f"{name} is up")

            each(pool, finish, hosts)

    def down(self) -> None:
        """Remove everything a lab of this name has on this machine, whole or half-made, whatever its inventory was."""
        take_down(self.names.name)

    def status(self) -> Status:
        """Return what there is; asks each host's sshd once."""
        sites = [self.names.router(site) for site in self.inventory.sites]
        network = all(machine.namespace_alive(name) for name in (self.names.internet, self.names.admin, *sites))
        with ThreadPoolExecutor(8) as pool:
            states = dict(zip(self.inventory.hosts, pool.map(self._state, self.inventory.hosts), strict=True))
        resources = {
            name: bool(cgroups.processes(self.names.name, f"resource.{name}")) for name in self.inventory.resources
        }
        return Status(self.names.name, network, states, resources)

    def require(self) -> None:
        """Raise LabError where nothing of the lab is there."""
        if not machine.namespace_alive(self.names.admin):
            raise LabError(f"the lab {self.names.name} is not up; inv lab.up builds it")

    # --- running commands -----------------------------------------------------------------------------------------

    def admin_command(self, command: str | Sequence[str]) -> list[str]:
        """Return the command line that runs a command on the admin workstation, for subprocess.Popen and the like.

        The process it makes becomes the command itself: killing it kills the command.
        """
        self.require()
        return admin.command(self.names, command)

    def run(
        self,
        command: str | Sequence[str],
        *,
        capture: bool = False,
        text: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell line, or a program with arguments, on the admin workstation and return how it ended.

        Public addresses are reachable there and ~/.ssh is the lab's own. Without `capture` it writes to our standard
        output and error; it reads our standard input, or `text`. `env` stands for our whole environment.
        """
        return subprocess.run(
            self.admin_command(command),
            check=False,
            text=True,
            input=text,
            capture_output=capture,
            env=env,
            cwd=cwd,
            timeout=timeout,
        )

    def host_command(self, host: str, command: str | Sequence[str]) -> list[str]:
        """Return the command line that runs a command inside a host as root, not over SSH; for tests."""
        wanted = ["sh", "-c", command] if isinstance(command, str) else list(command)
        return self._guest(host).command(wanted)

    def host_run(
        self, host: str, command: str | Sequence[str], *, text: str | None = None, timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell line, or a program with arguments, inside a host as root, not over SSH; output is captured."""
        wanted = ["sh", "-c", command] if isinstance(command, str) else list(command)
        return self._guest(host).run(wanted, text, timeout)

    def resource_command(self, resource: str, command: str | Sequence[str]) -> list[str]:
        """Return the command line that runs a program of this machine at a resource's address."""
        wanted = ["sh", "-c", command] if isinstance(command, str) else list(command)
        return ["nsenter", f"--net={machine.NAMESPACES / self.names.resource(resource)}", *wanted]

    # --- what may happen to hosts and clouds ----------------------------------------------------------------------

    def reboot(self, *hosts: str, hard: bool = False) -> None:
        """Stop and start these hosts, all at once; returns when every sshd answers. See `stop` for `hard`."""
        with machine.locked(self.names.lock), ThreadPoolExecutor(max(1, len(hosts))) as pool:
            each(pool, lambda name: self._stop(name, hard), hosts)
            each(pool, self._switch_on, hosts)
            each(pool, self._await_host, hosts)

    def stop(self, *hosts: str, hard: bool = False) -> None:
        """Shut hosts down; `hard` cuts their power instead. Running or not, they are off afterwards."""
        with machine.locked(self.names.lock), ThreadPoolExecutor(max(1, len(hosts))) as pool:
            each(pool, lambda name: self._stop(name, hard), hosts)

    def start(self, *hosts: str) -> None:
        """Switch hosts on; returns when every sshd answers. Those that run already are left alone."""
        with machine.locked(self.names.lock), ThreadPoolExecutor(max(1, len(hosts))) as pool:
            each(pool, self._switch_on, [name for name in hosts if not self._guest(name).alive()])
            each(pool, self._await_host, hosts)

    def cut(self, name: str) -> None:
        """Let no packet of a host, or of a site's uplink, pass any more, silently. A host that restarts is healed."""
        self._connect(name, connected=False)

    def heal(self, name: str) -> None:
        """Undo `cut`."""
        self._connect(name, connected=True)

    def lose(self, host: str, percent: int) -> None:
        """Lose so many of 100 packets between a host and the internet, each way: 100 cuts its public link, 0 heals."""
        self._guest(host)
        cloud.set_loss(self.names, self.inventory.hosts[host], percent)

    def counters(self) -> dict[str, Traffic]:
        """Return what each site's uplink has carried, in bytes, by site."""
        return {site: cloud.traffic(self.names, site) for site in self.inventory.sites}

    def drops(self) -> dict[str, dict[str, int]]:
        """Return how many packets each site's router dropped, by site and reason (`rules.DROPS`)."""
        return {site: cloud.drops(self.names, site) for site in self.inventory.sites}

    def resource_peers(self, resource: str) -> tuple[Client, ...]:
        """Return whom a resource has seen, in order: one for each connection and each ping."""
        return cloud.clients(self.names, resource)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _guest(self, name: str) -> Guest:
        if name not in self.inventory.hosts:
            raise LabError(f"the lab {self.names.name} has no host {name!r}; it has {', '.join(self.inventory.hosts)}")
        return Guest(self.names, name)

    def _options(self, name: str) -> HostOptions:
        return self.options.of(self.inventory.hosts[name])

    def _image_of(self, name: str) -> _Image:
        options = self._options(name)
        return options.suite, disk.packages(options)

    def _images(self, steps: Steps) -> dict[_Image, tuple[Path, ...]]:
        image.CACHE.mkdir(parents=True, exist_ok=True)
        wanted = sorted({self._image_of(name) for name in self.inventory.hosts})
        with ThreadPoolExecutor(2) as pool:
            built = each(pool, lambda kind: image.prepare(kind[0], kind[1], steps.say), wanted)
        for name in stale.prune(image.CACHE, self.names.run.parent):
            steps.say(f"removed the image {name}: no lab was built from it for {stale.KEPT_DAYS} days")
        return dict(zip(wanted, built, strict=True))

    def _remove_surplus(self) -> None:
        """Remove hosts, resources and routers that the inventory no longer has."""
        names = self.names
        wanted = {names.internet, names.admin}
        wanted |= {names.router(site) for site in self.inventory.sites}
        wanted |= {names.host(host) for host in self.inventory.hosts}
        wanted |= {names.resource(resource) for resource in self.inventory.resources}
        for namespace in set(machine.namespaces(names.prefix)) - wanted:
            kind, _, name = namespace.removeprefix(names.prefix).partition(".")
            cgroups.end(names.name, f"{kind}.{name}")
            if kind == "host":
                Guest(names, name).remove_disk()
            machine.delete_namespace(namespace)

    def _build_host(self, name: str, layers: tuple[Path, ...], key: str) -> None:
        guest, options = self._guest(name), self._options(name)
        files = disk.files(self.inventory.hosts[name], options, layers, key)
        stamp, port = disk.stamp(files, options, layers), self.layout.host_port(name)
        whole = guest.has_disk(stamp)
        if whole and guest.is_configured(port) and guest.alive() and cloud.plugged(port):
            return
        guest.stop()
        if not whole:
            guest.make_disk(stamp, files, layers)
        # systemd of Debian 13 no longer starts on cgroup v1
        unified = options.suite == "trixie" and cgroups.has_v1()
        guest.configure(port, layers, unified=unified, containers=options.kubernetes)
        guest.switch_on()

    def _stop(self, name: str, hard: bool) -> None:
        self._guest(name).stop(seconds=0 if hard else STOP_SECONDS)

    def _switch_on(self, name: str) -> None:
        self._guest(name).switch_on()

    def _await_host(self, name: str) -> None:
        """Return once the host's sshd answers its router and lets everybody in; LabError when it never does."""
        guest = self._guest(name)
        deadline = time.monotonic() + START_SECONDS
        while not (self._sshd_answers(name, seconds=2) and guest.admits_users()):
            if not guest.alive() or time.monotonic() > deadline:
                lines = guest.console.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
                what = f"did not start in {START_SECONDS} s" if guest.alive() else "stopped while it was starting"
                raise LabError(f"{name} {what}: {' / '.join(lines)} (all of it in {guest.console})")

    def _serve_names(self, name: str) -> None:
        """Tell a host where DNS names lead."""
        if not self.layout.names_file:
            return
        begin = "# DNS names of the lab"
        script = f"sed -i '/^{begin}/,$d' /etc/hosts; cat - >>/etc/hosts"
        self.host_run(name, script, text=f"{begin}\n{self.layout.names_file}")

    def _sshd_answers(self, name: str, *, seconds: float) -> bool:
        host = self.inventory.hosts[name]
        script = (
            f"until IFS= read -t {seconds} -r line </dev/tcp/{host.address}/{host.ssh.port} && [[ $line = SSH-* ]];"
            " do sleep 0.05; done 2>/dev/null"
        )
        command = ["ip", "netns", "exec", self.names.router(host.site), "timeout", str(seconds), "bash", "-c", script]
        return subprocess.run(command, check=False, capture_output=True, env=machine.environment()).returncode == 0

    def _state(self, name: str) -> State:
        guest = self._guest(name)
        if guest.alive():
            return State.UP if self._sshd_answers(name, seconds=2) else State.STARTING
        return State.OFF if guest.is_configured(self.layout.host_port(name)) else State.ABSENT

    def _connect(self, name: str, *, connected: bool) -> None:
        if name in self.inventory.hosts:
            cloud.set_port(self.layout.host_port(name), connected=connected)
        elif name in self.inventory.sites:
            cloud.set_uplink(self.names, name, connected=connected)
        else:
            raise LabError(f"the lab {self.names.name} has no host or site {name!r}")
