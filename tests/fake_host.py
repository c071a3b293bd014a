"""Hosts in memory that behave, and the fleet that leads to them: for speed, beside the lab's real ones.

A FakeHost has files, packages, a key, a running interface, an undo timer and a clock. It runs the scripts of
scripts/host by recognising their very texts; what it does not know fails the test. `str(host)` is the machine as text.
That it answers as a real host does is tested in test_fake_host.py.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from typing import Any

import pytest

from isthmus.errors import CommandError, HostError, UnreachableError
from isthmus.host_scripts import SCRIPTS
from isthmus.model import Inventory
from isthmus.remote.way import Way, find_way

INPUTS = {
    "probe": {"interface"},
    "prepare": {"interface", "packages", "apt_wait"},
    "apply": {"interface", "owner", "undo_after", "moment"},
    "confirm": {"owner"},
    "undo": {"owner"},
    "giveback": {"interface", "site", "gateway"},
    "leave": {"interface", "forget_keys"},
    "preshare": {"interface", "owner"},
    "reach": {"count", "wait_s"},
    "answer": {"port", "token", "idle_s"},
    "hush": {"pid", "token"},
    "largest": {"token", "tries", "wait_s"},
}
TEXTS = {name: (SCRIPTS / f"{name}.sh").read_text(encoding="utf-8") for name in INPUTS}
TOOLS = {
    "wireguard-tools": ("wg", "wg-quick"),
    "iptables": ("iptables", "iptables-restore"),
    "iputils-ping": ("ping",),
}
PARENTS = {"ISTHMUS-INPUT": "INPUT", "ISTHMUS-FORWARD": "FORWARD", "ISTHMUS-POSTROUTING": "POSTROUTING"}
LOOKED_UP = "198.51.100.77"
"""Where every DNS name leads."""
PROGRAM = "/usr/local/sbin/isthmus"
SYSCTL_FILE = "/etc/sysctl.d/90-isthmus.conf"
NAMES_UNIT = "/etc/systemd/system/isthmus-names.service"
OUR_SYSCTLS = ("net.ipv4.conf.all.send_redirects", "net.ipv4.conf.default.send_redirects", "net.ipv4.ip_forward")


class Clock:
    """The time of all hosts and of the program under test; nobody waits for real."""

    def __init__(self) -> None:
        self.now = 1_795_416_825.0
        self.watchers: list[Callable[[], None]] = []

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for watch in self.watchers:
            watch()


class ScriptError(Exception):
    """A script ends with another status than 0, and with these last words."""

    def __init__(self, words: str, status: int | None = 1) -> None:
        self.status = status
        super().__init__(words)


@dataclass
class FakePeer:
    """A peer of the running interface, in `wg show`'s words."""

    allowed_ips: list[str]
    endpoint: str = "(none)"
    keepalive: str = "off"
    latest_handshake: int = 0
    preshared_key: str = "no"


@dataclass
class Running:
    """The running interface."""

    private_key: str
    port: str
    mtu: str
    addresses: list[str]
    up: bool = True
    peers: dict[str, FakePeer] = field(default_factory=dict)


@dataclass
class State:
    """What a transaction saves and an undo puts back."""

    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    running: Running | None = None
    routes: set[str] = field(default_factory=set)
    """Ours, in the words of the routes file, and rules too."""
    chains: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    jumps: set[tuple[str, str]] = field(default_factory=set)
    enabled: bool = False
    looks_up_names: bool = False
    preshared: dict[str, str] = field(default_factory=dict)
    """The keys in /etc/wireguard/wg0.psk, by the name of the other host."""
    watching: bool = False
    sysctls: dict[str, str] = field(default_factory=dict)


@dataclass
class Transaction:
    """An unconfirmed change."""

    owner: str
    deadline: float
    before: State
    private_key: str | None = None
    new_key: str | None = None
    staged: dict[str, tuple[str, int]] = field(default_factory=dict)
    rounds: list[str] = field(default_factory=list)
    preshared: dict[str, str] = field(default_factory=dict)


class FakeHost:
    """One host. Set an attribute to break it; `before` and `after` have functions to call around a script."""

    def __init__(self, name: str, address: str, clock: Clock | None = None, interface: str = "wg0") -> None:
        self.name = name
        self.clock = clock or Clock()
        self.interface = interface
        self.system = "debian 12"
        self.addresses = [("lo", "127.0.0.1/8"), ("eth0", address)]
        self.foreign_routes: list[str] = []
        self.policies = {"INPUT": "ACCEPT", "FORWARD": "ACCEPT"}
        self.packages: set[str] = set()
        self.private_key: str | None = None
        self.key_mode = 0o600
        self.state = State(sysctls={name: "1" if "redirects" in name else "0" for name in OUR_SYSCTLS})
        self.sysctls_before: dict[str, str] | None = None
        self.transaction: Transaction | None = None
        self.charges: list[tuple[str, str, str]] = []
        self.noted_s = 60  # how long ago
        """What its watcher has noted: (site, gateway, why)."""
        self.keeps_charge = ""
        self.moment = 0
        """When the last change of peers was to be made."""
        # How it can be broken.
        self.unreachable: str | None = None
        self.cut_off_by_change = False
        self.clock_is_off = 0.0
        self.deaf = False
        """It hears nobody by a new key."""
        self.apt_says: str | None = None
        self.disk_full = False
        self.sync_says: str | None = None
        self.before: dict[str, Callable[[], None]] = {}
        self.after: dict[str, Callable[[], None]] = {}
        self.lost: set[str] = set()
        self.replies: dict[str, str] = {}
        """What reach.sh prints of a name, if not 0.42 ms."""
        self.answers_not: str | None = None
        self.answering: set[tuple[str, str]] = set()
        """The process and token of each that answers."""
        self.carries: dict[str, int | None] = {}
        """The largest packet by the question's name; a path that is not here carries all that is asked for."""
        self.clock.watchers.append(self.tick)

    # --- what a test asks -------------------------------------------------------------------------------------------

    @property
    def public_key(self) -> str | None:
        """The public half; made up from the private one, and as long as a real one."""
        return None if self.private_key is None else public_half(self.private_key)

    @property
    def conf(self) -> str:
        """The path of the wg-quick file."""
        return f"/etc/wireguard/{self.interface}.conf"

    def __str__(self) -> str:
        """Return the machine as text; equal texts are equal hosts. The private key is not in it."""
        state = self.state
        lines = [f"{self.name} ({self.system}): {', '.join(sorted(self.packages)) or 'no packages'}"]
        lines.append(f"key {self.public_key or 'none'} {self.key_mode:04o}")
        lines += [f"file {path} {mode:04o} {_sum(text)}" for path, (text, mode) in sorted(state.files.items())]
        if state.running:
            own = state.running
            lines.append(
                f"{self.interface} {public_half(own.private_key)} {own.port} {own.mtu} {own.addresses} {own.up}"
            )
            for key, peer in sorted(own.peers.items()):
                shared = "" if peer.preshared_key == "no" else f" {peer.preshared_key}"
                lines.append(f"peer {key} {peer.endpoint} {sorted(peer.allowed_ips)} {peer.keepalive}{shared}")
        lines += [f"preshared with {name}: {_sum(secret)}" for name, secret in sorted(state.preshared.items())]
        lines += sorted(state.routes)
        lines += [f"{table} {chain}: {rules}" for (table, chain), rules in sorted(state.chains.items())]
        lines += [f"{table} jumps to {chain}" for table, chain in sorted(state.jumps)]
        lines += [f"{name} = {value}" for name, value in sorted(state.sysctls.items())]
        lines.append("starts at boot" if state.enabled else "does not start at boot")
        if self.transaction:
            lines.append(f"held by {self.transaction.owner}")
        return "\n".join(lines)

    def tick(self) -> None:
        """Let the undo timer fire if its time has come."""
        if self.transaction and self.clock.now >= self.transaction.deadline:
            self.undo()

    def undo(self) -> None:
        assert self.transaction is not None
        self.state = self.transaction.before
        self.private_key = self.transaction.private_key
        self.transaction = None

    def begin_anothers_run(self, owner: str, seconds: float) -> None:
        self._begin(owner, seconds)

    def _begin(self, owner: str, seconds: float) -> Transaction:
        deadline = self.clock.now + seconds
        self.transaction = Transaction(owner, deadline, copy.deepcopy(self.state), self.private_key)
        return self.transaction

    # --- scripts ----------------------------------------------------------------------------------------------------

    def run(self, script: str, stdin: bytes = b"") -> tuple[str, str]:
        """Run a script of scripts/host; return (its name, its output)."""
        self.stdin = stdin.decode()
        name = next((name for name, text in TEXTS.items() if text in script), None)
        if name is None:
            pytest.fail(f"a fake host is given a script it does not know:\n{script}")
        head, _, tail = script.partition(TEXTS[name])
        words = [word for line in head.splitlines() if not line.startswith("#") for word in shlex.split(line)]
        inputs = dict(word.split("=", 1) for word in words)
        assert inputs.keys() == INPUTS[name], f"{name}.sh needs {INPUTS[name]}, got {inputs}"
        self.before.get(name, lambda: None)()
        output = getattr(self, f"_{name}")(inputs, tail)
        assert self.stdin == "", "nobody reads it"
        self.after.get(name, lambda: None)()
        return name, output

    def _probe(self, inputs: dict[str, str], tail: str) -> str:
        assert tail == ""
        return "".join(f"{line}\n" for line in self._probe_lines(inputs["interface"]))

    def _probe_lines(self, interface: str) -> Iterator[str]:
        tools = [tool for package, tools in TOOLS.items() if package in self.packages for tool in tools]
        yield from ("@@ system", self.system, "@@ clock", str(int(self.clock.now)), "@@ tools", *tools)
        if interface == self.interface:
            yield from self._file_lines()
            yield from self._interface_lines()
        else:
            if f"/etc/isthmus/{self.interface}.routes" in self.state.files:
                yield f"@@ other {self.interface}"
            yield "@@ link"
        yield from self._route_lines()
        yield from self._firewall_lines()
        yield "@@ sysctls"
        yield from (f"{name.replace('.', '/')}:{value}" for name, value in self.state.sysctls.items())
        yield from ("@@ unit", "ActiveState=active", f"UnitFileState={'enabled' if self.state.enabled else 'disabled'}")
        if self.state.preshared:
            yield "@@ preshared"
            yield from (f"{name} {_sum(secret)}" for name, secret in self.state.preshared.items())
        if NAMES_UNIT in self.state.files:
            yield from ("@@ names", "active" if self.state.looks_up_names else "inactive")
        if self.state.watching:
            yield "@@ watch"
            yield from (
                f"{site} {gateway} {int(self.clock.now) - self.noted_s} {why}" for site, gateway, why in self.charges
            )
        if self.transaction:
            yield from ("@@ transaction", self.transaction.owner)
        yield "@@ end"

    def _file_lines(self) -> Iterator[str]:
        for path, (text, mode) in self.state.files.items():
            if path == PROGRAM:
                yield from (f"@@ program {mode:o}", f"{hashlib.sha256(text.encode()).hexdigest()}  -")
                continue
            yield f"@@ file {mode:o} {path}"
            *lines, last = text.split("\n")
            yield from (f" {line}" for line in lines)
            yield f" {last}" if last else ""
        if self.public_key and "wireguard-tools" in self.packages:
            yield from (f"@@ key {self.key_mode:o}", self.public_key)

    def _interface_lines(self) -> Iterator[str]:
        own = self.state.running
        if own is None:
            yield "@@ link"
            return
        yield from ("@@ wireguard", f"device {public_half(own.private_key)} {own.port}")
        for key, peer in own.peers.items():
            allowed_ips = ",".join(peer.allowed_ips) or "(none)"
            seen = f"{peer.endpoint} {allowed_ips} {peer.latest_handshake} 0 0 {peer.keepalive}"
            yield f"peer {key} {peer.preshared_key} {seen}"
        flags = "POINTOPOINT,MULTICAST,NOARP" + (",UP,LOWER_UP" if own.up else "")
        yield "@@ link"
        yield f"4: {self.interface}: <{flags}> mtu {own.mtu} qdisc noqueue state UNKNOWN qlen 500\\    link/none "

    def _route_lines(self) -> Iterator[str]:
        own = self.state.running.addresses if self.state.running else []
        yield "@@ addresses"
        for device, address in [*self.addresses, *((self.interface, address) for address in own)]:
            yield f"2: {device}    inet {address} scope global {device}\\       valid_lft forever preferred_lft forever"
        yield "@@ routes"
        for device, address in self.addresses[1:]:
            network, source = IPv4Interface(address).network, address.split("/")[0]
            yield f"unicast {network} dev {device} table main proto kernel scope link src {source} "
        yield from self.foreign_routes
        lines = [line.split() for line in sorted(self.state.routes)]
        for words in [words for words in lines if words[0] == "route"]:
            table = words[words.index("table") + 1] if "table" in words else "main"
            source = f" src {words[words.index('src') + 1]}" if "src" in words else ""
            yield f"unicast {words[2].removesuffix('/32')} dev {words[4]} table {table} proto 182 scope link{source} "
        yield from ("@@ rules", "0:\tfrom all lookup local")
        for _, _, _, iif, _, table, _, priority, *_ in [words for words in lines if words[0] == "rule"]:
            yield f"{priority}:\tfrom all iif {iif} lookup {table} proto 182"
        yield from ("32766:\tfrom all lookup main", "32767:\tfrom all lookup default")

    def _firewall_lines(self) -> Iterator[str]:
        chains = sorted(self.state.chains.items())
        yield "@@ firewall"
        for table in ("filter", "mangle", "nat"):
            yield f"*{table}"
            if table == "filter":
                yield from (f":{chain} {policy} [0:0]" for chain, policy in self.policies.items())
            yield from (f":{chain} - [0:0]" for (of, chain), _ in chains if of == table)
            yield from (f"-A {PARENTS[chain]} -j {chain}" for of, chain in sorted(self.state.jumps) if of == table)
            yield from (rule for (of, _), rules in chains if of == table for rule in rules)

    def _prepare(self, inputs: dict[str, str], tail: str) -> str:
        assert (inputs["interface"], tail) == (self.interface, "")
        packages = inputs["packages"].split()
        if packages and self.apt_says:
            raise ScriptError(self.apt_says, 100)
        assert set(packages) <= set(TOOLS), packages
        self.packages |= set(packages)
        assert "wireguard-tools" in self.packages, "there is no wg to make a key with"
        if self.private_key is None:
            self.private_key = f"the private key of {self.name}"
        self.key_mode = 0o600
        return f"{self.public_key}\n"

    def _apply(self, inputs: dict[str, str], tail: str) -> str:
        lines = tail.splitlines()
        verb = lines[-1].split()[0]
        if verb == "hold":
            return self._hold(inputs, lines)
        if verb in ("renew", "fire"):
            if self.transaction is None or self.transaction.owner != inputs["owner"]:
                raise ScriptError("the change was undone before it was begun")
            return self._renew(tail) if verb == "renew" else self._fire(inputs, tail)
        staged, discarded = _staged(tail, "commit\n")
        if self.disk_full:
            raise ScriptError(f"cannot save {min(staged)}: 0 free on /")
        if self.transaction:
            raise ScriptError(f"another run holds this host: {self.transaction.owner}", 75)
        if self.sysctls_before is None and SYSCTL_FILE in staged:
            self.sysctls_before = dict(self.state.sysctls)
        self.moment = int(inputs["moment"])
        self._begin(inputs["owner"], int(inputs["undo_after"]))
        self.state.files.update(staged)
        self._discard(discarded)
        try:
            self.sync()
        except ScriptError as error:
            self.undo()
            raise ScriptError(f"{error}; the old state was put back", error.status) from None
        if SYSCTL_FILE in discarded and self.sysctls_before is not None:
            self.state.sysctls = dict(self.sysctls_before)
        return "applied\n"

    def _discard(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.state.files.pop(path, None)
            if ".psk/" in path:
                self.state.preshared.pop(path.rpartition("/")[2])

    def _preshare(self, inputs: dict[str, str], tail: str) -> str:
        if self.disk_full:
            raise ScriptError("cannot save a preshared key")
        kept = self.state.preshared
        if inputs["owner"]:
            if self.transaction is None or self.transaction.owner != inputs["owner"]:
                raise ScriptError("the change was undone before it was begun")
            kept = self.transaction.preshared
        told = ""
        for line in tail.splitlines():
            verb, *name = line.split()
            if verb == "take":
                kept.update(line.split() for line in self.stdin.splitlines())  # type: ignore[arg-type]
                self.stdin = ""
            else:
                assert verb == "make"
                secret = kept.setdefault(name[0], f"SECRET-{self.name}-{name[0]}-{self.clock.now}")
                told += f"{name[0]} {secret}\n"
        return told

    def _hold(self, inputs: dict[str, str], lines: list[str]) -> str:
        *keep, verb = lines
        secrets = [
            f"/etc/wireguard/{self.interface}.{name}" for name in ("key", *(f"psk/{n}" for n in self.state.preshared))
        ]
        assert {*self.state.files, *secrets} == {line.split()[1] for line in keep}
        if self.transaction:
            raise ScriptError(f"another run holds this host: {self.transaction.owner}", 75)
        if self.disk_full:
            raise ScriptError("cannot save a new key")
        transaction = self._begin(inputs["owner"], int(inputs["undo_after"]))
        told = f"{self.clock.now + self.clock_is_off:.3f}\n"
        if verb == "hold no":
            return told
        assert verb == "hold yes"
        transaction.new_key = f"{self.private_key}, made anew"
        return f"{told}{public_half(transaction.new_key)}\n"

    def _renew(self, tail: str) -> str:
        assert self.transaction
        stage = tail[: tail.index("round ")]
        self.transaction.staged, _ = _staged(stage, "")
        *self.transaction.rounds, last = tail[len(stage) :].splitlines()
        assert last == "renew"
        return ""

    def _fire(self, inputs: dict[str, str], tail: str) -> str:
        assert (self.transaction is not None, tail) == (True, "fire\n")
        transaction = self.transaction
        assert transaction
        self.moment = int(inputs["moment"])
        assert 0 <= self.moment - self.clock.now <= 30
        rounds = [line.split() for line in transaction.rounds]
        assert rounds == sorted(rounds, key=lambda words: float(words[1]))
        assert [words[2] for words in rounds].count("own") == (transaction.new_key is not None)
        heard = {key: peer.latest_handshake for key, peer in self.state.running.peers.items()}  # type: ignore[union-attr]
        self.private_key = transaction.new_key or self.private_key
        self.state.files.update(transaction.staged)
        self.state.preshared.update(transaction.preshared)
        try:
            self.sync()
        except ScriptError as error:
            self.undo()
            raise ScriptError(f"{error}; the old state was put back", error.status) from None
        assert not transaction.preshared or [words[2] for words in rounds].count("preshared") == 1
        for _, _, _, old, new in [words for words in rounds if words[2] == "peer"]:
            assert self.state.running
            if not self.deaf:
                self.state.running.peers[new].latest_handshake = heard[old]
        return "applied\n"

    def _confirm(self, inputs: dict[str, str], tail: str) -> str:
        assert tail == ""
        if self.transaction is None or self.transaction.owner != inputs["owner"]:
            raise ScriptError("the change was undone before it was confirmed")
        if SYSCTL_FILE in self.transaction.before.files and SYSCTL_FILE not in self.state.files:
            self.sysctls_before = None
        self.transaction = None
        return ""

    def _undo(self, inputs: dict[str, str], tail: str) -> str:
        assert tail == ""
        if self.transaction and inputs["owner"] == self.transaction.owner:
            self.undo()
        return ""

    def _leave(self, inputs: dict[str, str], tail: str) -> str:
        assert (inputs["interface"], tail) == (self.interface, "")
        self.transaction = None
        state = self.state
        sysctls = self.sysctls_before if SYSCTL_FILE in state.files else None
        self.state = State(sysctls=sysctls or state.sysctls)
        self.sysctls_before = None
        if inputs["forget_keys"] == "yes":
            self.private_key = None
        return ""

    def _giveback(self, inputs: dict[str, str], tail: str) -> str:
        assert (inputs["interface"], tail) == (self.interface, "")
        if self.keeps_charge:
            raise ScriptError(self.keeps_charge)
        self.charges = [(inputs["site"], inputs["gateway"], "as was asked for")]
        return ""

    def _reach(self, inputs: dict[str, str], tail: str) -> str:
        *targets, last = tail.splitlines()
        assert last == "wait"
        names = [re.fullmatch(r"to (\S+) [\d.]+ (\d+|-)", line) for line in targets]
        assert all(names), targets
        told = [(name[1], "-" if name[1] in self.lost else self.replies.get(name[1], "0.42")) for name in names if name]
        return "".join(f"{name} {reply}\n" for name, reply in told)

    def _answer(self, inputs: dict[str, str], tail: str) -> str:
        assert tail == ""
        if self.answers_not:
            raise ScriptError(self.answers_not)
        self.answering.add((f"47{inputs['port']}", inputs["token"]))
        return f"47{inputs['port']}\n"

    def _hush(self, inputs: dict[str, str], tail: str) -> str:
        assert tail == ""
        self.answering.remove((inputs["pid"], inputs["token"]))
        return ""

    def _largest(self, inputs: dict[str, str], tail: str) -> str:
        *questions, last = tail.splitlines()
        assert last == "wait"
        told = []
        for line in questions:
            match = re.fullmatch(r"to (\S+) [\d.]+ (?:\d+|-) (\d+) (\d+)", line)
            assert match, line
            name, least, most = match[1], int(match[2]), int(match[3])
            size = self.carries.get(name, None if name.startswith("beyond:") else most)
            told.append(f"{name} {'-' if size is None or size < least else min(size, most)}\n")
        return "".join(told)

    # --- the program ------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Bring what runs to what the files say, as files/usr/local/sbin/isthmus does."""
        state = self.state
        assert PROGRAM in state.files, "there is no program to run"
        if self.sync_says:
            raise ScriptError(self.sync_says)
        if self.private_key is None or not {"wireguard-tools", "iptables"} <= self.packages:
            raise ScriptError("Job for wg-quick@wg0.service failed")
        settings, peers = _read_conf(state.files[self.conf][0])
        assert "PrivateKey" not in settings
        handshakes = {
            key: peer.latest_handshake for key, peer in (state.running.peers if state.running else {}).items()
        }
        for key, peer in peers.items():
            if not re.fullmatch(r"[A-Za-z0-9+/]{43}=", key):
                raise ScriptError(f"Key is not the correct length or format: `{key}'")
            peer.latest_handshake = handshakes.get(key, 0)
            if peer.preshared_key != "no":
                secret = state.preshared.get(peer.preshared_key)
                peer.preshared_key = _sum(secret) if secret else "no"
        if public_half(self.private_key) in peers:
            raise ScriptError("a peer has the host's own key")
        state.running = Running(
            self.private_key, settings["ListenPort"], settings["MTU"], settings["Address"].split(", "), peers=peers
        )
        routes = state.files[f"/etc/isthmus/{self.interface}.routes"][0]
        state.routes = {line for line in routes.splitlines() if not line.startswith("#")}
        state.chains = _read_chains(state.files[f"/etc/isthmus/{self.interface}.iptables"][0])
        state.jumps = set(state.chains)
        text, _ = state.files.get(SYSCTL_FILE, ("", 0))
        state.sysctls.update(line.split(" = ") for line in text.splitlines() if line.startswith("net."))  # type: ignore[arg-type]
        state.enabled = True
        state.looks_up_names = NAMES_UNIT in state.files
        state.watching = f"/etc/isthmus/{self.interface}.watch" in state.files
        for site, gateway, _ in self.charges if state.watching else ():
            self._move_charge(site, gateway)

    def _move_charge(self, site: str, gateway: str) -> None:
        """Move AllowedIPs as the watch file says where its second gateway is in charge."""
        assert self.state.running is not None
        words = [line.split() for line in self.state.files[f"/etc/isthmus/{self.interface}.watch"][0].splitlines()]
        if any(line[0] == "follow" and (line[1], line[3]) == (site, gateway) for line in words):
            for _, _, key, networks in [line for line in words if line[:2] == ["moved", site]]:
                self.state.running.peers[key].allowed_ips = [text for text in networks.split(",") if text != "-"]


def public_half(private_key: str) -> str:
    return base64.b64encode(hashlib.sha256(private_key.encode()).digest()).decode()


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _staged(tail: str, end: str) -> tuple[dict[str, tuple[str, int]], list[str]]:
    """Read the `stage` and `discard` lines and the `end` that follow apply.sh; nothing else may stand there."""
    files: dict[str, tuple[str, int]] = {}
    discarded: list[str] = []
    rest = tail
    while match := re.match(r"stage (\S+) ([0-7]+) <<'\.'\n([A-Za-z0-9+/=\n]*)\.\n|discard (\S+)\n", rest):
        if match[1]:
            files[shlex.split(match[1])[0]] = (base64.b64decode(match[3]).decode(), int(match[2], 8))
        else:
            discarded += shlex.split(match[4])
        rest = rest[match.end() :]
    assert rest == end, rest
    return files, discarded


def _read_conf(text: str) -> tuple[dict[str, str], dict[str, FakePeer]]:
    """Read a wg-quick file: (settings of the interface, peers by key)."""
    head, *sections = text.split("[Peer]\n")
    settings = dict(re.findall(r"^(\w+) = (.*)$", head, re.MULTILINE))
    peers = {}
    for section in sections:
        values = dict(re.findall(r"^((?:# )?\w+) = (.*)$", section, re.MULTILINE))
        peers[values["PublicKey"]] = FakePeer(
            allowed_ips=[text for text in values.get("AllowedIPs", "").split(", ") if text],
            endpoint=values.get("Endpoint", "(none)"),
            keepalive=values.get("PersistentKeepalive", "off"),
        )
        peers[values["PublicKey"]].preshared_key = values.get("# Preshared", "no").rpartition("/")[2]
        if named := values.get("# Endpoint"):
            peers[values["PublicKey"]].endpoint = f"{LOOKED_UP}:{named.rpartition(':')[2]}"
    assert len(peers) == len(sections), "two peers have one key"
    return settings, peers


def _read_chains(text: str) -> dict[tuple[str, str], list[str]]:
    chains: dict[tuple[str, str], list[str]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            chains[table, line[1:].split()[0]] = []
        elif line.startswith("-A"):
            chains[table, line.split()[1]].append(line)
    return chains


# --- the fleet ----------------------------------------------------------------------------------------------------


class FakeRemote:
    """What isthmus.remote.Remote is to a real host."""

    def __init__(self, host: FakeHost, fleet: FakeFleet) -> None:
        self.name = host.name
        self._host = host
        self._fleet = fleet

    @property
    def way(self) -> Way:
        return find_way(self.name, self._fleet.inventory, self._fleet)

    def run(self, script: str, *, timeout: float = 60, stdin: bytes = b"") -> str:
        assert timeout > 0
        self._fleet.connect_to(self.name)
        self._fleet.scripts.append(script)
        self._fleet.timeouts.append(timeout)
        try:
            name, output = self._host.run(script, stdin)
        except ScriptError as error:
            words = "the connection broke" if error.status is None else f"status {error.status}: {error}"
            raise CommandError(self.name, f"{script.splitlines()[0].lstrip('# ')}: {words}", error.status) from None
        self._fleet.calls.append((self.name, name))
        return output


class FakeFleet:
    """What isthmus.remote.Fleet is to real hosts: bare ones for a whole inventory, or those of an earlier fleet."""

    def __init__(self, inventory: Inventory, earlier: FakeFleet | None = None) -> None:
        self.inventory = inventory
        self.clock = earlier.clock if earlier else Clock()
        known = earlier.hosts if earlier else {}
        self.hosts = {name: known.get(name) or self._new_host(name) for name in inventory.hosts}
        self.calls: list[tuple[str, str]] = []
        """(host, script) of everything that was run to its end."""
        self.scripts: list[str] = []
        self.timeouts: list[float] = []
        self.ssh_config: dict[str, dict[str, str]] = {}
        """What ~/.ssh/config says, by host."""
        self._connected: set[str] = set()
        self._failed: dict[str, UnreachableError] = {}

    def _new_host(self, name: str) -> FakeHost:
        host = self.inventory.hosts[name]
        subnet = self.inventory.sites[host.site].subnet
        return FakeHost(name, f"{host.address}/{subnet.prefixlen}", self.clock, self.inventory.mesh.interface)

    def __enter__(self) -> FakeFleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> FakeHost:
        return self.hosts[name]

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.hosts.values()))

    def lookup(self, hostname: str) -> Mapping[str, str]:
        """Return the options for a name, as paramiko.SSHConfig does."""
        return {"hostname": hostname, **self.ssh_config.get(hostname, {})}

    def ran(self, *scripts: str) -> list[str]:
        """Return the hosts where one of these scripts was run, in order."""
        return [host for host, script in self.calls if script in scripts]

    def connect(self, hosts: Iterable[str]) -> None:
        assert set(hosts) <= self.hosts.keys()

    def connect_to(self, name: str) -> None:
        """Raise UnreachableError as a real fleet does: a host without public address lies behind its gateway."""
        if name in self._connected:
            return
        if name in self._failed:
            raise self._failed[name]
        host = self.inventory.hosts[name]
        gateways = [g for g in self.inventory.sites[host.site].gateways if g != name and self.inventory.hosts[g].public]
        fake = self.hosts[name]
        error = None
        if host.public is None and gateways and all(failures := [self._behind(name, gateway) for gateway in gateways]):
            error = failures[0]
        if error is None and fake.cut_off_by_change and fake.transaction:
            error = UnreachableError(name, "no answer within 10 s")
        if error is None and fake.unreachable:
            error = UnreachableError(name, fake.unreachable)
        if error:
            self._failed[name] = error
            raise error
        self._connected.add(name)

    def _behind(self, name: str, gateway: str) -> UnreachableError | None:
        try:
            self.connect_to(gateway)
        except UnreachableError as error:
            return UnreachableError(name, f"its gateway {gateway} cannot be reached: {error.message}", gateway)
        return None

    def each(
        self,
        hosts: Iterable[str],
        function: Callable[[Any], Any],
        on_done: Callable[[str, Any], None] | None = None,
    ) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for name in dict.fromkeys(hosts):
            try:
                results[name] = function(FakeRemote(self.hosts[name], self))
            except HostError as error:
                results[name] = error
            if on_done:
                on_done(name, results[name])
        return results

    def reconnect(self, hosts: Iterable[str]) -> None:
        for name in list(hosts):
            self._connected.discard(name)
            for forgiven in (name, *self.inventory.sites[self.inventory.hosts[name].site].gateways):
                self._failed.pop(forgiven, None)

    def close(self) -> None:
        self._connected.clear()
