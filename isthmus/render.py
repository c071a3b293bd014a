"""HostConfig -> the text of every file of ours on a host.

`files/` holds the texts, at the path they get on a host: `.j2` are Jinja templates, `INTERFACE` in a name is the mesh
interface, anything else is copied as it is. Reading them, once, is the only I/O here. Lines of iptables and iproute2
are made in this module and nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.errors import IsthmusError
from isthmus.model import MAIN_TABLE, ROUTE_PROTOCOL, Chain, FirewallRule, HostConfig, Route, Rule, Target

if TYPE_CHECKING:
    import jinja2

FILES = Path(__file__).resolve().parent.parent / "files"
"""Beside the package, in a checkout as after `pip install -e .`."""

HEADER = "# isthmus: written by Isthmus from hosts.toml; changes made here are undone by the next mesh.up"
"""The first line of every rendered file; a file without it is not ours."""

PROGRAM = "/usr/local/sbin/isthmus"
"""The static program that makes a host's running state equal to its files."""

NAMES_UNIT = "isthmus-names.service"
"""The unit that looks up the DNS names of peers again; only on hosts that have such."""

WATCHER = "/usr/local/sbin/isthmus-watch"
"""The static program that watches gateways, where a site has two."""

_TEMPLATES = {
    "etc/wireguard/INTERFACE.conf": 0o600,
    "etc/isthmus/INTERFACE.routes": 0o644,
    "etc/isthmus/INTERFACE.iptables": 0o644,
    "etc/isthmus/INTERFACE.drained": 0o644,
    "etc/isthmus/INTERFACE.watch": 0o644,
    "etc/sysctl.d/90-isthmus.conf": 0o644,
    f"etc/systemd/system/{NAMES_UNIT}": 0o644,
}

_ADDRESS = "\0address\0"
"""Stands for a host's own address in texts shared by hosts that differ in nothing else; NUL is in no text of ours."""


@dataclass(frozen=True)
class File:
    """One file on a host: its whole text and its permission bits."""

    text: str
    mode: int

    @property
    def sha256(self) -> str:
        """The sum of its bytes."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def render_host(config: HostConfig, public_keys: Mapping[str, str], *, placeholders: bool = False) -> dict[str, File]:
    """Return {absolute path: file} for every file of ours on one host, the private key excepted.

    `public_keys` has each peer's WireGuard key by host name. Where one is missing, `KEY-<host>` takes its place if
    `placeholders` allows, else ValueError names every missing one.
    """
    return render_mesh({config.host: config}, public_keys, placeholders=placeholders)[config.host]


def render_mesh(
    configs: Mapping[str, HostConfig], public_keys: Mapping[str, str], *, placeholders: bool = False
) -> dict[str, dict[str, File]]:
    """Return `render_host` of every host, in the order given.

    Leaves of one site differ in their address only: their texts are made once, and the address is put in for each.
    """
    hosts = list(configs.items())
    keys = _complete_keys((config for _, config in hosts), public_keys, placeholders)
    once = _Once()
    patterns: dict[tuple[object, ...], dict[str, _Pattern]] = {}
    rendered = {}
    for name, config in hosts:
        parts = (config.peers, config.routes, config.rules, config.firewall, config.sysctls, config.follows)
        alone = (config.drained, config.probe_addresses, config.decides)
        group = (config.interface, config.listen_port, config.mtu, *alone, *map(id, parts))
        if group not in patterns:
            patterns[group] = _patterns(config, keys, once)
        address = str(config.address)
        rendered[name] = {path: pattern.file(address) for path, pattern in patterns[group].items()}
    return rendered


class _Once:
    """Makes the text of an object that many hosts share only once.

    Objects are known by identity, since comparing peers costs more than rendering them. So it serves one call, in which
    all of them stay alive.
    """

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}

    def __call__(self, shared: object, caller: Callable[[], str]) -> str:
        """Return the text `caller` makes of `shared`; in a template: `{% call once(shared) %}text{% endcall %}`."""
        text = self._texts.get(id(shared))
        if text is None:
            text = self._texts[id(shared)] = caller()
        return text


class _Pattern:
    """A file of every host that differs from another in its address only."""

    def __init__(self, text: str, mode: int) -> None:
        self._pieces = text.split(_ADDRESS)
        self._as_it_is = File(text, mode)

    def file(self, address: str) -> File:
        """Return the file of the host with this address; the very same one for all where the address is not in it."""
        if len(self._pieces) == 1:
            return self._as_it_is
        return File(address.join(self._pieces), self._as_it_is.mode)


def _patterns(config: HostConfig, keys: Mapping[str, str], once: _Once) -> dict[str, _Pattern]:
    """Return the patterns of this host's files, and so of all hosts that share its parts."""
    values = {
        "header": HEADER,
        "address": _ADDRESS,
        "config": config,
        "keys": keys,
        "program": PROGRAM,
        "once": once,
        "route_lines": [once(route, partial(route_line, route, _ADDRESS)) for route in config.routes],
        "rule_lines": [rule_line(rule) for rule in config.rules],
        "tables": _iptables_tables(config.firewall),
    }
    patterns = {}
    for name, mode in _TEMPLATES.items():
        if name.startswith("etc/sysctl.d/") and not config.sysctls:
            continue
        if name.endswith(".drained") and config.drained is None:
            continue
        if name.endswith(NAMES_UNIT) and not config.looks_up_names:
            continue
        if name.endswith(".watch") and not config.watches:
            continue
        path = "/" + name.replace("INTERFACE", config.interface)
        patterns[path] = _Pattern(_environment().get_template(f"{name}.j2").render(values), mode)
    patterns[PROGRAM] = _Pattern(static_text(PROGRAM.lstrip("/")), 0o755)
    if config.watches:
        patterns[WATCHER] = _Pattern(static_text(WATCHER.lstrip("/")), 0o755)
    return patterns


def _complete_keys(
    configs: Iterable[HostConfig], public_keys: Mapping[str, str], placeholders: bool
) -> Mapping[str, str]:
    """Return a key, or its placeholder, for every peer; ValueError where that cannot or must not be."""
    needed = {peer.host for config in configs for peer in config.peers}
    missing = sorted(needed - public_keys.keys())
    if missing and not placeholders:
        raise ValueError(f"no public key known of: {', '.join(missing)}")
    for host in sorted(needed & public_keys.keys()):
        # A key comes from a host and lands in other hosts' wg-quick files, where a second line could be a PostUp.
        key = public_keys[host]
        if not key.isprintable() or key.split() != [key]:
            raise ValueError(f"the public key of {host} is not one word: {key!r}")
    return {**public_keys, **{host: f"KEY-{host}" for host in missing}}


# --- iproute2: each line is input for `ip -4 -batch` --------------------------------------------------------------


def route_line(route: Route, address: str | None) -> str:
    """Return the `route add` line of a compiled route on the host with this address; of one as it was found, for None.

    The main table serves the host's own packets: there the source is always spelled out, the host's own address unless
    the route says otherwise. Other tables serve forwarded packets, which have a source.
    """
    line = f"route add {route.destination} dev {route.device}"
    if route.table != MAIN_TABLE:
        return f"{line} table {route.table} proto {ROUTE_PROTOCOL}"
    source = route.source or address
    return f"{line} proto {ROUTE_PROTOCOL} src {source}" if source else f"{line} proto {ROUTE_PROTOCOL}"


def rule_line(rule: Rule) -> str:
    """Return the `rule add` line of a policy rule."""
    return f"rule add iif {rule.iif} lookup {rule.table} priority {rule.priority} protocol {ROUTE_PROTOCOL}"


# --- iptables: the very lines `iptables-save` prints, from 1.8.7 (Debian 11) to 1.8.11 (Debian 13) -----------------


def iptables_lines(rules: Iterable[FirewallRule]) -> dict[Chain, tuple[str, ...]]:
    """Return the `-A` lines of each chain that has any, chains in the order of `Chain`.

    ValueError for a rule iptables has no words for.
    """
    lines: dict[Chain, list[str]] = {}
    for rule in rules:
        lines.setdefault(rule.chain, []).append(_iptables_line(rule))
    return {chain: tuple(lines[chain]) for chain in Chain if chain in lines}


def _iptables_tables(rules: Iterable[FirewallRule]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return {table: {chain: lines}}, a table's chains in iptables-save's order, which is that of their names."""
    by_chain = iptables_lines(rules)
    tables: dict[str, dict[str, tuple[str, ...]]] = {}
    for chain in sorted(by_chain, key=lambda chain: (chain.table, chain.chain)):
        tables.setdefault(chain.table, {})[chain.chain] = by_chain[chain]
    return tables


def _iptables_line(rule: FirewallRule) -> str:
    """Return one rule in iptables-save's order: -s -d -i -o -p, matches, target."""
    words = ["-A", rule.chain.chain]
    words += _words("-s", rule.source) + _words("-d", rule.destination)
    words += _words("-i", rule.in_interface) + _words("-o", rule.out_interface)
    words += _words("-p", rule.protocol)
    if rule.destination_port is not None:
        if rule.protocol not in ("tcp", "udp"):
            raise ValueError(f"a port needs protocol tcp or udp: {rule}")
        words += ["-m", rule.protocol, "--dport", str(rule.destination_port)]
    if rule.target is Target.CLAMP_MSS:
        if rule.protocol != "tcp":
            raise ValueError(f"only TCP has a segment size: {rule}")
        words += ["-m", "tcp", "--tcp-flags", "SYN,RST", "SYN"]
    if rule.established:
        words += ["-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"]
    words += ["-j", rule.target.value]
    if rule.target is Target.CLAMP_MSS:
        words += ["--clamp-mss-to-pmtu"]
    if rule.target is Target.SNAT:
        if rule.to_source is None:
            raise ValueError(f"SNAT needs the new source address: {rule}")
        words += ["--to-source", str(rule.to_source)]
    return " ".join(words)


def _words(option: str, value: object) -> list[str]:
    """Return the option with its value, negated by a leading `!`, or nothing for None."""
    if value is None:
        return []
    text = str(value)
    return ["!", option, text[1:]] if text.startswith("!") else [option, text]


def render_text(name: str, **values: object) -> str:
    """Return the text of a template of files/ that is none of the mesh's, by its name without `.j2`."""
    return _environment().get_template(f"{name}.j2").render(values)


@cache
def static_text(name: str) -> str:
    """Return a file of files/ that is copied as it is."""
    path = FILES / name
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise IsthmusError(f"{path} is missing: run Isthmus from its checkout or `pip install -e` it") from None


# --- files/ -------------------------------------------------------------------------------------------------------


@cache
def _environment() -> jinja2.Environment:
    """Return the templates, each compiled at its first use. Jinja takes 0.08 s to import: not before it is needed."""
    import jinja2

    missing = [name for name in _TEMPLATES if not (FILES / f"{name}.j2").is_file()]
    if missing:
        raise IsthmusError(f"{FILES / missing[0]}.j2 is missing: run Isthmus from its checkout or `pip install -e` it")
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FILES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
