"""Facts of one host: what scripts/host/probe.sh printed there, read into values. Pure; the probe is run by apply.

A value that is not there is None or empty, never an exception: a bare host is as good an answer as a full one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from isthmus.errors import CommandError
from isthmus.iproute import parse_address, parse_destination, parse_route, parse_rule
from isthmus.iptables import own_lines
from isthmus.iptables import parse_rule as parse_firewall_rule
from isthmus.model import Chain, Endpoint, FirewallRule, Route, Rule

SECRET = "(hidden)"
"""What the probe prints in the place of a key."""

PUBLIC_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")
"""A WireGuard key: 32 bytes in base64."""

_ALWAYS = ("system", "clock", "tools", "link", "addresses", "routes", "rules", "firewall", "sysctls", "unit", "end")
"""The sections a probe prints on every host, in its order."""

OURS = "# isthmus:"
"""How the first line of a wg-quick file of ours begins."""

_PEER_IN_FILE = re.compile(rf"^# (\S+)\n\[Peer\]\nPublicKey = ({PUBLIC_KEY.pattern})$", re.MULTILINE)


@dataclass(frozen=True)
class FoundFile:
    """A file of ours as it is on the host; secrets masked."""

    text: str
    mode: int


@dataclass(frozen=True)
class FoundPeer:
    """A peer of the running interface."""

    public_key: str
    endpoint: Endpoint | None
    allowed_ips: tuple[IPv4Network, ...]
    latest_handshake: int
    """Seconds since 1970 by the host's clock; 0 is never."""
    received: int
    """Bytes."""
    sent: int
    """Bytes."""
    persistent_keepalive: int | None
    preshared_key: bool = False
    """It has one."""
    fingerprint: str | None = None
    """Of that one."""


@dataclass(frozen=True)
class FoundInterface:
    """The running WireGuard interface."""

    public_key: str | None
    listen_port: int
    mtu: int
    up: bool
    peers: tuple[FoundPeer, ...]


@dataclass(frozen=True)
class FoundCharge:
    """Who is in charge of a site, as the watcher of this host has it."""

    gateway: str
    since: int
    """Seconds since 1970 by the host's clock."""
    why: str


@dataclass(frozen=True)
class Facts:
    """Everything one probe found. Routes and rules are all of the host's; `our_routes` those of our protocol."""

    host: str
    system: str
    """os-release's ID and VERSION_ID, such as `debian 12`."""
    clock: int
    """Seconds since 1970 on the host."""
    tools: frozenset[str]
    files: Mapping[str, FoundFile]
    program_sha256: str | None
    program_mode: int | None
    public_key: str | None
    key_mode: int | None
    interface: FoundInterface | None
    link_exists: bool
    """There is a network interface of the mesh interface's name, WireGuard or not."""
    addresses: tuple[tuple[str, IPv4Interface], ...]
    routes: tuple[Route, ...]
    our_routes: frozenset[Route]
    rules: tuple[Rule, ...]
    our_rules: frozenset[Rule]
    firewall: tuple[str, ...]
    """The lines of our chains and of the jumps to them, as iptables-save prints them, each after `TABLE `."""
    policies: Mapping[str, str]
    """Policy of the built-in chains seen, such as {"filter FORWARD": "DROP"}."""
    sysctls: Mapping[str, str]
    enabled: bool
    """wg-quick@ starts at boot."""
    transaction: str | None
    """Who holds the host with an unconfirmed change."""
    pathless: frozenset[IPv4Network] = frozenset()
    """Where routes lead that are not to one device: to several next hops, or to none (blackhole, unreachable…)."""
    other_interfaces: tuple[str, ...] = ()
    """Of meshes of ours under another interface's name."""
    preshared: Mapping[str, str] = field(default_factory=dict)
    """The preshared keys that the host holds in files, as fingerprints: by the name of the other host."""
    looks_up_names: bool | None = None
    """The unit that looks up peers' DNS names runs; None where there is none."""
    watching: bool = False
    """The watcher runs."""
    charges: Mapping[str, FoundCharge] = field(default_factory=dict)
    """By site: where charge has moved since the watcher first ran, or moved back."""

    def mesh_address(self, interface: str) -> IPv4Address | None:
        """Return the address that our file gives the mesh interface; None when there is no such file."""
        conf = self.files.get(f"/etc/wireguard/{interface}.conf")
        found = re.search(r"^Address = ([\d.]+)/32(?:, |$)", conf.text, re.MULTILINE) if conf else None
        return IPv4Address(found[1]) if found and conf and conf.text.startswith(OURS) else None

    def firewall_rules(self) -> tuple[FirewallRule, ...]:
        """Return our firewall as values: the rules of those chains of ours that a built-in chain jumps to."""
        jumped = {chain for chain in Chain if f"{chain.table} -A {chain.parent} -j {chain.chain}" in self.firewall}
        rules = (parse_firewall_rule(line) for line in self.firewall)
        return tuple(rule for rule in rules if rule is not None and rule.chain in jumped)

    def rp_filter(self) -> int:
        """Return the strictest reverse path filter of the host's interfaces: 1 strict, 2 loose, 0 off.

        The kernel takes the larger of `all` and the interface's own value.
        """
        prefix, suffix = "net.ipv4.conf.", ".rp_filter"
        own = {name[len(prefix) : -len(suffix)]: int(v) for name, v in self.sysctls.items() if name.endswith(suffix)}
        for_all = own.get("all", 0)
        devices = {device for device, _ in self.addresses} - {"lo"}
        effective = {max(for_all, own.get(device, 0)) for device in devices}
        return 1 if 1 in effective else max(effective, default=0)

    def network_interfaces(self, mesh_interface: str) -> tuple[tuple[str, IPv4Interface], ...]:
        """Return the addresses of every other interface than the mesh's and the loopback."""
        return tuple((device, address) for device, address in self.addresses if device not in (mesh_interface, "lo"))


def peers_in_files(facts: Facts) -> dict[str, str]:
    """Return the public keys that a host's own file of ours names, by host."""
    texts = [file.text for path, file in facts.files.items() if path.startswith("/etc/wireguard/")]
    return dict(pair for text in texts if text.startswith(OURS) for pair in _PEER_IN_FILE.findall(text))


def parse_probe(host: str, interface: str, text: str) -> Facts:
    """Read what the probe printed on `host`.

    Raises CommandError when the text is cut off or makes no sense: half an answer must never look like a host without
    a mesh.
    """
    sections = dict(_sections(text))
    missing = [name for name in _ALWAYS if name not in sections]
    if missing:
        raise CommandError(host, f"the probe's answer is cut off: no {missing[0]}", None)
    try:
        return _facts(host, interface, sections)
    except (ValueError, IndexError) as error:
        raise CommandError(host, f"the probe's answer makes no sense: {error}", None) from None


def _facts(host: str, interface: str, sections: Mapping[str, list[str]]) -> Facts:
    def lines(name: str) -> list[str]:
        return sections.get(name, [])

    files: dict[str, FoundFile] = {}
    program_sha256 = public_key = None
    program_mode = key_mode = None
    for name, content in sections.items():
        kind, _, rest = name.partition(" ")
        if kind == "file":
            mode, _, path = rest.partition(" ")
            files[path] = FoundFile("\n".join(line[1:] for line in content), int(mode, 8))
        elif kind == "program":
            program_mode, program_sha256 = int(rest, 8), content[0].split()[0]
        elif kind == "key":
            key_mode = int(rest, 8)
            public_key = _public_key(content[0]) if content else None
    routes = {line: parse_route(line) for line in lines("routes")}
    found_routes = [route for route in routes.values() if route is not None]
    pathless = {parse_destination(line) for line, route in routes.items() if route is None}
    found_rules = [rule for line in lines("rules") if (rule := parse_rule(line)) is not None]
    firewall, policies = own_lines(lines("firewall"))
    unit = dict(line.split("=", 1) for line in lines("unit") if "=" in line)
    return Facts(
        host=host,
        system=lines("system")[0],
        clock=int(lines("clock")[0]),
        tools=frozenset(lines("tools")),
        files=files,
        program_sha256=program_sha256,
        program_mode=program_mode,
        public_key=public_key,
        key_mode=key_mode,
        interface=_interface(lines("wireguard"), lines("link")),
        link_exists=bool(lines("link")),
        addresses=tuple(parse_address(line) for line in lines("addresses")),
        routes=tuple(route for route, _ in found_routes),
        our_routes=frozenset(route for route, ours in found_routes if ours and route.device == interface),
        rules=tuple(rule for rule, _ in found_rules),
        our_rules=frozenset(rule for rule, ours in found_rules if ours and rule.iif == interface),
        firewall=firewall,
        policies=policies,
        sysctls=dict(_sysctl(line) for line in lines("sysctls")),
        enabled=unit.get("UnitFileState") == "enabled",
        transaction=(lines("transaction") or ["unknown"])[0] if "transaction" in sections else None,
        pathless=frozenset(network for network in pathless if network is not None),
        preshared=dict(_pair(line) for line in lines("preshared")),
        looks_up_names=lines("names") == ["active"] if "names" in sections else None,
        watching="watch" in sections,
        charges=dict(_charge(line) for line in lines("watch") if line),
        other_interfaces=tuple(name.partition(" ")[2] for name in sections if name.startswith("other ")),
    )


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    name = ""
    content: list[str] = []
    # Not splitlines(): it would also split at a lone carriage return, and drop those of a file edited on Windows.
    for line in text.split("\n"):
        if line.startswith("@@ "):
            yield name, content
            name, content = line[3:], []
        else:
            content.append(line)
    yield name, content


def _public_key(text: str) -> str:
    if not PUBLIC_KEY.fullmatch(text):
        raise ValueError(f"{text!r} is not a public key")
    return text


def _pair(line: str) -> tuple[str, str]:
    name, fingerprint = line.split()
    return name, fingerprint


def _sysctl(line: str) -> tuple[str, str]:
    """Read `net/ipv4/conf/eth0.100/rp_filter:1`; all that the probe asks for are numbers."""
    name, _, value = line.rpartition(":")
    return name.replace("/", "."), str(int(value))


def _charge(line: str) -> tuple[str, FoundCharge]:
    """Read `nanjing n2 1764100000 n1 does not reach shanghai, n2 does`."""
    site, gateway, since, *why = line.split(" ")
    return site, FoundCharge(gateway, int(since), " ".join(why))


def _interface(wireguard: list[str], link: list[str]) -> FoundInterface | None:
    """Read `wg show dump` without its secrets, and `ip -o link`."""
    device = next((line.split() for line in wireguard if line.startswith("device ")), None)
    if device is None or not link:
        return None
    mtu = re.search(r" mtu (\d+)", link[0])
    flags = re.search(r"<([^>]*)>", link[0])
    return FoundInterface(
        public_key=None if device[1] == "(none)" else device[1],
        listen_port=int(device[2]),
        mtu=int(mtu[1]) if mtu else 0,
        up="UP" in flags[1].split(",") if flags else False,
        peers=tuple(_peer(line) for line in sorted(wireguard) if line.startswith("peer ")),
    )


def _peer(line: str) -> FoundPeer:
    _, public_key, preshared_key, endpoint, allowed_ips, handshake, received, sent, keepalive = line.split()
    return FoundPeer(
        public_key=public_key,
        endpoint=_endpoint(endpoint),
        allowed_ips=tuple(sorted(IPv4Network(net) for net in allowed_ips.split(",") if "." in net)),
        latest_handshake=int(handshake),
        received=int(received),
        sent=int(sent),
        persistent_keepalive=None if keepalive == "off" else int(keepalive),
        preshared_key=preshared_key != "no",
        fingerprint=None if preshared_key in ("no", "yes") else preshared_key,
    )


def _endpoint(text: str) -> Endpoint | None:
    address, _, port = text.rpartition(":")
    try:
        return Endpoint(IPv4Address(address), int(port))
    except ValueError:  # `(none)`, or IPv6
        return None
