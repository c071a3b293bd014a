"""What hosts.toml and bundle.toml may ask of Kubernetes, what a probe says, and how labels and taints differ."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import bundles
import pytest
from fake_cluster import ca

from isthmus.errors import CommandError, InventoryError
from isthmus.inventory import parse_inventory
from isthmus.kubernetes.bundle import parse_bundle
from isthmus.kubernetes.cluster import Cluster, Node, Taint, cluster_of
from isthmus.kubernetes.drift import drift
from isthmus.kubernetes.facts import NodeObject, ca_hash, parse_probe

HOSTS = (Path(__file__).parent.parent / "hosts.toml").read_text(encoding="utf-8")


def cluster(*edits: tuple[str, str]) -> Cluster:
    text = HOSTS
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    return cluster_of(parse_inventory(text, "hosts.toml"))


def refused(*edits: tuple[str, str]) -> list[str]:
    with pytest.raises(InventoryError) as caught:
        cluster(*edits)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


# --- hosts.toml ---------------------------------------------------------------------------------------------------


def test_the_articles_cluster() -> None:
    found = cluster()
    assert found.control_plane.name == "n1"
    assert found.workers == ("n2", "n3", "s1")
    assert found.pod_mtu == 1370
    assert found.nodes["s1"].taints == (Taint("zone", "PreferNoSchedule", "shanghai"),)
    assert found.satisfied_by("1.36.2")
    assert not found.satisfied_by("1.3.6")
    assert not found.satisfied_by("1.360.1")


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        (
            [('roles   = ["control-plane"]\n', "")],
            'hosts: found no host with roles = ["control-plane"], expected one, which holds the cluster\'s API',
        ),
        (
            [('public  = "203.0.113.2" ', 'roles = ["control-plane"]\npublic  = "203.0.113.2" ')],
            (
                "hosts: found 2 control planes (n1, n2), expected one, or an odd number: of an even one"
                " neither half can go on alone"
            ),
        ),
        (
            [
                ('public  = "203.0.113.2" ', 'roles = ["control-plane"]\npublic  = "203.0.113.2" '),
                ('address = "172.16.128.1"', 'address = "172.16.128.1"\nroles = ["control-plane"]'),
            ],
            (
                "hosts: found control planes of several sites (n1 in nanjing, n2 in nanjing, s1 in shanghai),"
                " expected all in one: etcd waits for a majority"
            ),
        ),
        (
            [('"1.36"', '"1.33"')],
            (
                'kubernetes.version: found "1.33", expected a version that Isthmus supports: 1.34, 1.35, 1.36, 1.37, or'
                " an exact one of these"
            ),
        ),
        (
            [('address = "172.16.0.3"', 'address = "172.16.0.3"\nlabels = ["topology.kubernetes.io/zone=here"]')],
            (
                "hosts.n3.labels: found the label topology.kubernetes.io/zone, expected labels of yours: this one"
                " is the site's name"
            ),
        ),
        (
            [
                (
                    "port    = 3306",
                    (
                        'port = 3306\nservice = "a/b"\n[resources.other]\nsite = "shanghai"\n'
                        'address = "172.16.128.51"\nport = 1\nservice = "a/b"'
                    ),
                )
            ],
            'resources.other.service: found "a/b", expected a Service of its own (resources.mysql has this one)',
        ),
    ],
)
def test_what_cannot_be_a_cluster_is_refused(edits: list[tuple[str, str]], said: str) -> None:
    assert refused(*edits) == [said]


def test_three_control_planes_of_one_site_and_where_the_apis_name_leads() -> None:
    found = cluster(
        ('public  = "203.0.113.2" ', 'roles = ["control-plane"]\npublic  = "203.0.113.2" '),
        ('address = "172.16.0.3"', 'address = "172.16.0.3"\nroles = ["control-plane"]'),
    )
    assert [node.name for node in found.control_planes] == ["n1", "n2", "n3"]
    assert (found.control_plane.name, found.workers) == ("n1", ("s1",))
    leads = {name: [str(address) for address in found.api_addresses(node)] for name, node in found.nodes.items()}
    assert leads == {
        "n1": ["172.16.0.1", "172.16.0.2", "172.16.0.3"],
        "n2": ["172.16.0.2", "172.16.0.1", "172.16.0.3"],
        "n3": ["172.16.0.3", "172.16.0.1", "172.16.0.2"],
        "s1": ["127.0.0.1"],
    }


def test_one_control_plane_is_reached_by_its_address_from_everywhere() -> None:
    found = cluster()
    assert {str(*found.api_addresses(node)) for node in found.nodes.values()} == {"172.16.0.1"}


def test_without_a_section_there_is_no_cluster() -> None:
    assert refused((HOSTS[HOSTS.index("[kubernetes]") :], "")) == [
        "kubernetes: found nothing, expected a section [kubernetes]"
    ]


# --- bundle.toml --------------------------------------------------------------------------------------------------

ZEROES = "0" * 64


@pytest.mark.parametrize(
    ("pattern", "new", "said"),
    [
        (r"format = 1", "format = 2", "bundle.format: found 2, expected 1, the only format there is"),
        (
            r'kubernetes = "1.36.2"',
            'kubernetes = "1.35.2"',
            'bundle.kubernetes: found "1.35.2", expected the version of hosts.toml, 1.36',
        ),
        (
            r'containerd = "2.2.7"',
            'containerd = "1.7.9"',
            'bundle.containerd: found "1.7.9", expected containerd 2.2 or newer',
        ),
        (
            r'"cri-tools_.*\n',
            "",
            "debs: found no cri-tools, expected a package for each of containerd.io, kubelet",
        ),
        (r"kubelet_1\.36\.2-1\.1", "kubelet_1.36.3-1.1", "debs: found kubelet 1.36.3-1.1, expected version 1.36.2"),
        (r'"coredns\.tar".*\n', "", "images: found no image of coredns, expected one: no source has it otherwise"),
        (
            r"kube-proxy:v1\.36\.2",
            "kube-proxy:v1.36.1",
            "images: found registry.k8s.io/kube-proxy:v1.36.1, expected an image of version v1.36.2",
        ),
        (
            r'"pause\.tar" = ',
            '"../pause.tar" = ',
            'images."../pause.tar": found "../pause.tar", expected a file name such as pause.tar',
        ),
        (
            r'sha256 = "[0-9a-f]{64}"',
            'sha256 = "abc"',
            'images."kube-apiserver.tar": found "abc", expected a SHA-256 in 64 hexadecimal digits',
        ),
        (
            r'check = ".*"',
            'check = "busybox:1"',
            'bundle.check: found "busybox:1", expected one of the images\' references',
        ),
    ],
)
def test_a_bundle_that_is_none_for_this_cluster_is_refused(pattern: str, new: str, said: str) -> None:
    text, count = re.subn(pattern, new, bundles.text(), count=1)
    assert count
    with pytest.raises(InventoryError) as caught:
        parse_bundle(text, "bundle.toml", cluster())
    assert str(caught.value.problems[0]).startswith(said)


def test_a_bundle_is_read_with_versions_from_its_file_names() -> None:
    bundle = parse_bundle(bundles.text(), "bundle.toml", cluster())
    assert {deb.package: deb.version for deb in bundle.debs}["containerd.io"] == "2.2.7-1~debian.12~bookworm"
    assert bundle.reference("pause") == "registry.k8s.io/pause:3.10.2"
    assert [image.path for image in bundle.images if not image.needed_everywhere] == [
        "images/kube-apiserver.tar",
        "images/kube-controller-manager.tar",
        "images/kube-scheduler.tar",
        "images/etcd.tar",
    ]


# --- facts --------------------------------------------------------------------------------------------------------


def test_half_an_answer_is_none() -> None:
    with pytest.raises(CommandError, match="k8s-probe: the answer is not whole"):
        parse_probe("n1", "@@ system\ndebian 12\n")


def test_a_cas_hash_is_openssls(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text(ca("ours"))
    commands = f"openssl x509 -in {tmp_path}/ca.crt -noout -pubkey | openssl pkey -pubin -outform der"
    der = subprocess.run(["sh", "-c", commands], capture_output=True, check=True)
    assert ca_hash(ca("ours")) == f"sha256:{hashlib.sha256(der.stdout).hexdigest()}"


# --- labels and taints --------------------------------------------------------------------------------------------


def node_object(labels: dict[str, str], taints: set[Taint], ours: set[str]) -> NodeObject:
    return NodeObject("s1", True, "", "", "", labels, frozenset(taints), None, frozenset(ours))


def asked_for() -> Node:
    node = cluster().nodes["s1"]
    assert node.labels == {"topology.kubernetes.io/zone": "shanghai"}
    return node


OURS = {"topology.kubernetes.io/zone", "zone:PreferNoSchedule"}


def test_a_node_as_it_should_be_does_not_differ() -> None:
    node = asked_for()
    assert not drift(node, node_object(dict(node.labels), set(node.taints), OURS))


def test_what_is_ours_and_no_longer_wanted_goes_and_what_is_others_stays() -> None:
    node = asked_for()
    labels = {**node.labels, "old": "1", "others": "2"}
    taints = {*node.taints, Taint("old", "NoSchedule", "1"), Taint("others", "NoSchedule")}
    found = drift(node, node_object(labels, taints, {*OURS, "old", "old:NoSchedule", "gone-already"}))
    assert list(found) == ["no label old", "no taint old:NoSchedule"]
    assert found.commands("s1") == (
        ("label", "node", "s1", "old-", "--overwrite"),
        ("taint", "node", "s1", "old:NoSchedule-", "--overwrite"),
        (
            *("annotate", "node", "s1"),
            "isthmus.internal/set=topology.kubernetes.io/zone zone:PreferNoSchedule",
            "--overwrite",
        ),
    )


def test_a_taint_with_another_value_is_set_anew() -> None:
    node = asked_for()
    found = drift(node, node_object(dict(node.labels), {Taint("zone", "PreferNoSchedule", "beijing")}, OURS))
    assert list(found) == ["taint zone=shanghai:PreferNoSchedule"]
