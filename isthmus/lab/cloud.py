"""The clouds and the internet between them: routers, uplinks, the admin workstation, resources; what they count.

Every function makes what it is named after equal to the layout, whether it is there already or not.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from isthmus.errors import LabError
from isthmus.lab import cgroups, machine
from isthmus.lab.layout import ADMIN_NIC, BRIDGE, INTERNET_END, ROUTER_END, UPLINK, Layout, Names, Port, interface
from isthmus.lab.rules import CUT_RULES, internet_rules, loss_rules, router_rules
from isthmus.model import Host

_LISTENER = Path(__file__).parent / "files/listener.py"
_FORWARDING = {
    "net.ipv4.ip_forward": 1,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
    "net.bridge.bridge-nf-call-iptables": 0,  # the bridge is a switch: the edge's rules are not for its packets
}
_ROUTE_PROTOCOL = 183
"""Marks the internet's routes to public addresses, so that those of addresses given up are found and removed."""


@dataclass(frozen=True)
class Traffic:
    """Bytes that crossed a router's uplink since the router was built: Ethernet frames, as a cloud bills about."""

    sent: int
    received: int

    def __sub__(self, earlier: Traffic) -> Traffic:
        """Return what crossed since an earlier count."""
        return Traffic(self.sent - earlier.sent, self.received - earlier.received)


@dataclass(frozen=True)
class Client:
    """Someone a resource saw: `protocol` is `tcp` for a connection or `icmp` for a ping."""

    protocol: str
    address: IPv4Address


def build_internet(layout: Layout) -> None:
    """Make the internet and the admin workstation on it."""
    names = layout.names
    if not _stands(names, names.internet, ""):
        forget_plans(names)  # every uplink ends here
        _begin(names, names.internet)
        machine.set_sysctls(names.internet, _FORWARDING)
        _load(names.internet, CUT_RULES)
        _stamp(names, names.internet, "")
    _load(names.internet, internet_rules(layout))
    plan = str(layout.admin_address)
    if not _stands(names, names.admin, plan):
        _begin(names, names.admin)
        far = interface("u", "admin")
        _plug_into_internet(layout.names, names.admin, ADMIN_NIC, far)
        machine.batch(
            names.admin,
            [
                f"address add {layout.admin_address}/32 dev {ADMIN_NIC}",
                f"route add default via {INTERNET_END} dev {ADMIN_NIC} onlink",
            ],
        )
        machine.batch(names.internet, [f"route replace {layout.admin_address} dev {far}"])
        _stamp(names, names.admin, plan)


def build_router(layout: Layout, site: str) -> None:
    """Make a site's router: bridge, uplink, rules."""
    names = layout.names
    router = names.router(site)
    gateway, subnet, mtu = layout.router_address(site), layout.inventory.sites[site].subnet, layout.port_mtu(site)
    plan = f"{gateway} {subnet} {mtu}"
    if not _stands(names, router, plan):
        _begin(names, router)
        machine.set_sysctls(router, _FORWARDING)
        _plug_into_internet(names, router, UPLINK, interface("u", site))
        machine.batch(
            router,
            [
                # An address of its own: else it has its lowest port's, and the router's changes when that host leaves.
                f"link add {BRIDGE} address 02:00:5e:00:00:fe mtu {mtu} type bridge forward_delay 0",
                f"address add {gateway}/32 dev {BRIDGE}",
                f"link set {BRIDGE} up",
                f"route add {subnet} dev {BRIDGE} src {gateway}",
                f"address add {ROUTER_END}/32 dev {UPLINK}",
                f"route add default via {INTERNET_END} dev {UPLINK} onlink",
            ],
        )
        _stamp(names, router, plan)
    _renew_rules(layout, site)


def build_routes(layout: Layout) -> None:
    """Make the internet know every public address, and none that was given up."""
    internet = layout.names.internet
    wanted = {
        f"{host.public}": f"route replace {host.public} via {ROUTER_END} dev {interface('u', host.site)} onlink"
        f" proto {_ROUTE_PROTOCOL}"
        for host in layout.inventory.hosts.values()
        if host.public
    }
    listing = machine.execute("ip", "-n", internet, "-json", "route", "show", "proto", str(_ROUTE_PROTOCOL))
    known = {route["dst"] for route in json.loads(listing)}
    machine.batch(internet, [*wanted.values(), *(f"route delete {address}" for address in sorted(known - set(wanted)))])


def build_resource(layout: Layout, name: str) -> None:
    """Make a resource: a NIC at its site's bridge and a process that answers."""
    port, number = layout.resource_port(name), layout.inventory.resources[name].port
    names, unit = layout.names, f"resource.{name}"
    plan = "\n".join(port.wiring()) + f"\n{number}"
    if _stands(names, port.namespace, plan) and cgroups.processes(names.name, unit) and plugged(port):
        return
    cgroups.end(names.name, unit)
    _plan(names, port.namespace).unlink(missing_ok=True)
    machine.execute("sh", "-eu", text="\n".join(port.wiring()) + "\n")
    folders = cgroups.make(names.name, unit, "listener")
    enter = "".join(f"echo 0 >{folder}/cgroup.procs; " for folder in folders)
    log = resource_log(names, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="ascii")
    listener = [sys.executable, "-I", str(_LISTENER), str(log), *([str(number)] if number else [])]
    with log.with_suffix(".errors").open("w") as errors:
        subprocess.run(
            ["setsid", "--fork", "sh", "-euc", f'{enter} exec ip netns exec "$@"', "sh", port.namespace, *listener],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            env=machine.environment(),
        )
    _stamp(names, port.namespace, plan)


def resource_log(names: Names, name: str) -> Path:
    """Return the file in which a resource notes its clients."""
    return names.run / "resources" / f"{name}.log"


def clients(names: Names, name: str) -> tuple[Client, ...]:
    """Return whom a resource has seen since it was built, in order."""
    path = resource_log(names, name)
    if not path.is_file():
        raise LabError(f"resource {name} is not up")
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return tuple(Client(protocol, IPv4Address(address)) for protocol, address in lines)


def plugged(port: Port) -> bool:
    """Return whether a NIC is plugged into its site's bridge."""
    result = subprocess.run(
        ["ip", "-n", port.router, "link", "show", port.port],
        check=False,
        capture_output=True,
        env=machine.environment(),
    )
    return result.returncode == 0


def traffic(names: Names, site: str) -> Traffic:
    """Return what a site's uplink has carried."""
    listing = machine.execute("ip", "-n", names.router(site), "-json", "-statistics", "link", "show", UPLINK)
    counted = json.loads(listing)[0]["stats64"]
    return Traffic(counted["tx"]["bytes"], counted["rx"]["bytes"])


def drops(names: Names, site: str) -> dict[str, int]:
    """Return how many packets a site's router has dropped since its rules last changed, by reason (`rules.DROPS`)."""
    listing = machine.execute("ip", "netns", "exec", names.router(site), "nft", "-j", "list", "counters")
    counters = [entry["counter"] for entry in json.loads(listing)["nftables"] if "counter" in entry]
    return {counter["name"]: counter["packets"] for counter in counters}


def set_port(port: Port, *, connected: bool) -> None:
    """Let a port pass packets, or silently none; the NIC notices nothing."""
    state = "forwarding" if connected else "disabled"
    machine.execute("ip", "netns", "exec", port.router, "bridge", "link", "set", "dev", port.port, "state", state)


def set_uplink(names: Names, site: str, *, connected: bool) -> None:
    """Let the internet pass a site's packets, or silently none."""
    command = ["ip", "netns", "exec", names.internet, "nft"]
    element = f'{{ "{interface("u", site)}" }}'
    machine.execute(*command, "add", "element", "ip", "cut", "uplinks", element)
    if connected:
        machine.execute(*command, "delete", "element", "ip", "cut", "uplinks", element)


def set_loss(names: Names, host: Host, percent: int) -> None:
    """Lose this part of the packets between a host and the internet, each way."""
    _load(names.router(host.site), loss_rules(host, percent))


def _plug_into_internet(names: Names, namespace: str, nic: str, far: str) -> None:
    with suppress(LabError):
        machine.batch(names.internet, [f"link delete {far}"])
    machine.batch(
        names.internet,
        [
            f"link add {far} type veth peer name {nic} netns {namespace}",
            f"address add {INTERNET_END}/32 dev {far}",
            f"link set {far} up",
        ],
    )
    machine.batch(namespace, [f"link set {nic} up"])


def _renew_rules(layout: Layout, site: str) -> None:
    """Load a router's rules if they changed; flows of hosts whose public address changed start anew."""
    names, text = layout.names, router_rules(layout, site)
    router = names.router(site)
    path = names.run / "rules" / f"{site}.json"
    public = {str(host.address): str(host.public) for host in layout.inventory.members(site)}
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if before.get("text") == text and _has_rules(router):
        return
    _load(router, text)
    was: dict[str, str] = before.get("public", {})
    for address in {*public, *was}:
        if public.get(address) != was.get(address):
            for end in ("--orig-src", "--reply-src"):
                subprocess.run(
                    ["ip", "netns", "exec", router, "conntrack", "--delete", end, address],
                    check=False,  # 1 when there is none
                    capture_output=True,
                    env=machine.environment(),
                )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"text": text, "public": public}), encoding="utf-8")


def _has_rules(namespace: str) -> bool:
    return "table ip lab" in machine.execute("ip", "netns", "exec", namespace, "nft", "list", "tables")


def _load(namespace: str, rules: str) -> None:
    machine.execute("ip", "netns", "exec", namespace, "nft", "-f", "-", text=rules)


def forget_plans(names: Names) -> None:
    """Have everything built anew the next time, as must be once a part of it is gone."""
    shutil.rmtree(names.run / "plans", ignore_errors=True)


def _stands(names: Names, namespace: str, plan: str) -> bool:
    """Return whether the namespace was made whole after this plan."""
    path = _plan(names, namespace)
    return machine.namespace_alive(namespace) and path.is_file() and path.read_text(encoding="utf-8") == plan


def _begin(names: Names, namespace: str) -> None:
    """Make the namespace anew; until `_stamp` it counts as half-made."""
    _plan(names, namespace).unlink(missing_ok=True)
    machine.add_namespace(namespace)


def _stamp(names: Names, namespace: str, plan: str) -> None:
    path = _plan(names, namespace)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(plan, encoding="utf-8")


def _plan(names: Names, namespace: str) -> Path:
    return names.run / "plans" / namespace
