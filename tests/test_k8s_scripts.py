"""scripts/host/k8s-*.sh for real, on hosts in namespaces of this machine; kubeadm and kubectl are stand-ins."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from namespace_host import NamespaceHost

from isthmus.host_scripts import SCRIPTS, host_script
from isthmus.kubernetes.configs import PATHS
from isthmus.kubernetes.facts import NodeFacts, parse_probe

KUBEADM = r"""#!/bin/sh
# Does what the test wants of it, says what it was asked, and what its configuration says.
echo "kubeadm $*" >>/run/kubeadm.log
case $1 in
config) ;;
init | join)
    for word in "$@"; do
        case $word in *.yaml) (stat -c '%a' "$word" "${word%/*}"; cat "$word") >>/run/kubeadm.log ;; esac
    done
    echo "with the secret abcdef.0123456789abcdef"
    [ ! -e /run/kubeadm.fails ] || { cat /run/kubeadm.fails; exit 1; }
    [ ! -e /run/kubeadm.waits ] || sleep 2
    mkdir -p /etc/kubernetes
    echo "    server: https://api.isthmus.internal:6443" >/etc/kubernetes/kubelet.conf
    [ $1 = join ] || cp /etc/kubernetes/kubelet.conf /etc/kubernetes/admin.conf ;;
token) [ "$2" != list ] || echo abcdef.0123456789abcdef ;;
reset) [ ! -e /run/kubeadm.fails ] || exit 1; rm -rf /etc/kubernetes ;;
esac
"""
RULES = r"""
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:OTHER - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -j OTHER
-A OTHER -s 10.0.0.0/8 -j ACCEPT
-A KUBE-SERVICES -j KUBE-POSTROUTING
COMMIT
*filter
:FLANNEL-FWD - [0:0]
:ISTHMUS-FORWARD - [0:0]
-A FORWARD -j ISTHMUS-FORWARD
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.244.0.0/16 -j ACCEPT
-A ISTHMUS-FORWARD -i wg0 -j ACCEPT
COMMIT
"""
UNFINISHED = "/var/lib/isthmus-kubernetes/unfinished"
DATA = b"a file of the bundle\n" * 50_000
SUM = hashlib.sha256(DATA).hexdigest()
INIT = host_script("k8s-init", wait_s=5)
JOIN = host_script("k8s-join", wait_s=5)


@pytest.fixture
def host() -> Iterator[NamespaceHost]:
    with NamespaceHost("172.16.0.1/24") as made:
        made.run("rm -rf /var/lib/isthmus-kubernetes /etc/kubernetes; mkdir -p /var/lib/isthmus-kubernetes")
        made.run(f"cat >/usr/local/sbin/kubeadm <<'.'\n{KUBEADM}.\nchmod 755 /usr/local/sbin/kubeadm")
        yield made


def facts(host: NamespaceHost) -> NodeFacts:
    script = host_script("k8s-probe", interface="wg0", endpoint="api.isthmus.internal", paths=" ".join(PATHS))
    return parse_probe("n1", host.run(script))


# --- init and join ------------------------------------------------------------------------------------------------


def test_a_bare_host_is_probed(host: NamespaceHost) -> None:
    found = facts(host)
    assert (found.system, found.kubeadm, found.unfinished, found.api) == ("debian 12", frozenset(), None, None)
    assert found.memory_mb > 0
    assert found.disk_mb > 7


def test_images_on_a_disk_of_their_own_have_its_room(host: NamespaceHost) -> None:
    host.run("mkdir -p /var/lib/containerd && mount -t tmpfs -o size=7m images /var/lib/containerd")
    assert facts(host).disk_mb == 7


def test_a_join_hands_its_configuration_over_in_a_file_of_its_owner_that_is_gone_afterwards(
    host: NamespaceHost,
) -> None:
    host.run(JOIN, "token: abcdef.0123456789abcdef")
    log = host.run("cat /run/kubeadm.log")
    assert "600\n700\ntoken: abcdef.0123456789abcdef" in log
    assert "abcdef" not in "".join(line for line in log.splitlines() if line.startswith("kubeadm "))
    assert host.run("ls -d /run/isthmus-kubernetes?* 2>/dev/null | grep -v -e log -e lock || true") == ""
    assert facts(host).unfinished is None
    assert facts(host).kubeadm == {"kubelet.conf"}


@pytest.mark.parametrize(("script", "verb"), [(INIT, "init"), (JOIN, "join")])
def test_what_fails_says_kubeadms_own_words_and_stays_unfinished_until_it_is_reset(
    host: NamespaceHost, script: str, verb: str
) -> None:
    host.run("printf '\\t[ERROR Port-10250]: in use\\nerror: preflight\\nhint\\n' >/run/kubeadm.fails")
    failed = host.attempt(script).stderr
    assert "[ERROR Port-10250]: in use" in failed
    assert "hint" not in failed
    assert facts(host).unfinished == verb
    assert host.attempt(script).stderr == f"kubeadm {verb} was begun by another run and not finished\n"
    host.run("rm /run/kubeadm.fails")
    host.run(host_script("k8s-reset", only_unfinished="yes", wait_s=5))
    assert facts(host).unfinished is None
    host.run(script)
    assert "kubelet.conf" in facts(host).kubeadm


@pytest.mark.parametrize("script", [INIT, JOIN])
def test_it_is_done_once(host: NamespaceHost, script: str) -> None:
    host.run(script)
    host.run(script)
    log = host.run("cat /run/kubeadm.log")
    assert log.count("kubeadm init") + log.count("kubeadm join") == 1


def test_a_run_that_comes_while_kubeadm_works_waits_for_its_end_and_resets_nothing(host: NamespaceHost) -> None:
    host.run("touch /run/kubeadm.waits")
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(host.run, JOIN)
        host.run(f"until [ -s {UNFINISHED} ]; do sleep 0.05; done")
        assert facts(host).busy
        host.run(host_script("k8s-reset", only_unfinished="yes", wait_s=60))
        joining.result()
    assert "kubeadm reset" not in host.run("cat /run/kubeadm.log")
    assert facts(host).kubeadm == {"kubelet.conf"}
    assert (facts(host).unfinished, facts(host).busy) == (None, False)


def test_the_first_token_of_kubeadm_is_deleted(host: NamespaceHost) -> None:
    host.run(INIT)
    log = host.run("cat /run/kubeadm.log")
    assert "--skip-token-print" in log
    assert "kubeadm token delete abcdef\n" in log


# --- reset --------------------------------------------------------------------------------------------------------


def test_a_reset_takes_off_what_is_kubernetes_and_nothing_else(host: NamespaceHost) -> None:
    host.run(f"iptables-restore --noflush <<'.'\n{RULES}.\n")
    host.run("ip link add cni0 type bridge; ip link add mine type bridge; mkdir -p /etc/cni/net.d /run/flannel")
    host.run("touch /etc/cni/net.d/10-flannel.conflist /etc/cni/net.d/20-mine.conflist /run/flannel/subnet.env")
    host.run(host_script("k8s-reset", only_unfinished="no", wait_s=5))
    rules = host.run("iptables-save")
    assert "KUBE-" not in rules
    assert "FLANNEL" not in rules
    for kept in ("-A PREROUTING -j OTHER", "-A OTHER -s 10.0.0.0/8 -j ACCEPT", "-A ISTHMUS-FORWARD -i wg0 -j ACCEPT"):
        assert kept in rules
    assert "mine" in host.run("ip -br link")
    assert "cni0" not in host.run("ip -br link")
    assert host.run("ls /etc/cni/net.d") == "20-mine.conflist\n"
    assert facts(host).unfinished is None


def test_a_reset_that_fails_is_not_over(host: NamespaceHost) -> None:
    host.run("touch /run/kubeadm.fails")
    host.run(f"! ( {host_script('k8s-reset', only_unfinished='no', wait_s=5)}\n) 2>/dev/null")
    assert facts(host).unfinished == "reset"


# --- the bundle's files -------------------------------------------------------------------------------------------


def put(host: NamespaceHost) -> None:
    host.run(
        "mkdir -p /var/lib/isthmus-kubernetes/bundle/images; yes 'a file of the bundle' | head -n 50000 >/run/data"
    )
    host.run(f"( {host_script('k8s-receive', path='images/a.tar', sha256=SUM)}\n) </run/data")


def test_a_file_is_kept_when_it_is_whole(host: NamespaceHost) -> None:
    put(host)
    have = host_script("k8s-have")
    assert host.run(f"{have}file images/a.tar {SUM}\nfile images/b.tar {SUM}\n") == "images/a.tar\n"
    assert host.run(f"{have}file images/a.tar {'0' * 64}\n") == ""
    other = host_script("k8s-receive", path="images/b.tar", sha256="0" * 64)
    said = host.run(f"( {other}\n) </run/data 2>&1 || true")
    assert said == "images/b.tar arrived with another sum than it left with\n"
    assert host.run("ls /var/lib/isthmus-kubernetes/bundle/images") == "a.tar\n"


def test_a_host_hands_out_what_is_asked_for_with_the_token_and_nothing_else(host: NamespaceHost) -> None:
    put(host)
    pid, port = host.run(host_script("k8s-serve", address="172.16.0.1", token="abc", idle_s=30)).split()
    host.run("cd /var/lib/isthmus-kubernetes; mv bundle/images/a.tar kept; mkdir -p away; cp kept bundle/images/a.tar")

    def fetch(token: str, path: str) -> str:
        script = host_script("k8s-fetch", address="172.16.0.1", port=port, token=token)
        return host.run(f"( {script}file {path} {SUM}\n) 2>&1 || true")

    assert fetch("abc", "images/a.tar") == ""
    assert fetch("abd", "images/a.tar") == "images/a.tar did not arrive whole from 172.16.0.1\n"
    assert fetch("abc", "images/../../kept") == "images/../../kept did not arrive whole from 172.16.0.1\n"
    host.run(host_script("hush", pid=pid, token="abc"))
    assert "172.16.0.1" in fetch("abc", "images/a.tar")  # refused, or accepted by one that is just ending


def test_the_scripts_are_posix_sh() -> None:
    for path in SCRIPTS.glob("k8s-*.sh"):
        assert subprocess.run(["dash", "-n", path], check=False).returncode == 0, path
