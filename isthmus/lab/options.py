"""What the lab's hosts and clouds are like. The default is harsh: it refuses all that some real cloud refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from isthmus.errors import LabError
from isthmus.model import Host

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
