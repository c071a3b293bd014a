"""Whatever may happen to a mesh and its admin, as a list of named operations over one state, drawn from a seed.

chaos = Chaos(admin, seed=7)
for operation in chaos.draw(10):
    chaos.do(operation)
chaos.heal()

What an operation is and where it strikes depends on the seed alone; when exactly a kill hits does not. Operations may
fail, since others struck before them: nothing is asked of them but that the program never shows a traceback.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import disks
from promises import ARTICLE
from workstation import Admin

from isthmus.inventory import load_inventory
from isthmus.lab import Lab

REDIS = '\n[resources.redis]\nsite = "shanghai"\naddress = "172.16.128.51"\nport = 6379\n'
GATEWAYS = (("n1",), ("n1", "n2"), ("n2", "n1"))
PUBLIC = {
    "n1": ("203.0.113.1", "203.0.113.11"),
    "n2": ("203.0.113.2", "203.0.113.12"),
    "s1": ("203.0.113.129", "203.0.113.139"),
}
MTUS = (1420, 1400, 1380, 1300)
LONGEST_RUN_S = 2.0
"""A run is killed within so many seconds of the first that it says; on a quiet machine the rest takes one."""


@dataclass
class Wish:
    """What hosts.toml says, where it is not what the article says."""

    gateways: tuple[str, ...] = GATEWAYS[0]
    away: set[str] = field(default_factory=set)
    mtu: int = MTUS[0]
    redis: bool = False
    preshared: bool = False
    public: dict[str, str] = field(default_factory=lambda: {host: first for host, (first, _) in PUBLIC.items()})

    def text(self) -> str:
        """Return hosts.toml."""
        text = ARTICLE.replace('gateways = ["n1"]', f"gateways = [{', '.join(map(_quoted, self.gateways))}]")
        preshared = str(self.preshared).lower()
        text = text.replace("[mesh]\n", f"[mesh]\nmtu = {self.mtu}\npreshared_keys = {preshared}\n")
        for host, address in self.public.items():
            text = text.replace(_quoted(PUBLIC[host][0]), _quoted(address))
        for host in self.away:
            text = re.sub(rf"^\[hosts\.{host}\]\n.*?^(?=\[)", "", text, flags=re.MULTILINE | re.DOTALL)
        return text + (REDIS if self.redis else "")

    def clouds(self) -> str:
        """Return the inventory of all that there is in the clouds, whether the mesh has it or not."""
        return Wish(redis=True, public=self.public).text()


def _quoted(text: str) -> str:
    return f'"{text}"'


class Chaos:
    """The state: what is wished for, what is broken outside of us, and the numbers still to be drawn."""

    def __init__(self, admin: Admin, seed: int) -> None:
        self.admin = admin
        self.random = random.Random(seed)
        self.wish = Wish()
        self.cut: set[str] = set()
        self.full: set[str] = set()
        self.count = 0

    # --- operations -----------------------------------------------------------------------------------------------

    def draw(self, count: int) -> Iterator[Callable[[Chaos], None]]:
        """Yield operations like cards from a pack: each comes once before any comes again."""
        for number in range(count):
            if number % len(OPERATIONS) == 0:
                pack = self.random.sample(OPERATIONS, len(OPERATIONS))
            yield pack[number % len(OPERATIONS)]

    def do(self, operation: Callable[[Chaos], None]) -> None:
        """Do it, and say so before."""
        self.count += 1
        self.say(f"{self.count:3} {operation.__name__.replace('_', ' ')}: ")
        began = time.monotonic()
        operation(self)
        self.say(f"  ({time.monotonic() - began:.1f} s)\n")

    def say(self, what: object) -> None:
        """Tell whoever runs with -s now, everybody else when it has failed."""
        sys.stdout.write(str(what))
        sys.stdout.flush()

    def heal(self) -> None:
        """Undo what was broken outside of us. A lock of dpkg goes by itself."""
        for name in sorted(self.cut):
            self.admin.lab.heal(name)
        for host in sorted(self.full):
            disks.free(self.admin, host)
        self.cut.clear()
        self.full.clear()

    # --- what they are made of ------------------------------------------------------------------------------------

    def host(self) -> str:
        return self.random.choice(self.admin.hosts)

    def wishing(self) -> None:
        """Write what is wished for now."""
        self.admin.file.write_text(self.wish.text(), encoding="utf-8")

    def inv(self, line: str, file: Path | None = None) -> None:
        """Run something that may fail: on a host, or since what is asked is impossible now."""
        ended = self.admin.inv(line, file)
        self.say(f"{line}: exit {ended.returncode}; ")
        assert ended.returncode in (0, 1, 2), f"{ended.stdout}{ended.stderr}"

    @contextmanager
    def running(self, line: str, file: Path | None = None) -> Iterator[subprocess.Popen[str]]:
        """Start something and go on some time after the first thing it says; at last wait for its end."""
        after = self.random.uniform(0, LONGEST_RUN_S)
        with self.admin.start(self.admin.command(line, file)) as run:
            assert run.stderr is not None
            first = run.stderr.readline()
            deadline = time.monotonic() + after
            while run.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            self.say(f"{line}: {after:.2f} s after its first word ")
            yield run
            _, rest = run.communicate()
        said = first + rest
        self.say(f", exit {run.returncode} at {said.strip().splitlines()[-1:]}; ")
        assert "Traceback" not in said, said

    def killed(self, line: str, file: Path | None = None) -> None:
        """Start something and kill it."""
        with self.running(line, file) as run:
            self.say("killed")
            run.kill()

    def by_hand(self, hands: tuple[str, ...]) -> None:
        """Let somebody do one of these on a member, PEER being one of its peers; it may fail."""
        host = self.random.choice([name for name in self.admin.hosts if name not in self.wish.away])
        command = self.random.choice(hands)
        number = self.random.randint(1, 3)
        command = command.replace("PEER", f"$(wg show wg0 peers | sort | head -n {number} | tail -n 1)")
        ended = self.admin.lab.host_run(host, f"exec 2>&1; {command}", timeout=60)
        why = ended.stdout.strip().partition("\n")[0]
        self.say(f"{host}: {command}" + (f" [{why}]" if ended.returncode else ""))


# --- the inventory changes ------------------------------------------------------------------------------------------


def a_leaf_leaves_or_comes_back(chaos: Chaos) -> None:
    host = chaos.random.choice([name for name in ("n2", "n3") if name not in chaos.wish.gateways])
    chaos.wish.away ^= {host}
    chaos.wishing()
    chaos.say(f"{host} {'leaves' if host in chaos.wish.away else 'comes back'}")


def other_gateways(chaos: Chaos) -> None:
    chaos.wish.gateways = chaos.random.choice([these for these in GATEWAYS if these != chaos.wish.gateways])
    chaos.wish.away -= {*chaos.wish.gateways}
    chaos.wishing()
    chaos.say(f"of nanjing: {', '.join(chaos.wish.gateways)}")


def another_mtu(chaos: Chaos) -> None:
    chaos.wish.mtu = chaos.random.choice([mtu for mtu in MTUS if mtu != chaos.wish.mtu])
    chaos.wishing()
    chaos.say(chaos.wish.mtu)


def a_resource_comes_or_goes(chaos: Chaos) -> None:
    chaos.wish.redis = not chaos.wish.redis
    chaos.wishing()
    chaos.say(f"redis {'comes' if chaos.wish.redis else 'goes'}")


def preshared_keys_or_none(chaos: Chaos) -> None:
    chaos.wish.preshared = not chaos.wish.preshared
    chaos.wishing()
    chaos.say(chaos.wish.preshared)


def another_public_address(chaos: Chaos) -> None:
    host = chaos.random.choice(list(PUBLIC))
    (chaos.wish.public[host],) = {*PUBLIC[host]} - {chaos.wish.public[host]}
    chaos.say(f"{host} has {chaos.wish.public[host]}")
    chaos.heal()  # the clouds' owner waits until every host answers
    chaos.wishing()
    clouds = chaos.admin.file.with_name("clouds.toml")
    clouds.write_text(chaos.wish.clouds(), encoding="utf-8")
    lab = chaos.admin.lab
    chaos.admin.lab = Lab(load_inventory(clouds), lab.names.name, lab.options)
    chaos.admin.lab.up()


def a_gateway_is_drained_or_undrained(chaos: Chaos) -> None:
    if len(chaos.wish.gateways) == 1:
        other_gateways(chaos)
        chaos.say(": ")
    chaos.inv("mesh.up")  # what waits would be refused
    for verb in chaos.random.choice((["drain"], ["drain"], ["undrain"], ["drain", "undrain"])):
        chaos.inv(f"mesh.{verb} {chaos.random.choice(('n1', 'n2'))}")


# --- the program ----------------------------------------------------------------------------------------------------


def a_run_is_killed(chaos: Chaos) -> None:
    another_mtu(chaos)  # so that there is something to do on every host
    chaos.say(": ")
    chaos.killed(f"mesh.up --undo-after {chaos.random.choice((5, 10, 20))}")


def a_run_in_the_midst_of_it(chaos: Chaos) -> None:
    prune = chaos.random.choice(("", f" --prune {chaos.admin.file.with_name('clouds.toml')}"))
    chaos.inv(f"mesh.up --undo-after {chaos.random.choice((10, 20))}{prune}")


def two_runs_at_once(chaos: Chaos) -> None:
    files = []
    for _ in range(2):
        another_mtu(chaos)
        chaos.say(" ")
        files.append(chaos.admin.beside(f"mtu{chaos.wish.mtu}.toml"))
    runs = [chaos.admin.start(chaos.admin.command("mesh.up --undo-after 20", file)) for file in files]
    for run in runs:
        _, stderr = run.communicate()
        assert "Traceback" not in stderr, stderr
        chaos.say(f"exit {run.returncode} at {stderr.strip().splitlines()[-1:]}; ")


def the_mesh_is_taken_off(chaos: Chaos) -> None:
    line = "mesh.down" + chaos.random.choice(("", f" --only {chaos.host()}", " --forget-keys"))
    everybody = chaos.admin.file.with_name("clouds.toml")
    if chaos.random.random() < 0.5:
        chaos.inv(line, everybody)
    else:
        chaos.killed(line, everybody)


def undo_timers_fire(chaos: Chaos) -> None:
    chaos.say(sorted(chaos.admin.unsettled()))
    chaos.admin.settle()


# --- hosts and clouds -----------------------------------------------------------------------------------------------


def a_host_is_rebooted(chaos: Chaos) -> None:
    host, hard = chaos.host(), chaos.random.random() < 0.5
    chaos.say(f"{host}, {'power cut' if hard else 'in order'}")
    chaos.admin.lab.reboot(host, hard=hard)
    chaos.cut.discard(host)


def a_link_is_cut_or_healed(chaos: Chaos) -> None:
    if chaos.cut and chaos.random.random() < 0.5:
        name = chaos.random.choice(sorted(chaos.cut))
        chaos.admin.lab.heal(name)
    else:
        name = chaos.random.choice([*chaos.admin.hosts, *chaos.admin.lab.inventory.sites])
        chaos.admin.lab.cut(name)
    chaos.cut ^= {name}
    chaos.say(f"{name} {'cut' if name in chaos.cut else 'healed'}")


def a_disk_is_full_or_freed(chaos: Chaos) -> None:
    if chaos.full and chaos.random.random() < 0.5:
        host = chaos.random.choice(sorted(chaos.full))
        disks.free(chaos.admin, host)
        chaos.full.discard(host)
        chaos.say(f"{host} freed")
    else:
        host, left_kb = chaos.host(), chaos.random.choice((0, 8, 40))
        disks.fill(chaos.admin, host, left_kb)
        chaos.full.add(host)
        chaos.say(f"{host} full, {left_kb} kB free")


def a_package_goes_and_dpkg_is_busy(chaos: Chaos) -> None:
    host, seconds = chaos.host(), chaos.random.choice((3, 8))
    lock = f"import fcntl, time; f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, 2); time.sleep({seconds})"
    chaos.say(f"{host}, for {seconds} s")
    chaos.admin.lab.host_run(host, "dpkg --purge iputils-ping")
    chaos.admin.lab.host_run(host, ["setsid", "-f", "sh", "-c", f'exec python3 -c "{lock}" >/dev/null 2>&1 </dev/null'])


# --- hands ----------------------------------------------------------------------------------------------------------

# Nothing here asks for what is refused on purpose: a foreign wg0.conf, a foreign route to another site, a masked unit.


def hands_on_wireguard(chaos: Chaos) -> None:
    chaos.by_hand(
        (
            "wg set wg0 peer PEER remove",
            "wg set wg0 peer PEER allowed-ips 172.16.128.0/25",
            "wg set wg0 peer PEER persistent-keepalive 7",
            "wg set wg0 peer PEER endpoint 198.51.100.77:1234",
            "wg genpsk >/run/psk; wg set wg0 peer PEER preshared-key /run/psk",
            "wg set wg0 peer AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE= allowed-ips 172.16.0.0/16",
            "wg genkey >/run/key; wg set wg0 private-key /run/key",
            "wg set wg0 listen-port 4444",
            "ip link set mtu 1280 dev wg0",
            "ip link set wg0 down",
            "ip link del wg0",
            "ip address flush dev wg0",
            "ip address add 172.16.99.9/24 dev wg0",
        )
    )


def hands_on_routes(chaos: Chaos) -> None:
    chaos.by_hand(
        (
            "ip route flush dev wg0",
            "ip route del $(ip route show dev wg0 proto 182 | head -n 1)",
            "ip route replace $(ip route show dev wg0 proto 182 | head -n 1 | cut -d ' ' -f 1) dev wg0",
            "ip route add 172.16.9.0/24 dev wg0 proto 182",
            "ip route add 172.16.9.0/24 dev wg0 table 77 proto 182",
            "ip route flush table 5182 dev wg0",
            "ip rule del iif wg0 priority 5182",
            "ip rule add iif wg0 lookup 77 priority 77 protocol 182",
            "ip rule add iif wg0 lookup 5182 priority 5190 protocol 182",
        )
    )


def hands_on_the_firewall(chaos: Chaos) -> None:
    chaos.by_hand(
        (
            "iptables -F ISTHMUS-INPUT",
            "iptables -F ISTHMUS-FORWARD",
            "iptables -t mangle -F ISTHMUS-FORWARD",
            "iptables -t nat -F ISTHMUS-POSTROUTING",
            "iptables -D INPUT -j ISTHMUS-INPUT",
            "iptables -D FORWARD -j ISTHMUS-FORWARD",
            "iptables -D FORWARD -j ISTHMUS-FORWARD; iptables -F ISTHMUS-FORWARD; iptables -X ISTHMUS-FORWARD",
            "iptables -I INPUT -j ISTHMUS-INPUT",
            "iptables -I ISTHMUS-INPUT -p udp -j DROP",
            "iptables -I ISTHMUS-FORWARD -j DROP",
            "iptables -A ISTHMUS-FORWARD -j LOG --log-prefix 'mesh: '",
        )
    )


def hands_on_files(chaos: Chaos) -> None:
    chaos.by_hand(
        (
            "rm /etc/wireguard/wg0.conf",
            "rm /etc/wireguard/wg0.key",
            "rm -r /etc/wireguard/wg0.psk",
            "sed -i 's/^MTU = .*/MTU = 1281/' /etc/wireguard/wg0.conf",
            "sed -i '/^\\[Peer\\]/,$d' /etc/wireguard/wg0.conf",
            "sed -i 's/$/\\r/' /etc/wireguard/wg0.conf",
            "chmod 644 /etc/wireguard/wg0.conf /etc/wireguard/wg0.key",
            ": >/etc/isthmus/wg0.iptables",
            "rm /etc/isthmus/wg0.routes",
            "echo 'route add 172.16.77.0/24 dev wg0 proto 182' >>/etc/isthmus/wg0.routes",
            "rm /etc/isthmus/wg0.routes /etc/isthmus/wg0.iptables",
            "ln -sf /dev/null /etc/isthmus/wg0.iptables",
            "rm /etc/sysctl.d/90-isthmus.conf",
            "rm /usr/local/sbin/isthmus",
            "echo exit 1 >/usr/local/sbin/isthmus",
            "chmod 644 /usr/local/sbin/isthmus",
        )
    )


def hands_on_the_unit(chaos: Chaos) -> None:
    chaos.by_hand(
        (
            "systemctl stop wg-quick@wg0",
            "systemctl disable wg-quick@wg0",
            "systemctl disable --now wg-quick@wg0",
            "systemctl restart wg-quick@wg0",
            "wg-quick down wg0",
            # setting it also undoes what somebody had hardened; the hand knows that
            "sysctl -qw net.ipv4.ip_forward=0; sysctl -qw net.ipv4.conf.all.accept_redirects=0",
            "sysctl -qw net.ipv4.conf.all.send_redirects=1 net.ipv4.conf.default.send_redirects=1",
        )
    )


HANDS = (hands_on_wireguard, hands_on_routes, hands_on_the_firewall, hands_on_files, hands_on_the_unit)


def keys_are_rotated(chaos: Chaos) -> None:
    line = "mesh.rotate-keys" + chaos.random.choice(("", f" --only {chaos.host()}"))
    chaos.inv("mesh.up")  # what waits would be refused
    if chaos.random.random() < 0.5:
        chaos.inv(line)
    else:
        chaos.killed(line)


def something_happens_under_a_run(chaos: Chaos) -> None:
    happens = chaos.random.choice((a_host_is_rebooted, a_link_is_cut_or_healed, a_disk_is_full_or_freed, *HANDS))
    another_mtu(chaos)
    chaos.say(": ")
    with chaos.running(f"mesh.up --undo-after {chaos.random.choice((10, 20))}"):
        happens(chaos)


OPERATIONS: tuple[Callable[[Chaos], None], ...] = (
    a_leaf_leaves_or_comes_back,
    other_gateways,
    another_mtu,
    a_resource_comes_or_goes,
    preshared_keys_or_none,
    another_public_address,
    a_gateway_is_drained_or_undrained,
    a_run_is_killed,
    a_run_in_the_midst_of_it,
    two_runs_at_once,
    the_mesh_is_taken_off,
    keys_are_rotated,
    something_happens_under_a_run,
    undo_timers_fire,
    a_host_is_rebooted,
    a_link_is_cut_or_healed,
    a_disk_is_full_or_freed,
    a_package_goes_and_dpkg_is_busy,
    *HANDS,
)
