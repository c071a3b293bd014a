"""What the lab's hosts and clouds are like. The default is harsh: it refuses all that some real cloud refuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace

from isthmus.errors import LabError
from isthmus.model import Host, Inventory

SUITES = ("bullseye", "bookworm", "trixie")
"""Debian 11, 12 and 13."""


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
    sudo_password: str | None = None
    """For a login user other than root: the password sudo asks for; None is NOPASSWD."""
    open_ports: tuple[str, ...] = ()
    """What the security group admits from outside besides SSH and the mesh, such as `6443/tcp`."""

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise LabError(f"suite: found {self.suite!r}, expected one of {', '.join(SUITES)}")
        if self.rp_filter not in (0, 1, 2):
            raise LabError(f"rp_filter: found {self.rp_filter}, expected 0, 1 or 2")
        if not (0 < len(self.nic) <= 15) or not self.nic.isalnum():
            raise LabError(f"nic: found {self.nic!r}, expected up to 15 letters and digits such as ens5")
        for port in self.open_ports:
            number, _, protocol = port.partition("/")
            if protocol not in ("tcp", "udp") or not number.isdigit():
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
    """Return the options that `suite=trixie,n2:nic=ens5` asks for: for all hosts, or before `:` for a host or site.

    Raises LabError naming the word that is wrong.
    """
    default = HostOptions()
    narrow: dict[str, dict[str, object]] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        whom, _, setting = word.rpartition(":")
        key, equals, value = setting.partition("=")
        if not equals or key not in {item.name for item in fields(HostOptions)}:
            known = ", ".join(item.name for item in fields(HostOptions))
            raise LabError(f"options: found {word!r}, expected KEY=VALUE or HOST:KEY=VALUE with one of {known}")
        if not whom:
            default = _with(default, word, key, value)
        elif whom in inventory.hosts or whom in inventory.sites:
            narrow.setdefault(whom, {})[key] = value
        else:
            raise LabError(f"options: found {whom!r} in {word!r}, expected a host or site of the inventory")

    def narrowed(names: Iterable[str], base: Mapping[str, HostOptions]) -> dict[str, HostOptions]:
        result = {}
        for name in names:
            if name in narrow:
                result[name] = base.get(name, default)
                for key, value in narrow[name].items():
                    result[name] = _with(result[name], f"{name}:{key}={value}", key, str(value))
        return result

    sites = narrowed(inventory.sites, {})
    of_site = {host.name: sites[host.site] for host in inventory.hosts.values() if host.site in sites}
    return LabOptions(default, sites, narrowed(inventory.hosts, of_site))


def _with(options: HostOptions, word: str, key: str, value: str) -> HostOptions:
    """Return the options with one changed; its type is that of the default."""
    old = getattr(options, key)
    try:
        if isinstance(old, bool):
            new: object = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}[value.lower()]
        elif isinstance(old, tuple):
            new = tuple(value.split("+"))
        else:
            new = int(value) if isinstance(old, int) else value
    except (KeyError, ValueError):
        kind = "yes or no" if isinstance(old, bool) else "a number"
        raise LabError(f"options: found {word!r}, expected {kind} for {key}") from None
    return replace(options, **{key: new})  # type: ignore[arg-type]  # checked above, by the default's own type
