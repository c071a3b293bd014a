"""hosts.toml of any size, the same for the same numbers: sites of equal size, one gateway and one resource each."""

from __future__ import annotations

from ipaddress import IPv4Address

_PUBLIC = tuple(int(IPv4Address(start)) for start in ("203.0.113.0", "198.51.100.0", "192.0.2.0"))
"""RFC 5737: addresses for examples."""


def inventory_text(hosts: int, sites: int, *, all_public: bool = False) -> str:
    """Return an inventory of `hosts` hosts in `sites` sites (at most 250); gateways, or all, have a public address."""
    public = (str(IPv4Address(start + place)) for start in _PUBLIC for place in range(1, 255))
    parts = ['[mesh]\nsupernet = "10.0.0.0/8"\n']
    for site in range(1, sites + 1):
        parts.append(f'[sites.s{site}]\nsubnet = "10.{site}.0.0/16"\ngateways = ["s{site}-1"]\n')
        parts.append(f'[resources.db{site}]\nsite = "s{site}"\naddress = "10.{site}.255.1"\nport = 3306\n')
    for number in range(hosts):
        place, site = number // sites + 1, number % sites + 1
        address = f"10.{site}.{place >> 8}.{place & 255}"
        name = f"s{site}-{place}"
        known = f'public = "{next(public)}"\n' if place == 1 or all_public else ""
        parts.append(f'[hosts.{name}]\nsite = "s{site}"\naddress = "{address}"\n{known}')
    return "\n".join(parts)
