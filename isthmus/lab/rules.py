"""What the lab's clouds let through, as nft text. Pure.

A router is a VPC's edge: 1:1 NAT for hosts with a public address, a security group in front of them, nothing private in
or out. Its bridge is the VPC's switch: a port passes only its own source address when anti-spoofing is on. Same-site
packets stay on the bridge and meet none of the edge's rules.
"""

from __future__ import annotations

from isthmus.lab.layout import BRIDGE, UPLINK, Layout
from isthmus.model import Host

DROPS = ("spoofed", "private", "refused", "unroutable")
"""The counters of what a router dropped: a source that is not the sender's, a private address at the edge, what the
security group does not admit, what comes from a host without public address."""


def router_rules(layout: Layout, site: str) -> str:
    """Return the whole rule set of a site's router; loading it replaces the one before at one stroke."""
    public = [host for host in layout.inventory.members(site) if host.public]
    inward = ", ".join(f"{host.public} : {host.address}" for host in public)
    outward = ", ".join(f"{host.address} : {host.public}" for host in public)
    senders = ", ".join(str(host.address) for host in public)
    admitted = [line for host in public for line in _admitted(layout, host)]
    return "\n".join(
        [
            *_replace("bridge lab"),
            "table bridge lab {",
            "  counter spoofed {}",
            "  chain prerouting {",
            "    type filter hook prerouting priority -300",
            *(f"    {line}" for line in _anti_spoofing(layout, site)),
            "  }",
            "}",
            *_replace("ip lab"),
            "table ip lab {",
            *(f"  counter {name} {{}}" for name in ("private", "refused", "unroutable")),
            _private(layout),
            "  chain edge {",
            "    type filter hook prerouting priority -300",
            f'    iifname "{UPLINK}" ip saddr @private counter name private drop',
            f'    iifname "{UPLINK}" ip daddr @private counter name private drop',
            "  }",
            "  chain forward {",
            "    type filter hook forward priority 0; policy drop",
            f'    oifname "{UPLINK}" ip daddr @private counter name private drop',
            "    ct state established,related accept",
            f'    iifname "{BRIDGE}" oifname "{UPLINK}" ip saddr {{ {senders} }} accept' if public else "",
            f'    iifname "{BRIDGE}" counter name unroutable drop',
            *(f"    {line}" for line in admitted),
            "    counter name refused",
            "  }",
            "  chain inward {",
            "    type nat hook prerouting priority -100",
            f'    iifname "{UPLINK}" dnat to ip daddr map {{ {inward} }}' if public else "",
            "  }",
            "  chain outward {",
            "    type nat hook postrouting priority 100",
            f'    oifname "{UPLINK}" snat to ip saddr map {{ {outward} }}' if public else "",
            "  }",
            "}",
            "",
        ]
    )


def internet_rules(layout: Layout) -> str:
    """Return the rule set of the internet: nothing private crosses it."""
    return "\n".join(
        [
            *_replace("ip lab"),
            "table ip lab {",
            "  counter private {}",
            _private(layout),
            "  chain forward {",
            "    type filter hook forward priority 0",
            "    ip saddr @private counter name private drop",
            "    ip daddr @private counter name private drop",
            "  }",
            "}",
            "",
        ]
    )


CUT_RULES = """table ip cut {
  set uplinks { type ifname; }
  chain forward {
    type filter hook forward priority -10
    iifname @uplinks drop
    oifname @uplinks drop
  }
}
"""
"""The internet's table of sites that are cut off; apart from the rest, so that building again heals nothing."""


def loss_rules(host: Host, percent: int) -> str:
    """Return a table of its own on a host's router: this part of what the host and the internet send is lost."""
    table = f"ip loss{int(host.address)}"
    if not percent:
        return "\n".join([*_replace(table), ""])
    chance = f"numgen random mod 100 < {percent}" if percent < 100 else ""
    return "\n".join(
        [
            *_replace(table),
            f"table {table} {{",
            "  chain forward {",
            "    type filter hook forward priority -10",
            f'    oifname "{UPLINK}" ip saddr {host.address} {chance} drop',
            f'    iifname "{UPLINK}" ip daddr {host.address} {chance} drop',
            "  }",
            "}",
            "",
        ]
    )


def _replace(table: str) -> tuple[str, str]:
    return f"table {table}", f"delete table {table}"


def _private(layout: Layout) -> str:
    elements = ", ".join(str(network) for network in layout.private)
    return f"  set private {{ type ipv4_addr; flags interval; elements = {{ {elements} }}; }}"


def _anti_spoofing(layout: Layout, site: str) -> list[str]:
    ports = [
        (layout.host_port(host.name), layout.options.of(host).anti_spoofing) for host in layout.inventory.members(site)
    ]
    ports += [(layout.resource_port(resource.name), True) for resource in layout.inventory.resources_of(site)]
    return [
        f'iifname "{port.port}" {address} != {port.address} counter name spoofed drop'
        for port, guarded in ports
        if guarded
        for address in ("ip saddr", "arp saddr ip")
    ]


def _admitted(layout: Layout, host: Host) -> list[str]:
    ports = (f"{host.ssh.port}/tcp", f"{layout.inventory.mesh.listen_port}/udp", *layout.options.of(host).open_ports)
    return [
        f"ip daddr {host.address} {protocol} dport {number} accept"
        for number, _, protocol in (port.partition("/") for port in dict.fromkeys(ports))
    ]
