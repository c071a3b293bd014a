"""Parts noop and first: `inv mesh.up` beside an Ansible playbook, a pyinfra deploy and bare OpenSSH.

All run on the admin workstation of a lab of the repository's own hosts.toml, against the same four hosts, and put the
same files there: that each finds the others' work done is checked, not believed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from benchmarks import rivals
from benchmarks.measure import BenchError, Ended, interleave, must
from benchmarks.table import SECONDS, Results, print_table, seconds_row
from isthmus.compile import compile_mesh
from isthmus.inventory import load_inventory
from isthmus.lab import HostOptions, Lab, LabOptions
from isthmus.model import Inventory
from isthmus.render import FILES, HEADER, PROGRAM, iptables_lines, route_line, rule_line

NAME = "bench"
"""Of the lab."""
NOOP_ROUNDS = 7
NOOP_ROUNDS_OF_ANSIBLE = 3
FIRST_ROUNDS = 3
UNCHANGED = "nothing to do"

_NAMES = {
    "isthmus": "inv mesh.up",
    "pyinfra": "pyinfra deploy",
    "ansible": "ansible-playbook",
    "ansible_ping": "ansible -m ping: one empty task",
    "floor": "ssh HOST true",
}


def measure_hosts(results: Results, folder: Path, parts: Collection[str]) -> None:
    """Build the lab, bring the mesh up, measure `parts` (noop, first), print, and take the lab down."""
    inventory = load_inventory(rivals.ROOT / "hosts.toml")
    options = LabOptions(default=HostOptions(packages=True))
    lab = Lab(inventory, NAME, options)
    lab.down()
    try:
        lab.up()
        contenders = Contenders(lab, inventory, folder)
        contenders.prepare()
        if "noop" in parts:
            _measure_noop(results, contenders)
        if "first" in parts:
            _measure_first(results, contenders)
    finally:
        lab.down()


class Contenders:
    """The ways to do the same work, each one process on the lab's admin workstation."""

    def __init__(self, lab: Lab, inventory: Inventory, folder: Path) -> None:
        self._lab = lab
        self._inventory = inventory
        self._folder = folder
        self._programs = rivals.installed()
        self._hosts = folder / "hosts.json"
        self._hosts.write_text(json.dumps(_told(inventory), indent=1), encoding="utf-8")
        self._ssh_config = folder / "ssh_config"
        self._ssh_config.write_text(_ssh_config(inventory), encoding="utf-8")

    def prepare(self) -> None:
        """Give the hosts what Ansible needs there, and bring the mesh up."""
        for host in self._inventory.hosts:
            _provide_apt_bindings(self._lab, host, self._folder)
        self.isthmus()

    def isthmus(self, *, says: str = "") -> Ended:
        """Run `inv mesh.up`."""
        return self._inv("mesh.up", says=says)

    def noop_isthmus(self) -> Ended:
        """Run `inv mesh.up`, which must find nothing to do."""
        return self.isthmus(says=f"{len(self._inventory.hosts)} hosts: {UNCHANGED}")

    def plan(self) -> Ended:
        """Run `inv mesh.plan`, which ends with 0 only when every host is as it should be, files and running state."""
        return self._inv("mesh.plan")

    def forget(self) -> Ended:
        """Take the mesh and its keys off the hosts."""
        return self._inv("mesh.down", "--forget-keys")

    def ansible(self) -> Ended:
        """Run the playbook to its end."""
        playbook = str(rivals.HERE / "playbook" / "mesh.yml")
        return self._run(str(self._programs / "ansible-playbook"), "-i", str(self._hosts), playbook)

    def noop_ansible(self) -> Ended:
        """Run the playbook, which must change nothing."""
        ended = self.ansible()
        changed = re.findall(r"changed=(\d+)", ended.output)
        if changed != ["0"] * len(self._inventory.hosts):
            raise BenchError(f"ansible-playbook: found changed={','.join(changed)}, expected 0:\n{ended.output}")
        return ended

    def ansible_ping(self) -> Ended:
        """Run Ansible's smallest task: what it costs before any work."""
        return self._run(str(self._programs / "ansible"), "-i", str(self._hosts), "mesh", "-m", "ping")

    def pyinfra(self) -> Ended:
        """Run the deploy to its end."""
        deploy = rivals.HERE / "deploy"
        return self._run(str(self._programs / "pyinfra"), "-y", str(deploy / "inventory.py"), str(deploy / "mesh.py"))

    def noop_pyinfra(self) -> Ended:
        """Run the deploy, which must change nothing."""
        ended = self.pyinfra()
        total = re.search(r"Grand total +(\d+) +\S+ +\S+ +(\d+)", ended.output)
        if not total or total[1] != total[2]:
            raise BenchError(f"pyinfra: expected `No Change` everywhere:\n{ended.output}")
        return ended

    def floor(self) -> Ended:
        """Log in everywhere at once and do nothing."""
        hosts = " ".join(map(shlex.quote, self._inventory.hosts))
        ssh = f"ssh -F {shlex.quote(str(self._ssh_config))} -o ControlPath=none"
        start = f'for host in {hosts}; do {ssh} "$host" true & all="$all $!"; done'
        script = f"{start}; for one in $all; do wait $one || exit 1; done"
        return self._run("sh", "-c", script)

    def _inv(self, task: str, *flags: str, says: str = "") -> Ended:
        return self._run(sys.executable, "-m", "invoke", task, *flags, says=says)

    def _run(self, *command: str, says: str = "") -> Ended:
        settings = {
            "ANSIBLE_CONFIG": str(rivals.HERE / "playbook" / "ansible.cfg"),
            "BENCH_HOSTS": str(self._hosts),
            "BENCH_SSH_CONFIG": str(self._ssh_config),
            "ANSIBLE_SSH_COMMON_ARGS": f"-F {self._ssh_config}",
        }
        dropped = ("ISTHMUS_HOSTS", "PYTHONPATH")
        env = {**{key: value for key, value in os.environ.items() if key not in dropped}, **settings}
        return must(self._lab.admin_command(command), env=env, cwd=rivals.ROOT, says=says, called=" ".join(command))


def _told(inventory: Inventory) -> dict[str, object]:
    """Return what the competitors are told of the hosts, in the form of an Ansible inventory."""
    hosts = {}
    for name, config in compile_mesh(inventory).items():
        chains = iptables_lines(config.firewall)
        firewall: list[str] = []
        for table in sorted({chain.table for chain in chains}):
            own = sorted((chain for chain in chains if chain.table == table), key=lambda chain: chain.chain)
            firewall += [f"*{table}", *(f":{chain.chain} - [0:0]" for chain in own)]
            firewall += [line for chain in own for line in chains[chain]] + ["COMMIT"]
        hosts[name] = {
            "header": HEADER,
            "program": str(FILES / PROGRAM.lstrip("/")),
            "address": str(config.address),
            "listen_port": config.listen_port,
            "mtu": config.mtu,
            "peers": [
                {
                    "host": peer.host,
                    "allowed_ips": [str(network) for network in peer.allowed_ips],
                    "endpoint": str(peer.endpoint) if peer.endpoint else None,
                    "persistent_keepalive": peer.persistent_keepalive,
                }
                for peer in config.peers
            ],
            "routes": [*(route_line(r, str(config.address)) for r in config.routes), *map(rule_line, config.rules)],
            "firewall": firewall,
            "sysctls": config.sysctls,
        }
    return {"mesh": {"hosts": hosts}}


def _ssh_config(inventory: Inventory) -> str:
    """Return what a user has in ~/.ssh/config for these hosts; Isthmus does without, OpenSSH and the others do not."""
    lines = ["Host *", "  StrictHostKeyChecking yes", "  BatchMode yes"]
    for host in inventory.hosts.values():
        lines += [f"Host {host.name}", f"  HostName {host.public or host.address}", f"  User {host.ssh.user}"]
        if host.ssh.port != 22:  # pyinfra's ProxyJump looks a host key up with the port where one is set
            lines.append(f"  Port {host.ssh.port}")
        if not host.public and not inventory.is_gateway(host.name):
            lines.append(f"  ProxyJump {inventory.gateway_of(host.site).name}")
    return "".join(f"{line}\n" for line in lines)


def _provide_apt_bindings(lab: Lab, host: str, folder: Path) -> None:
    """Install python3-apt where the image lacks it: Ansible's apt module needs it, and cloud images bring it."""
    if lab.host_run(host, "python3 -c 'import apt'").returncode == 0:
        return
    system, ours = (
        lab.host_run(host, ". /etc/os-release; echo $VERSION_CODENAME").stdout.strip(),
        platform.freedesktop_os_release(),
    )
    if system != ours.get("VERSION_CODENAME"):
        raise BenchError(f"{host} is {system} without python3-apt, and this machine is another Debian")
    packages = folder / "python3-apt"
    if not packages.is_dir():
        packages.mkdir(mode=0o755)
        # distro-info-data and python-apt-common are its only dependencies that a bare Debian lacks.
        download = ("apt-get", "-qq", "download", "python3-apt", "python-apt-common", "distro-info-data")
        try:
            must(download, cwd=packages)
        except BenchError:  # no lists, or old ones
            must(("apt-get", "-qq", "update"))
            must(download, cwd=packages)
    archive = subprocess.run(("tar", "-C", str(packages), "-c", "."), check=True, capture_output=True).stdout
    command = lab.host_command(
        host, "rm -rf /tmp/debs; mkdir /tmp/debs; tar -C /tmp/debs -x; dpkg -i /tmp/debs/*.deb; rm -r /tmp/debs"
    )
    result = subprocess.run(command, input=archive, capture_output=True, check=False)
    if lab.host_run(host, "python3 -c 'import apt'").returncode:
        raise BenchError(f"{host}: python3-apt cannot be installed: {result.stderr.decode()}")


# --- noop ---------------------------------------------------------------------------------------------------------


def _measure_noop(results: Results, contenders: Contenders) -> None:
    ways: Mapping[str, Callable[[], Ended]] = {
        "isthmus": contenders.noop_isthmus,
        "pyinfra": contenders.noop_pyinfra,
        "floor": contenders.floor,
        "ansible": contenders.noop_ansible,
        "ansible_ping": contenders.ansible_ping,
    }
    fewer = {"ansible": NOOP_ROUNDS_OF_ANSIBLE, "ansible_ping": NOOP_ROUNDS_OF_ANSIBLE}
    series = interleave(ways, NOOP_ROUNDS, fewer)
    contenders.plan()  # still as Isthmus would have it
    for key, value in series.items():
        results.put_series(f"noop_{key}", value)
    ratios = {key: series["isthmus"].ratio(series[key]) for key in ("ansible", "pyinfra", "floor")}
    for key, ratio in ratios.items():
        results.put(f"noop_vs_{key}", ratio)
    results.put("noop_isthmus_mb", series["isthmus"].peak_mb)
    versions = rivals.versions()
    how = (
        f"mesh.up takes {ratios['ansible']:.3f} of Ansible's time, {ratios['pyinfra']:.2f} of pyinfra's, "
        f"{ratios['floor']:.2f} floors (medians of the ratios within a round). "
        f"Whole processes, interleaved after a warm-up. ansible-core {versions['ansible_core']}: pipelining, "
        f"ControlPersist (its connections are warm), no facts; pyinfra {versions['pyinfra']}. Both compare the same "
        "files, packages and unit, but not what runs: peers, routes, rules, firewall, sysctls. "
        "ssh true: all hosts at once, n3 through n1, no multiplexing."
    )
    rows = [seconds_row(_NAMES[key], value) for key, value in series.items()]
    print_table("noop: four hosts with the mesh up, nothing to do", how, SECONDS, rows)


# --- first --------------------------------------------------------------------------------------------------------


def _measure_first(results: Results, contenders: Contenders) -> None:
    def after_forgetting(way: Callable[[], Ended]) -> Callable[[], Ended]:
        def run() -> Ended:
            contenders.forget()
            ended = way()
            contenders.plan()
            return ended

        return run

    ways = {"isthmus": after_forgetting(contenders.isthmus), "ansible": after_forgetting(contenders.ansible)}
    series = interleave(ways, FIRST_ROUNDS)
    for key, value in series.items():
        results.put_series(f"first_{key}", value)
    ratio = series["isthmus"].ratio(series["ansible"])
    results.put("first_vs_ansible", ratio)
    how = (
        f"mesh.up takes {ratio:.2f} of Ansible's time. Packages are there; before each run mesh.down --forget-keys, "
        "after it mesh.plan must find nothing to do. "
        "mesh.up also proves the network, arms and disarms the undo timer, and pings between every pair at the end."
    )
    rows = [seconds_row(_NAMES[key], value) for key, value in series.items()]
    print_table("first: the same four hosts with nothing of ours on them", how, SECONDS, rows)
