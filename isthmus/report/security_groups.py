"""The rules of the security groups in the words of each cloud, ready to send; nothing is sent from here.

Field names: Alibaba Cloud's AuthorizeSecurityGroup (ECS 2014-05-26), Tencent Cloud's CreateSecurityGroupPolicies
(VPC 2017-03-12), Terraform's `alicloud_security_group_rule` and `tencentcloud_security_group_rule_set`. The inventory
knows neither groups nor regions: `<…>` stands for them, and in Terraform a variable for each host's group.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import Any

from isthmus.errors import UsageError
from isthmus.model import Inventory
from isthmus.ports import WORKSTATION, PortRule

CLOUDS = ("aliyun", "tencent")
"""The values of a site's `provider` whose words are known here."""
FORMATS = ("text", "json", *CLOUDS, "terraform")


def security_groups(inventory: Inventory, rules: Sequence[PortRule], form: str, workstation: IPv4Network) -> str:
    """Return the rules as `aliyun`, `tencent` or `terraform` wants them; the clouds' for the sites of that provider.

    `workstation` are the addresses from which `inv` is used. Raises UsageError when no host lies in that cloud.
    """
    clouds = CLOUDS if form == "terraform" else (form,)
    hosts: dict[str, list[PortRule]] = {}
    for rule in rules:
        if inventory.sites[inventory.hosts[rule.host].site].provider in clouds:
            hosts.setdefault(rule.host, []).append(rule)
    if not hosts:
        wanted = " or ".join(f'"{cloud}"' for cloud in clouds)
        raise UsageError(f"--format {form}: found no host in a site with provider = {wanted}")
    if form == "terraform":
        return "\n".join(_terraform(inventory, host, own, workstation) for host, own in hosts.items())
    if form == "aliyun":
        return json.dumps([_aliyun(inventory, host, own, workstation) for host, own in hosts.items()], indent=2)
    return json.dumps([_tencent(host, own, workstation) for host, own in hosts.items()], indent=2)


def _source(rule: PortRule, workstation: IPv4Network) -> str:
    if isinstance(rule.source_address, str):
        return "0.0.0.0/0"  # a DNS name: groups take only addresses, and its address may be another tomorrow
    return str(workstation) if rule.source_address is None else f"{rule.source_address}/32"


def _description(rule: PortRule) -> str:
    return f"isthmus: {rule.service.value} from {rule.source}"


def _port_range(rule: PortRule) -> str:
    """Return the ports as Alibaba Cloud writes them; -1/-1 is what it wants for ICMP."""
    port = -1 if rule.port is None else rule.port
    return f"{port}/{port}"


def _aliyun(inventory: Inventory, host: str, rules: Sequence[PortRule], workstation: IPv4Network) -> dict[str, Any]:
    return {
        "RegionId": f"<region of {inventory.hosts[host].site}>",
        "SecurityGroupId": f"<security group of {host}>",
        "Permissions": [
            {
                "IpProtocol": rule.protocol.upper(),
                "PortRange": _port_range(rule),
                "SourceCidrIp": _source(rule, workstation),
                "Policy": "accept",
                "NicType": "intranet",  # in a VPC it stands for both, the internet's side included
                "Description": _description(rule),
            }
            for rule in rules
        ],
    }


def _tencent(host: str, rules: Sequence[PortRule], workstation: IPv4Network) -> dict[str, Any]:
    return {
        "SecurityGroupId": f"<security group of {host}>",
        "SecurityGroupPolicySet": {
            "Ingress": [
                {
                    "Protocol": rule.protocol.upper(),
                    **({} if rule.port is None else {"Port": str(rule.port)}),  # ICMP goes without
                    "CidrBlock": _source(rule, workstation),
                    "Action": "ACCEPT",
                    "PolicyDescription": _description(rule),
                }
                for rule in rules
            ]
        },
    }


def _terraform(inventory: Inventory, host: str, rules: Sequence[PortRule], workstation: IPv4Network) -> str:
    head = f'variable "security_group_of_{host}" {{\n  type = string\n}}\n'
    if inventory.sites[inventory.hosts[host].site].provider == "aliyun":
        return "\n".join([head, *(_alicloud_rule(rule, workstation) for rule in rules)])
    blocks = "".join(_tencent_block(rule, workstation) for rule in rules)
    return f"""{head}
# A rule set replaces every rule of its group: add those of your own, and what may leave (egress).
resource "tencentcloud_security_group_rule_set" "isthmus_{host}" {{
  security_group_id = var.security_group_of_{host}
{blocks}}}
"""


def _tencent_block(rule: PortRule, workstation: IPv4Network) -> str:
    port = "" if rule.port is None else f'    port        = "{rule.port}"\n'
    return f"""
  ingress {{
    action      = "ACCEPT"
    protocol    = "{rule.protocol.upper()}"
{port}    cidr_block  = "{_source(rule, workstation)}"
    description = "{_description(rule)}"
  }}
"""


def _alicloud_rule(rule: PortRule, workstation: IPv4Network) -> str:
    source = "workstation" if rule.source == WORKSTATION else rule.source
    what = rule.admits.replace("/", "_")
    return f"""resource "alicloud_security_group_rule" "isthmus_{rule.host}_{what}_{source}" {{
  security_group_id = var.security_group_of_{rule.host}
  type              = "ingress"
  ip_protocol       = "{rule.protocol}"
  port_range        = "{_port_range(rule)}"
  cidr_ip           = "{_source(rule, workstation)}"
  policy            = "accept"
  nic_type          = "intranet"
  description       = "{_description(rule)}"
}}
"""
