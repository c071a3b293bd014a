"""What the lab's hosts and clouds are like. The default is harsh: it refuses all that some real cloud refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from isthmus.errors import LabError, UsageError
from isthmus.model import Host, Inventory

SUITES = ("bullseye", "bookworm", "trixie")
"""Debian 11, 12 and 13."""
LEAST_MTU, MOST_MTU = 576, 65535
"""Bytes: what every IPv4 host takes (RFC 791), and the longest packet there is."""


@dataclass(frozen=True)
class HostOptions:
    """One host: its system, its NIC and what its cloud does at the port the NIC is plugged into.

    The login user and the SSH port are the inventory's (`Host.ssh`).
    """

    suite: str = "bookworm"
    nic: str = "eth0"
    metric: int = 0
    """Of the NIC's own route and of the default route: 0 as ifupdown sets it, 100 as DHCP clients do."""
    mtu: int = 1500
    """Of the NIC, in bytes; a site with a jumbo NIC gets a jumbo bridge, its uplink keeps 1500."""
    rp_filter: int = 1
    """net.ipv4.conf.*.rp_filter: 0 off, 1 strict, 2 loose."""
    anti_spoofing: bool = True
    """The cloud drops what leaves the host with a source address other than its own."""
    docker: bool = False
    """What Docker leaves on a host, after reboots too: docker0 with 172.17.0.1/16, its chains, FORWARD policy DROP."""
    packages: bool = False
    """wireguard-tools, iptables and iputils-ping are already installed."""
    kubernetes: bool = False
    """The host can carry Kubernetes: see lab/kubernetes.py."""
    sudo_password: str | None = None
    """For a login user other than root: the password sudo asks for; None is NOPASSWD."""
    open_ports: tuple[str, ...] = ()
    """What the security group admits from outside besides SSH and the mesh, such as `6443/tcp`."""

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise LabError(f"suite: found {self.suite!r}, expected one of {', '.join(SUITES)}")
        if self.rp_filter not in (0, 1, 2):
            raise LabError(f"rp_filter: found {self.rp_filter}, expected 0, 1 or 2")
        if not 0 <= self.metric < 2**32:
            raise LabError(f"metric: found {self.metric}, expected 0 to {2**32 - 1}")
        if not LEAST_MTU <= self.mtu <= MOST_MTU:
            raise LabError(f"mtu: found {self.mtu}, expected {LEAST_MTU} to {MOST_MTU}")
        if not re.fullmatch("[A-Za-z][A-Za-z0-9]{0,14}", self.nic) or self.nic == "lo":
            raise LabError(f"nic: found {self.nic!r}, expected up to 15 letters and digits such as ens5")
        for port in self.open_ports:
            number, _, protocol = port.partition("/")
            if protocol not in ("tcp", "udp") or not re.fullmatch("[1-9][0-9]{0,4}", number) or int(number) > 65535:
                raise LabError(f"open_ports: found {port!r}, expected something like 6443/tcp")


@dataclass(frozen=True)
class LabOptions:
    """Options for all hosts, for a site's hosts, for one host; the narrowest that is given holds, as a whole."""

    default: HostOptions = HostOptions()
    sites: Mapping[str, HostOptions] = field(default_factory=dict)
    hosts: Mapping[str, HostOptions] = field(default_factory=dict)

    def of(self, host: Host) -> HostOptions:
        """Return what holds for one host."""
        return self.hosts.get(host.name) or self.sites.get(host.site) or self.default


def parse_options(text: str, inventory: Inventory) -> LabOptions:
    """Return options from what stands on a command line: `suite=trixie,n2:nic=ens5,shanghai:metric=100`.

    Before a colon stands a host or a site; without one an option is for all. Several ports are joined by `+`. Raises
    UsageError naming the word that is wrong.
    """
    default: dict[str, Any] = {}
    sites: dict[str, dict[str, Any]] = {}
    hosts: dict[str, dict[str, Any]] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        left, equals, value = word.partition("=")
        place, _, key = left.rpartition(":")
        if not equals or (place and place not in inventory.hosts and place not in inventory.sites):
            raise UsageError(
                f"options of the lab: found {word!r}, expected KEY=VALUE, HOST:KEY=VALUE or SITE:KEY=VALUE"
            )
        kept = hosts if place in inventory.hosts else sites
        (kept.setdefault(place, {}) if place else default)[key] = _value(key, value)
    try:
        for_all = HostOptions(**default)
        for_sites = {name: replace(for_all, **given) for name, given in sites.items()}
        for_hosts = {
            name: replace(for_sites.get(inventory.hosts[name].site, for_all), **given) for name, given in hosts.items()
        }
    except LabError as error:
        raise UsageError(f"options of the lab: {error}") from None
    return LabOptions(for_all, for_sites, for_hosts)


def _value(key: str, text: str) -> object:
    known = {known.name: known.default for known in fields(HostOptions)}
    if key not in known:
        raise UsageError(f"options of the lab: found {key!r}, expected one of {', '.join(known)}")
    usual = known[key]
    if isinstance(usual, tuple):
        return tuple(text.split("+"))
    if isinstance(usual, bool):
        if text not in ("yes", "no", "1", "0"):
            raise UsageError(f"options of the lab: {key}: found {text!r}, expected yes or no")
        return text in ("yes", "1")
    if isinstance(usual, int) and not re.fullmatch("[0-9]{1,10}", text):
        raise UsageError(f"options of the lab: {key}: found {text!r}, expected a number")
    return int(text) if isinstance(usual, int) else text
