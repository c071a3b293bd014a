"""The scripts of several control planes for real, on hosts in namespaces; kubectl and the like are stand-ins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from namespace_host import NamespaceHost

from isthmus.host_scripts import host_script
from isthmus.kubernetes.configs import BALANCER, BALANCER_UNIT, PATHS
from isthmus.kubernetes.facts import parse_probe

NAME = "api.isthmus.internal"
KUBECTL = r"""#!/bin/sh
# The API of a cluster with etcd on n1, n2 and n3; it does not reach n1's.
echo "kubectl $*" >>/run/kubectl.log
case "$*" in
*"get pods"*) echo etcd-n1 etcd-n2 etcd-n3 ;;
*"exec -n kube-system etcd-n1"*) echo "error dialing backend" >&2; exit 1 ;;
*"member list")
    echo "8e9e05c52164694d, started, n1, https://172.16.0.1:2380, https://172.16.0.1:2379, false"
    echo "91bc3c398fb3c146, started, n2, https://172.16.0.2:2380, https://172.16.0.2:2379, false"
    echo "fd422379fda50e48, unstarted, , https://172.16.0.3:2380, , true" ;;
*"member remove"*) [ ! -e /run/etcd.refuses ] || { echo "Error: etcdserver: unhealthy cluster" >&2; exit 1; } ;;
*"get secret"*) echo bootstrap-token-abcdef ;;
esac
"""
KUBEADM = r"""#!/bin/sh
echo "kubeadm $*" >>/run/kubeadm.log
for word in "$@"; do :; done # the last one is the configuration
(stat -c '%a' "$word" "${word%/*}"; cat "$word") >>/run/kubeadm.log
echo "[upload-certs] Using certificate key:"
cat "$word"
[ ! -e /run/kubeadm.fails ] || { echo "error: etcdserver: leader changed" >&2; rm /run/kubeadm.fails; exit 1; }
"""


@pytest.fixture
def host() -> Iterator[NamespaceHost]:
    with NamespaceHost("172.16.0.2/24") as made:
        made.run("mkdir -p /etc/kubernetes; touch /etc/kubernetes/admin.conf; rm -f /run/kubectl.log")
        for name, text in (("kubectl", KUBECTL), ("kubeadm", KUBEADM)):
            path = f"/usr/local/sbin/{name}"
            made.run(f"cat >{path} <<'.'\n{text}.\nchmod 755 {path}")
        yield made


def removed(host: NamespaceHost) -> list[str]:
    lines = host.run("grep 'member remove' /run/kubectl.log || true").splitlines()
    return [line.split()[-1] for line in lines]


def test_a_member_leaves_by_its_name_and_one_that_never_began_by_its_address(host: NamespaceHost) -> None:
    host.run(host_script("k8s-etcd", members="n1=172.16.0.1"))
    assert removed(host) == ["8e9e05c52164694d"]
    host.run(host_script("k8s-etcd", members="n3=172.16.0.3"))
    assert removed(host) == ["8e9e05c52164694d", "fd422379fda50e48"]
    assert "etcd-n3 -- etcdctl" not in host.run("cat /run/kubectl.log")  # one that leaves is not asked


def test_who_is_no_member_is_fine(host: NamespaceHost) -> None:
    host.run(host_script("k8s-etcd", members="n4=172.16.0.4"))
    assert removed(host) == []


def test_a_member_that_etcd_needs_is_kept_in_its_words(host: NamespaceHost) -> None:
    host.run("touch /run/etcd.refuses")
    failed = host.attempt(host_script("k8s-etcd", members="n3=172.16.0.3"))
    assert failed.returncode == 1
    assert failed.stderr == "etcd keeps n3: Error: etcdserver: unhealthy cluster\n"


def test_an_etcd_that_cannot_be_asked_is_told(host: NamespaceHost) -> None:
    failed = host.attempt(host_script("k8s-etcd", members="n2=172.16.0.2 n3=172.16.0.3"))
    assert failed.returncode == 1
    assert failed.stderr == "etcd cannot be asked: error dialing backend\n"


def test_the_key_of_the_certificates_is_in_a_file_of_its_owner_that_is_gone_afterwards(host: NamespaceHost) -> None:
    host.run("touch /run/kubeadm.fails")  # once: it is tried again
    said = host.run(host_script("k8s-certs"), 'certificateKey: "0123abc"')
    log = host.run("cat /run/kubeadm.log")
    assert said == ""
    assert log.count('600\n700\ncertificateKey: "0123abc"') == 2
    assert "0123abc" not in "".join(line for line in log.splitlines() if line.startswith("kubeadm "))
    assert host.run("ls -d /run/isthmus-kubernetes-certs* 2>/dev/null || true") == ""
    assert host.run("grep -rl 0123abc /run /var/lib/isthmus-kubernetes 2>/dev/null || true") == "/run/kubeadm.log\n"


def test_certificates_go_with_the_token_that_kubeadm_ties_them_to(host: NamespaceHost) -> None:
    host.run(f"( {host_script('k8s-uncerts')}\n)")
    last = host.run("tail -n 1 /run/kubectl.log")
    assert last == "kubectl delete secret -n kube-system --ignore-not-found kubeadm-certs bootstrap-token-abcdef\n"


def endpoint(host: NamespaceHost) -> tuple[str, ...]:
    script = host_script("k8s-probe", interface="wg0", endpoint=NAME, paths=" ".join(PATHS))
    return parse_probe("n2", host.run(script)).endpoint


def name_the_api(host: NamespaceHost, *addresses: str) -> None:
    inputs = {"debs": "", "images": "", "hold": "", "endpoint": NAME, "address": " ".join(addresses), "apt_wait": 5}
    host.run(f"( {host_script('k8s-prepare', **inputs)}name_the_api\n)")  # type: ignore[arg-type]


def test_the_apis_name_leads_to_several_addresses_in_their_order(host: NamespaceHost) -> None:
    host.run("printf '127.0.0.1 localhost\\n10.0.0.1 other # api.isthmus.internal\\n' >/etc/hosts")
    for addresses in (["172.16.0.1"], ["172.16.0.2", "172.16.0.1", "172.16.0.3"], ["127.0.0.1"]):
        name_the_api(host, *addresses)
        assert endpoint(host) == tuple(addresses)
        before = host.run("stat -c '%Y %Z' /etc/hosts; cat /etc/hosts")
        name_the_api(host, *addresses)
        assert host.run("stat -c '%Y %Z' /etc/hosts; cat /etc/hosts") == before
    assert host.run("head -n 2 /etc/hosts") == "127.0.0.1 localhost\n10.0.0.1 other # api.isthmus.internal\n"


def test_a_balancer_is_set_up_and_taken_off(host: NamespaceHost) -> None:
    path = "/usr/local/sbin/haproxy"
    host.run(f"printf '#!/bin/sh\\n[ ! -e /run/haproxy.fails ]\\n' >{path}; chmod 755 {path}")
    script = host_script("k8s-balance", config=BALANCER, unit_file=BALANCER_UNIT, apt_wait=5)
    stage = "".join(f"stage {path} 644 <<'.'\nYQo=\n.\n" for path in (BALANCER, BALANCER_UNIT))

    def state() -> str:
        units = host.run("ls /run/units | grep isthmus-api || true").split()
        files = host.run(f"cat {BALANCER} {BALANCER_UNIT} 2>/dev/null || true").split()
        return f"{units} {files}"

    host.run(f"( {script}{stage}balance\n)")
    assert state() == "['isthmus-api.active', 'isthmus-api.enabled'] ['a', 'a']"
    host.run(f"( {script}unbalance\n)")
    assert state() == "[] []"
    host.run("touch /run/haproxy.fails")
    assert host.attempt(f"( {script}{stage}balance\n)").returncode == 1
    assert "isthmus-api.active" not in state()
