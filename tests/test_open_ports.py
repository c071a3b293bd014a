"""What is tried from where, and what is called closed, open and untested."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from fake_host import FakeFleet
from test_report import shown

from isthmus import open_ports as module
from isthmus.errors import UsageError
from isthmus.inventory import load_inventory
from isthmus.model import Inventory
from isthmus.open_ports import PortReport, State, open_ports
from isthmus.ports import port_rules
from isthmus.report import closed_line, ports_json, ports_table, rules_json, rules_table, security_groups

CLUSTER = load_inventory(Path(__file__).parent.parent / "hosts.toml")
INVENTORY = replace(CLUSTER, kubernetes=None)
"""The mesh alone."""
ANYWHERE = IPv4Network("0.0.0.0/0")


class Socket:
    def close(self) -> None: ...


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet(INVENTORY)


@pytest.fixture(autouse=True)
def refused(monkeypatch: pytest.MonkeyPatch) -> dict[str, OSError]:
    """The addresses that accept no connection from the workstation, and why."""
    refused: dict[str, OSError] = {}

    def connect(address: str, port: int, timeout: float) -> Socket:
        assert port == 22
        assert timeout > 3
        if address in refused:
            raise refused[address]
        return Socket()

    monkeypatch.setattr(module, "connect_tcp", connect)
    return refused


def tried(fleet: FakeFleet, only: list[str] | None = None) -> PortReport:
    report = open_ports(fleet, fleet.inventory, only)  # type: ignore[arg-type]
    assert not any(host.answering for host in fleet.hosts.values())
    return report


def not_open(report: PortReport) -> list[tuple[str, str, str, str, str]]:
    return [
        (one.rule.host, f"{one.rule.port}/{one.rule.protocol}", one.rule.source, one.state.value, one.reason)
        for one in report.tried
        if one.state is not State.OPEN
    ]


def test_every_rule_is_tried_and_open(fleet: FakeFleet) -> None:
    report = tried(fleet)
    assert [one.rule for one in report.tried] == list(port_rules(INVENTORY))
    assert (not_open(report), report.closed, report.failures) == ([], (), {})


def test_a_closed_wireguard_port_is_named_with_its_source(fleet: FakeFleet) -> None:
    fleet["n1"].carries = {"s1:51820/udp": None}
    report = tried(fleet)
    assert not_open(report) == [("s1", "51820/udp", "n1", "closed", "no datagram arrives")]
    assert closed_line(report.closed[0]) == (
        "s1 (203.0.113.129): 51820/udp is closed to n1 (203.0.113.1): no datagram arrives; "
        "it is for WireGuard from nanjing; carries all that its hosts say to those of shanghai"
    )


def test_the_host_behind_a_closed_ssh_port_is_not_asked(fleet: FakeFleet, refused: dict[str, OSError]) -> None:
    refused["203.0.113.2"] = TimeoutError("timed out")
    report = tried(fleet)
    assert not_open(report) == [
        ("n1", "51820/udp", "n2", "untested", "n2 could not be asked"),
        ("n2", "22/tcp", "the workstation", "closed", "timed out"),
        ("n2", "51820/udp", "n1", "untested", "n2 could not be asked"),
    ]
    assert closed_line(report.closed[0]).startswith(
        "n2 (203.0.113.2): 22/tcp is closed to the workstation: timed out; "
    )
    assert "n2" not in fleet.ran("answer", "largest")


def test_a_leafs_ssh_port_is_tried_from_its_gateway(fleet: FakeFleet) -> None:
    fleet["n1"].lost = {"n3:22/tcp"}
    assert not_open(tried(fleet)) == [("n3", "22/tcp", "n1", "closed", "no connection")]
    (script,) = [script for script in fleet.scripts if script.startswith("# reach")]
    assert script.endswith("to n3:22/tcp 172.16.0.3 22\nwait\n")


def test_another_way_in_the_users_ssh_config_needs_no_port_from_here(
    fleet: FakeFleet, refused: dict[str, OSError]
) -> None:
    refused.update({address: TimeoutError("timed out") for address in ("203.0.113.1", "203.0.113.2", "203.0.113.129")})
    fleet.ssh_config = {
        "n1": {"proxyjump": "bastion"},
        "n2": {"hostname": "10.0.0.2"},
        "n3": {"proxyjump": "bastion"},
        "s1": {"proxycommand": "nc %h %p"},
    }
    report = tried(fleet)
    assert {(host, state, reason) for host, port, _, state, reason in not_open(report) if port == "22/tcp"} == {
        (host, "untested", "~/.ssh/config leads there another way") for host in ("n1", "n2", "n3", "s1")
    }
    assert report.closed == ()


def test_a_host_that_cannot_be_asked_is_one_failure_and_nothing_closed(fleet: FakeFleet) -> None:
    fleet["n1"].unreachable = "no login"
    fleet["s1"].carries = {"n1:51820/udp": None}
    report = tried(fleet)
    assert report.closed == ()
    assert set(report.failures) == {"n1", "n3"}
    states = {(one.rule.host, one.rule.source): one.state for one in report.tried}
    assert states["s1", "n1"] is State.UNTESTED, "nobody could knock"
    assert states["n1", "s1"] is State.UNTESTED, "nobody could answer"
    assert states["n3", "n1"] is State.UNTESTED


def test_only_some_hosts_rules_are_tried_from_wherever_their_traffic_comes(fleet: FakeFleet) -> None:
    report = tried(fleet, ["s1"])
    assert [(one.rule.host, one.rule.source) for one in report.tried] == [("s1", "the workstation"), ("s1", "n1")]
    assert (fleet.ran("answer"), fleet.ran("largest")) == (["s1"], ["n1"])


@pytest.fixture
def cluster() -> FakeFleet:
    return FakeFleet(CLUSTER)


def test_nodes_ports_are_tried_and_where_nothing_listens_yet_they_are_open(cluster: FakeFleet) -> None:
    cluster["n2"].replies = {"n1:6443/tcp": "refused", "n3:10250/tcp": "refused"}
    report = tried(cluster)
    assert (not_open(report), report.failures) == ([], {})
    told = {(one.rule.host, one.rule.admits, one.rule.source) for one in report.tried if one.reason}
    assert told == {("n1", "6443/tcp", "n2"), ("n3", "10250/tcp", "n2")}
    assert {one.reason for one in report.tried} == {"", "nothing listens there yet"}


def test_what_is_closed_to_a_node_is_named(cluster: FakeFleet) -> None:
    cluster["n2"].lost = {"n1:6443/tcp"}
    cluster["n3"].carries = {"n2:8472/udp": None}
    report = tried(cluster)
    assert [closed_line(one) for one in report.closed] == [
        "n1 (172.16.0.1): 6443/tcp is closed to n2 (172.16.0.2): no connection; it is for Kubernetes' API",
        "n2 (172.16.0.2): 8472/udp is closed to n3 (172.16.0.3): no datagram arrives; it is for flannel: what pods say",
    ]


def test_a_refused_login_is_a_closed_port(fleet: FakeFleet) -> None:
    fleet["n1"].replies = {"n3:22/tcp": "refused"}
    assert not_open(tried(fleet)) == [("n3", "22/tcp", "n1", "closed", "connection refused")]


def two_gateways() -> Inventory:
    return load_inventory(Path(__file__).parent / "golden" / "two_gateways" / "hosts.toml")


def test_pings_that_tell_who_is_in_charge_are_tried() -> None:
    fleet = FakeFleet(two_gateways())
    fleet["n3"].lost = {"n2:icmp"}
    report = tried(fleet)
    (closed,) = report.closed
    assert closed_line(closed) == (
        "n2 (172.16.0.2): icmp is closed to n3 (172.16.0.3): no answer; "
        "it is for echo requests, which tell who is in charge of the site"
    )


# --- what is printed ----------------------------------------------------------------------------------------------


def test_tables(fleet: FakeFleet) -> None:
    fleet["n1"].carries = {"s1:51820/udp": None}
    assert shown(ports_table(tried(fleet, ["s1"])), width=120).split("\n") == [
        "host  address        port       from             source       state",
        "s1    203.0.113.129  22/tcp     the workstation  any address  open",
        "s1    203.0.113.129  51820/udp  n1               203.0.113.1  closed: no datagram arrives",
    ]
    rules = [rule for rule in port_rules(INVENTORY) if rule.host == "n3"]
    assert shown(rules_table(rules), width=140).split("\n")[1:] == [
        "n3    172.16.0.3  22/tcp     n1    172.16.0.1  SSH, for inv, through the gateway n1",
        f"n3    172.16.0.3  51820/udp  n1    172.16.0.1  {rules[1].why}",
    ]


def test_json(fleet: FakeFleet) -> None:
    fleet["n1"].carries = {"s1:51820/udp": None}
    found = json.loads(json.dumps(ports_json(tried(fleet))))
    assert found["failures"] == {}
    assert found["ports"][-1] == {
        "host": "s1",
        "direction": "ingress",
        "service": "WireGuard",
        "protocol": "udp",
        "port": 51820,
        "address": "203.0.113.129",
        "source": "n1",
        "source_address": "203.0.113.1",
        "why": "WireGuard from nanjing; carries all that its hosts say to those of shanghai",
        "state": "closed",
        "reason": "no datagram arrives",
    }
    assert rules_json(port_rules(INVENTORY))[0]["source_address"] is None


# --- as clouds want it --------------------------------------------------------------------------------------------


def asked(form: str, workstation: str = "0.0.0.0/0") -> str:
    return security_groups(INVENTORY, port_rules(INVENTORY), form, IPv4Network(workstation))


def test_aliyun_gets_the_hosts_of_its_sites() -> None:
    (request,) = json.loads(asked("aliyun", "198.51.100.0/24"))
    assert request["SecurityGroupId"] == "<security group of s1>"
    assert request["Permissions"] == [
        {
            "IpProtocol": "TCP",
            "PortRange": "22/22",
            "SourceCidrIp": "198.51.100.0/24",
            "Policy": "accept",
            "NicType": "intranet",
            "Description": "isthmus: SSH from the workstation",
        },
        {
            "IpProtocol": "UDP",
            "PortRange": "51820/51820",
            "SourceCidrIp": "203.0.113.1/32",
            "Policy": "accept",
            "NicType": "intranet",
            "Description": "isthmus: WireGuard from n1",
        },
    ]


def test_tencent_gets_the_hosts_of_its_sites() -> None:
    requests: list[dict[str, Any]] = json.loads(asked("tencent"))
    assert [request["SecurityGroupId"] for request in requests] == [f"<security group of n{i}>" for i in (1, 2, 3)]
    assert requests[2]["SecurityGroupPolicySet"]["Ingress"] == [
        {
            "Protocol": protocol,
            "Port": port,
            "CidrBlock": "172.16.0.1/32",
            "Action": "ACCEPT",
            "PolicyDescription": f"isthmus: {what} from n1",
        }
        for protocol, port, what in (("TCP", "22", "SSH"), ("UDP", "51820", "WireGuard"))
    ]


def test_terraform_has_a_resource_of_each_sites_provider() -> None:
    text = asked("terraform")
    assert re.findall('^(?:resource|variable) .*"', text, re.MULTILINE) == [
        'variable "security_group_of_n1"',
        'resource "tencentcloud_security_group_rule_set" "isthmus_n1"',
        'variable "security_group_of_n2"',
        'resource "tencentcloud_security_group_rule_set" "isthmus_n2"',
        'variable "security_group_of_n3"',
        'resource "tencentcloud_security_group_rule_set" "isthmus_n3"',
        'variable "security_group_of_s1"',
        'resource "alicloud_security_group_rule" "isthmus_s1_22_tcp_workstation"',
        'resource "alicloud_security_group_rule" "isthmus_s1_51820_udp_n1"',
    ]
    assert text.count("{") == text.count("}")
    assert len(re.findall(r"^  ingress \{$", text, re.MULTILINE)) == 8


def test_icmp_has_no_port_in_any_clouds_words() -> None:
    inventory = two_gateways()
    rules = [rule for rule in port_rules(inventory) if rule.protocol == "icmp"]
    assert rules
    inventory = replace(inventory, sites={k: replace(v, provider="aliyun") for k, v in inventory.sites.items()})
    (first, *_) = json.loads(security_groups(inventory, rules, "aliyun", ANYWHERE))
    permission = first["Permissions"][0]
    assert (permission["IpProtocol"], permission["PortRange"]) == ("ICMP", "-1/-1")
    assert 'port_range        = "-1/-1"' in security_groups(inventory, rules, "terraform", ANYWHERE)
    inventory = replace(inventory, sites={k: replace(v, provider="tencent") for k, v in inventory.sites.items()})
    (first, *_) = json.loads(security_groups(inventory, rules, "tencent", ANYWHERE))
    assert first["SecurityGroupPolicySet"]["Ingress"][0].keys() == {
        *("Protocol", "CidrBlock", "Action", "PolicyDescription")
    }
    terraform = security_groups(inventory, rules, "terraform", ANYWHERE)
    assert 'protocol    = "ICMP"\n    cidr_block' in terraform


def test_a_cloud_without_hosts_is_a_usage_error() -> None:
    rules = [rule for rule in port_rules(INVENTORY) if rule.host == "s1"]
    with pytest.raises(UsageError, match='--format tencent: found no host in a site with provider = "tencent"'):
        security_groups(INVENTORY, rules, "tencent", ANYWHERE)
