"""scripts/host/k8s-upgrade*.sh for real, on hosts in namespaces of this machine; kubeadm and kubectl are stand-ins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from namespace_host import NamespaceHost
from test_k8s_scripts import facts

from isthmus.host_scripts import host_script

KUBECTL = r"""#!/bin/sh
# A Node in files: `cordoned`, `ours`, `version`, `ready`, `pods`; says what it was asked.
cd /run/node
echo "$*" >>/run/kubectl.log
if [ -e away ]; then
    left=$(($(cat away) - 1))
    if [ $left -le 0 ]; then rm away; else echo $left >away; fi
    echo "The connection to the server api.isthmus.internal:6443 was refused" >&2
    exit 1
fi
case "$*" in
"get node n2 -o jsonpath={.spec.unschedulable}."*) echo "$(cat cordoned).$(cat ours)" ;;
"get node n2 -o jsonpath={.metadata.annotations"*) cat ours ;;
"get node n2 -o jsonpath={.status"*) echo "$(cat version) $(cat ready)" ;;
"get nodes "*) echo n1=; echo "n2=$(cat ours)"; [ ! -e other ] || echo n3=yes ;;
"get pods"*) cat pods ;;
"--kubeconfig /etc/kubernetes/kubelet.conf annotate node n2 "*) ;;
"patch node n2 "*)
    case "$*" in
    *unschedulable\":true*) echo true >cordoned; echo yes >ours ;;
    *unschedulable\":null*) : >cordoned; : >ours ;;
    esac ;;
"drain n2 "*)
    [ ! -e drain.says ] || { cat drain.says >&2; exit 1; } ;;
*) echo "the stand-in for kubectl does not know: $*" >&2; exit 99 ;;
esac
"""
KUBEADM = r"""#!/bin/sh
echo "kubeadm $*" >>/run/kubeadm.log
[ ! -e /run/kubeadm.fails ] || { cat /run/kubeadm.fails; [ ! -e /run/kubeadm.once ] || rm /run/kubeadm.*s; exit 1; }
"""
BUDGET = """\
Warning: ignoring DaemonSet-managed Pods: kube-flannel/isthmus-flannel-5kk5t, kube-system/kube-proxy-27k7m
evicting pod default/web-2
evicting pod default/web-1
error when evicting pods/"web-1" -n "default" (will retry after 5s): Cannot evict pod as it would violate the pod's disruption budget.
error when evicting pods/"web-2" -n "shop" (will retry after 5s): Cannot evict pod as it would violate the pod's disruption budget.
error: unable to drain node "n2" due to error: [error when evicting pods/"web-1" -n "default": global timeout reached: 20s, error when evicting pods/"web-2" -n "shop": global timeout reached: 20s], continuing command...
There are pending nodes to be drained:
 n2
[error when evicting pods/"web-1" -n "default": global timeout reached: 20s, error when evicting pods/"web-2" -n "shop": global timeout reached: 20s]
"""  # noqa: E501
SLOW = """\
evicting pod default/slow
error: unable to drain node "n2" due to error: error when waiting for pod "slow" in namespace "default" to terminate: global timeout reached: 20s, continuing command...
"""  # noqa: E501
BARE = """\
error: unable to drain node "n2" due to error: cannot delete Pods that declare no controller (use --force to override): default/a, shop/b, continuing command...
There are pending nodes to be drained:
 n2
error: cannot delete Pods that declare no controller (use --force to override): default/a, shop/b
"""  # noqa: E501


@pytest.fixture
def host() -> Iterator[NamespaceHost]:
    with NamespaceHost("172.16.0.1/24") as made:
        for name, text in (("kubectl", KUBECTL), ("kubeadm", KUBEADM)):
            made.run(f"cat >/usr/local/sbin/{name} <<'.'\n{text}.\nchmod 755 /usr/local/sbin/{name}")
        made.run(
            "mkdir /run/node; cd /run/node; : >cordoned; : >ours; echo v1.36.2 >version; echo True >ready; : >pods"
        )
        yield made


def drain(limit_s: int = 5, only_ask: str = "no") -> str:
    return host_script("k8s-upgrade-drain", node="n2", limit_s=limit_s, only_ask=only_ask)


def finish(wait_s: int = 1) -> str:
    return host_script("k8s-upgrade-finish", node="n2", version="1.36.2", wait_s=wait_s)


def node(host: NamespaceHost) -> tuple[str, str]:
    return host.run("cat /run/node/cordoned").strip(), host.run("cat /run/node/ours").strip()


# --- drain --------------------------------------------------------------------------------------------------------


def test_a_drain_says_at_one_stroke_that_the_cordon_is_ours(host: NamespaceHost) -> None:
    host.run(drain())
    assert node(host) == ("true", "yes")
    patches = [line for line in host.run("cat /run/kubectl.log").splitlines() if line.startswith("patch")]
    assert len(patches) == 1
    assert '"isthmus.internal/upgrade-cordoned":"yes"' in patches[0]
    assert '"unschedulable":true' in patches[0]


def test_a_cordon_of_the_users_stays_the_users(host: NamespaceHost) -> None:
    host.run("echo true >/run/node/cordoned")
    host.run(drain())
    host.run(finish())
    assert node(host) == ("true", "")


def test_a_drain_that_is_done_again_is_still_ours_and_is_given_back(host: NamespaceHost) -> None:
    host.run(drain())
    host.run(drain())
    assert node(host) == ("true", "yes")
    host.run(finish())
    assert node(host) == ("", "")


@pytest.mark.parametrize(
    ("says", "lines"),
    [
        (
            BUDGET,
            [
                "these pods did not leave within 5 s: default/web-1 shop/web-2",
                "a PodDisruptionBudget does not let them go",
            ],
        ),
        (SLOW, ["these pods did not leave within 5 s: default/slow"]),
        (BARE, ["cannot delete Pods that declare no controller: default/a, shop/b"]),
    ],
)
def test_pods_that_do_not_leave_are_named_and_the_node_is_given_back(
    host: NamespaceHost, says: str, lines: list[str]
) -> None:
    host.run(f"cat >/run/node/drain.says <<'.'\n{says}.\n")
    asked = host.attempt(drain(only_ask="yes"))
    assert asked.returncode == 1
    assert asked.stderr.splitlines() == lines
    assert node(host) == ("", "")
    failed = host.attempt(drain())
    assert failed.returncode == 1
    assert failed.stderr.splitlines() == [*lines, "it is uncordoned again"]
    assert node(host) == ("", "")
    host.run("echo true >/run/node/cordoned")
    assert host.attempt(drain()).stderr.splitlines() == lines
    assert node(host) == ("true", "")
    assert host.run("ls -d /run/isthmus-kubernetes* 2>/dev/null || true") == ""


def test_a_drain_bears_an_api_that_is_away_for_a_moment(host: NamespaceHost) -> None:
    host.run("echo 2 >/run/node/away")
    host.run(drain(limit_s=60))
    assert node(host) == ("true", "yes")
    host.run("echo 1000 >/run/node/away")
    failed = host.attempt(drain(limit_s=1))
    assert (failed.returncode, failed.stderr.splitlines()[0][:28]) == (1, "The connection to the server")


def test_to_ask_bears_an_api_that_is_away_for_a_moment(host: NamespaceHost) -> None:
    host.run("echo 2 >/run/node/away")
    host.run(drain(limit_s=60, only_ask="yes"))
    host.run("test ! -e /run/node/away")
    host.run("echo 1000 >/run/node/away")
    failed = host.attempt(drain(limit_s=1, only_ask="yes"))
    assert (failed.returncode, failed.stderr.splitlines()[0][:28]) == (1, "The connection to the server")
    assert node(host) == ("", "")


def test_two_nodes_are_never_drained_at_once(host: NamespaceHost) -> None:
    host.run("touch /run/node/other")
    failed = host.attempt(drain())
    said = "another run upgrades n3 just now, or has ended there: run it again later\n"
    assert (failed.returncode, failed.stderr) == (1, said)
    assert node(host) == ("", "")


def test_to_ask_touches_nothing(host: NamespaceHost) -> None:
    host.run(drain(only_ask="yes"))
    assert host.run("cat /run/kubectl.log").split()[-1] == "--dry-run=client"
    assert node(host) == ("", "")


# --- finish -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("echo v1.35.6 >version", "not well within 1 s: runs v1.35.6\n"),
        ("echo False >ready", "not well within 1 s: is not Ready\n"),
        ("printf 'a=True\\nb=False\\nc=\\n' >pods", "not well within 1 s: b is not ready, c is not ready"),
        ("echo 1000 >away", "not well within 1 s: The connection to the server"),
    ],
)
def test_a_node_that_is_not_well_is_kept_and_says_why(host: NamespaceHost, spoil: str, said: str) -> None:
    host.run(drain())
    host.run(f"cd /run/node; {spoil}")
    failed = host.attempt(finish())
    assert failed.returncode == 1
    assert failed.stderr.startswith(said)
    assert node(host) == ("true", "yes")


def test_it_waits_until_the_node_is_well(host: NamespaceHost) -> None:
    host.run(drain())
    host.run("cd /run/node; echo 2 >away; printf 'flannel=True\\nproxy=True\\n' >pods")
    host.run(finish(wait_s=60))
    assert node(host) == ("", "")


# --- kubeadm and the kubelet --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "asked"), [("apply", "kubeadm upgrade apply v1.36.2 --yes\n"), ("node", "kubeadm upgrade node\n")]
)
def test_kubeadm_upgrades_and_what_fails_says_its_own_words(host: NamespaceHost, how: str, asked: str) -> None:
    script = host_script("k8s-upgrade", how=how, version="1.36.2", node="n2", wait_s=5)
    host.run(script)
    assert host.run("cat /run/kubeadm.log") == asked
    remembered = "annotate node n2 isthmus.internal/upgrade-kubeadm=1.36.2 --overwrite"
    kubelet = "--kubeconfig /etc/kubernetes/kubelet.conf"
    assert host.run("cat /run/kubectl.log") == f"{kubelet} {remembered}\n"
    host.run("echo 2 >/run/node/away")
    host.run(script)
    host.run("printf '[upgrade] x\\n\\t[ERROR CoreDNS]: no\\nerror: preflight\\nhint\\n' >/run/kubeadm.fails")
    failed = host.attempt(script).stderr
    assert "[ERROR CoreDNS]: no" in failed
    assert "hint" not in failed
    assert len(host.run("cat /run/kubectl.log").splitlines()) == 4


def test_a_health_check_that_had_no_time_is_made_again(host: NamespaceHost) -> None:
    script = host_script("k8s-upgrade", how="node", version="1.36.2", node="n2", wait_s=5)
    fails = "printf '[ERROR CreateJob]: Job did not complete in 15s\\nerror: preflight\\n' >/run/kubeadm.fails"
    host.run(f"{fails}; touch /run/kubeadm.once")
    host.run(script)
    assert host.run("cat /run/kubeadm.log") == "kubeadm upgrade node\n" * 2
    host.run(f"{fails}; rm /run/kubeadm.once /run/kubeadm.log")
    failed = host.attempt(script)
    assert failed.returncode == 1
    assert failed.stderr == "[ERROR CreateJob]: Job did not complete in 15s\nerror: preflight\n"
    assert host.run("cat /run/kubeadm.log") == "kubeadm upgrade node\n" * 3


def test_the_kubelet_is_restarted_by_its_new_unit(host: NamespaceHost) -> None:
    host.run(host_script("k8s-upgrade-kubelet"))
    assert host.run("cat /run/systemd.log").splitlines() == ["systemctl daemon-reload", "systemctl restart kubelet"]


# --- the probe ----------------------------------------------------------------------------------------------------


def test_the_probe_tells_what_the_control_planes_own_pods_run(host: NamespaceHost) -> None:
    assert facts(host).api_version == ""
    manifest = "printf 'spec:\\n  containers:\\n  - %s\\n    image: %s\\n'"
    host.run(
        "mkdir -p /etc/kubernetes/manifests; cd /etc/kubernetes/manifests\n"
        f"{manifest} 'name: etcd' registry.k8s.io/etcd:3.6.8-0 >etcd.yaml\n"
        f"{manifest} 'name: api' registry.k8s.io/kube-apiserver:v1.36.2 >kube-apiserver.yaml\n"
    )
    assert facts(host).static_pods == ("registry.k8s.io/etcd:3.6.8-0", "registry.k8s.io/kube-apiserver:v1.36.2")
    assert facts(host).api_version == "1.36.2"
