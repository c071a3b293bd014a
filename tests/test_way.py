"""Where each host is and through whom, by the inventory and by ~/.ssh/config."""

from __future__ import annotations

import getpass
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from isthmus.model import Host, Inventory, Mesh, Site, Ssh
from isthmus.remote.ssh_config import read_ssh_config
from isthmus.remote.way import Way, find_way

INVENTORY = Inventory(
    source="hosts.toml",
    mesh=Mesh(IPv4Network("172.16.0.0/12")),
    ssh=Ssh(),
    sites={
        "nanjing": Site("nanjing", IPv4Network("172.16.0.0/24"), ("n1",)),
        "inside": Site("inside", IPv4Network("172.16.1.0/24"), ("i1",)),
        "shanghai": Site("shanghai", IPv4Network("172.16.2.0/24"), ("s1", "s2")),
    },
    hosts={
        "n1": Host("n1", "nanjing", IPv4Address("172.16.0.1"), public=IPv4Address("203.0.113.1")),
        "n2": Host(
            "n2", "nanjing", IPv4Address("172.16.0.2"), public=IPv4Address("203.0.113.2"), ssh=Ssh("debian", 2222)
        ),
        "n3": Host("n3", "nanjing", IPv4Address("172.16.0.3")),
        "i1": Host("i1", "inside", IPv4Address("172.16.1.1")),
        "i2": Host("i2", "inside", IPv4Address("172.16.1.2")),
        "s1": Host("s1", "shanghai", IPv4Address("172.16.2.1"), public=IPv4Address("203.0.113.129")),
        "s2": Host("s2", "shanghai", IPv4Address("172.16.2.2")),
        "s3": Host("s3", "shanghai", IPv4Address("172.16.2.3")),
        "s4": Host("s4", "shanghai", IPv4Address("172.16.2.4"), IPv4Address("224.0.0.4"), public_name="s4.example.com"),
    },
)


def way(tmp_path: Path, target: str, config: str = "") -> Way:
    path = tmp_path / "config"
    path.write_text(config)
    return find_way(target, INVENTORY, read_ssh_config([path, tmp_path / "missing"]))


def brief(found: Way) -> str:
    """`user@address:port`, the name of its key where that is another, `through` whom."""
    key = "" if found.key_name in (found.address, f"[{found.address}]:{found.port}") else f" key {found.key_name}"
    via = " or ".join(found.via)
    through = f" through {found.via_role} {via}" if via else f" by {found.command}" if found.command else ""
    return f"{found.user}@{found.address}:{found.port}{key}{through}"


@pytest.mark.parametrize(
    ("target", "config", "expected"),
    [
        # the inventory alone
        ("n1", "", "root@203.0.113.1:22"),
        ("n2", "", "debian@203.0.113.2:2222"),
        ("n3", "", "root@172.16.0.3:22 through gateway n1"),
        ("s4", "", "root@s4.example.com:22"),
        ("i1", "", "root@172.16.1.1:22"),
        ("i2", "", "root@172.16.1.2:22"),
        # a gateway that stands by: another way where there is one
        ("s2", "", "root@172.16.2.2:22 through gateway s1"),
        ("s3", "", "root@172.16.2.3:22 through gateway s1"),
        ("s3", "Host s2\n  ProxyJump bastion", "root@172.16.2.3:22 through gateway s1 or s2"),
        ("s3", "Host s3\n  ProxyJump s2", "root@172.16.2.3:22 through jump host s2"),
        # ~/.ssh/config wins where it says something
        ("n2", "Host n2\n  User admin", "admin@203.0.113.2:2222"),
        ("n2", "Host n2\n  Port 22", "debian@203.0.113.2:22"),
        ("n2", "Host n2\n  HostName 198.51.100.7", "debian@198.51.100.7:2222"),
        ("n2", "Host n*\n  HostKeyAlias the-alias", "debian@203.0.113.2:2222 key the-alias"),
        ("n2", "Host other\n  HostName 198.51.100.7", "debian@203.0.113.2:2222"),
        ("n3", "Host n3\n  HostName 198.51.100.7", "root@198.51.100.7:22"),
        # jumps
        ("n3", "Host n3\n  ProxyJump me@bastion:2200", "root@172.16.0.3:22 through jump host me@bastion:2200"),
        ("n3", "Host n3\n  ProxyJump none", "root@172.16.0.3:22 through gateway n1"),
        ("n3", "Host n3\n  ProxyJump n2", "root@172.16.0.3:22 through jump host n2"),
        ("n1", "Host *\n  ProxyJump bastion", "root@203.0.113.1:22 through jump host bastion"),
        ("n3", "Host n3\n  ProxyJump a,b", "root@172.16.0.3:22 through jump host a,b"),
        ("i2", "Host i1\n  HostName 198.51.100.7", "root@172.16.1.2:22 through gateway i1"),
        ("i2", "Host i1\n  ProxyJump bastion", "root@172.16.1.2:22 through gateway i1"),
        # the jump hosts themselves
        ("me@bastion:2200", "", "me@bastion:2200"),
        ("me@bastion", "Host bastion\n  HostName 198.51.100.7\n  User you\n  Port 2200", "me@198.51.100.7:2200"),
        ("a,me@b", "", "me@b:22 through jump host a"),
        ("me@bastion", "Host *\n  ProxyJump bastion", "me@bastion:22"),
        # commands
        ("n2", "Host n2\n  ProxyCommand nc %h %p", "debian@203.0.113.2:2222 by nc 203.0.113.2 2222"),
        ("n3", "Host n3\n  ProxyCommand relay %r %h 100%%", "root@172.16.0.3:22 by relay root 172.16.0.3 100%"),
    ],
)
def test_the_way_to_a_host(tmp_path: Path, target: str, config: str, expected: str) -> None:
    assert brief(way(tmp_path, target, config)) == expected


def test_the_key_of_another_port_than_22_is_recorded_with_the_port(tmp_path: Path) -> None:
    assert way(tmp_path, "n1").key_name == "203.0.113.1"
    assert way(tmp_path, "n2").key_name == "[203.0.113.2]:2222"


def test_a_jump_host_without_user_is_entered_as_oneself(tmp_path: Path) -> None:
    assert way(tmp_path, "bastion").user == getpass.getuser()


def test_what_follows_an_include_belongs_where_the_include_stands(tmp_path: Path) -> None:
    (tmp_path / "first").write_text("Host n2\n  User included\n")
    found = way(tmp_path, "n1", "Include first\nUser everybody\n")
    assert found.user == "everybody"
    assert way(tmp_path, "n2", "Include fir*\nUser everybody\n").user == "included"
    inside = "Host n1\n  Include first\n  Port 2200\nHost n2\n  Port 2201\n"
    assert way(tmp_path, "n1", inside).port == 2200


def test_an_include_of_itself_ends(tmp_path: Path) -> None:
    assert way(tmp_path, "n1", "Include config\nUser me\n") == replace(way(tmp_path, "n1"), user="me")
