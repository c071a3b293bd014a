"""What cannot become a cluster: one clear line, the exit code of the design, and a second run that ends what was begun.

Exit 2: the inventory or the bundle is wrong, and nothing was touched. Exit 1: a host failed, the others were finished.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import bundles
import pytest
from test_bootstrap import Site, _no_waiting, nothing_left
from test_k8s_commands import inv, site

__all__ = ["_no_waiting", "inv", "site"]

COMMANDS = ("k8s.plan", "k8s.bootstrap", "k8s.status", "check.k8s")
ANOTHER = sha256(b"another").hexdigest()
PAUSE = "registry.k8s.io/pause:3.10.2"


def edit_bundle(site: Site, old: str, new: str) -> None:
    """Change bundle.toml; it has the old text once."""
    path = site.folder / "bundle/bundle.toml"
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"1.36"', '"1.33"', 'kubernetes.version: found "1.33", expected a version that Isthmus supports: 1.34'),
        (
            "10.244.0.0/16",
            "10.96.0.0/16",
            'kubernetes.service_subnet: found "10.96.0.0/12", expected a network apart from kubernetes.pod_subnet',
        ),
        (
            "10.244.0.0/16",
            "172.20.0.0/16",
            'kubernetes.pod_subnet: found "172.20.0.0/16", expected a network apart from mesh.supernet 172.16.0.0/12',
        ),
        ('roles   = ["control-plane"]\n', "", 'hosts: found no host with roles = ["control-plane"], expected one'),
        (
            'bundle = "bundle"\n',
            "",
            'kubernetes.bundle: found nothing, expected a source = "upstream" or "aliyun", or the path of a',
        ),
        ('"bundle"\n', '"elsewhere"\n', "the file: found it unreadable (No such file or directory)"),
    ],
)
def test_a_wrong_inventory_is_told_and_nothing_is_touched(
    inv: Any, site: Site, command: str, old: str, new: str, said: str
) -> None:
    site.edit(old, new)
    (site.folder / "hosts.toml").write_text(site.text, encoding="utf-8")
    ended = inv(command)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.message
    assert site.fleet.calls == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda site: (site.folder / "bundle/images/etcd.tar").write_text("another"),
            f"images/etcd.tar: found the sum {ANOTHER}, expected {bundles.digest('images/etcd.tar')}",
        ),
        (
            lambda site: (site.folder / "bundle/images/etcd.tar").unlink(),
            "images/etcd.tar: found it unreadable (No such file or directory), expected a file of the bundle",
        ),
        (
            lambda site: edit_bundle(site, "coredns/coredns:", "coredns/corednz:"),
            "images: found no image of coredns, expected one: no source has it otherwise",
        ),
        (
            lambda site: edit_bundle(site, f'kubernetes = "{bundles.VERSION}"', 'kubernetes = "1.35.1"'),
            'bundle.kubernetes: found "1.35.1", expected the version of hosts.toml, 1.36',
        ),
    ],
)
def test_a_wrong_bundle_is_told_and_nothing_is_touched(
    inv: Any, site: Site, spoil: Callable[[Site], object], said: str
) -> None:
    spoil(site)
    before = str(site.fleet)
    ended = inv("k8s.bootstrap")
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.message
    assert str(site.fleet) == before
    assert site.fleet.changing == []
    bundles.write(site.folder / "bundle")
    site.well()
    nothing_left(site)


@pytest.mark.parametrize(
    ("host", "script", "words"),
    [
        ("n2", "k8s-receive", "cannot write debs/x.deb: 3 MB free"),
        ("n2", "k8s-fetch", "cannot write: No space left on device"),
        ("n2", "k8s-prepare", "ctr: failed to copy: write /var/lib/containerd/x: no space left on device"),
        ("n1", "k8s-prepare", "E: You don't have enough free space in /var/cache/apt/archives/."),
        ("n1", "k8s-init", "[ERROR Mem]: the system RAM (1024 MB) is less than the minimum 1700 MB"),
        ("n1", "k8s-init", f"[ERROR ImagePull]: failed to pull image {PAUSE}: no such host"),
        ("s1", "k8s-join", "[ERROR NumCPU]: the number of available CPUs 1 is less than the required 2"),
        ("n1", "k8s-tokens", "the API does not take a token it has just made: Unauthorized"),
    ],
)
def test_a_host_that_cannot_is_one_line_and_the_next_run_finishes(
    inv: Any, site: Site, host: str, script: str, words: str
) -> None:
    # Where n2 cannot fetch, the workstation sends: so that it fails, it must not be able to receive either.
    scripts = {script, "k8s-receive"} if script == "k8s-fetch" else {script, "k8s-fetch"}
    for name in scripts:
        site.fleet[host].refuses[name] = words
    ended = inv("k8s.bootstrap")
    assert ended.code == 1
    assert [line for line in ended.err.splitlines() if line.startswith(f"{host}: k8s-") and words in line]
    assert "Traceback" not in ended.err
    if host != "n1":
        assert sorted(site.kube.nodes) == sorted({"n1", "n2", "n3", "s1"} - {host})
    assert site.kube is None or site.kube.tokens == set()
    site.fleet[host].refuses.clear()
    site.well()
    nothing_left(site)


@pytest.mark.parametrize("host", ["n1", "n2", "s1"])
def test_a_full_disk_is_seen_before_anything_is_sent_there(inv: Any, site: Site, host: str) -> None:
    site.fleet[host].disk_mb = 120
    check = inv("check.k8s")
    assert check.code == 0  # it is worth a look; what a bundle needs, the bootstrap knows
    assert f"{host}: disk: 120 MB free below /var/lib, 3000 are the least to begin with" in check.out
    before = str(site.fleet[host])
    ended = inv("k8s.bootstrap")
    assert ended.code == 1
    assert f"{host}: 120 MB free below /var/lib, expected 500" in ended.err
    assert str(site.fleet[host]) == before
    site.fleet[host].disk_mb = 50_000
    site.well()
    nothing_left(site)
