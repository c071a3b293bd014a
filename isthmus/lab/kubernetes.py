"""What a host of the lab needs, beyond a bare one, to carry Kubernetes: what a real machine has and a namespace lacks.

None of it is the program's business: on a host it finds a Debian like any other.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from isthmus.errors import LabError

_INIT = """#!/bin/sh
# Process 1 until systemd is: a kubelet makes cgroups, and nspawn hands them over to be read only.
for folder in /sys/fs/cgroup /sys/fs/cgroup/*; do
    if mountpoint -q "$folder"; then mount -o remount,bind,rw "$folder"; fi
done
exec /lib/systemd/systemd
"""
_OOM = """# The lab's machine may not lower a process' oom_score_adj (CAP_SYS_RESOURCE).
version = 3

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
"""
_RESOLV = """# CoreDNS does not start without a name server; this one answers nobody, since the lab has no internet.
nameserver 192.0.2.53
"""
_KUBEADM = """#!/bin/sh
# The lab's machine has cgroup v1, which kubeadm takes for an error since 1.35.
case "$1 $2 $3" in
"init phase upload-certs") exec /usr/bin/kubeadm "$@" ;;
init* | join* | upgrade*) exec /usr/bin/kubeadm "$@" --ignore-preflight-errors=SystemVerification ;;
*) exec /usr/bin/kubeadm "$@" ;;
esac
"""
_KUBELET = """# The lab's machine has cgroup v1, which the kubelet refuses since 1.35.
[Service]
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml --fail-cgroupv1=false"
"""


def files(*, cgroup_v1: bool) -> dict[str, tuple[str, int]]:
    """Return {path: (text, mode)} of what is laid over a host's image."""
    found = {
        "usr/local/sbin/lab-init": (_INIT, 0o755),
        "etc/containerd/conf.d/10-lab.toml": (_OOM, 0o644),
        "etc/resolv.conf": (_RESOLV, 0o644),
    }
    if cgroup_v1:
        found["usr/local/sbin/kubeadm"] = (_KUBEADM, 0o755)
        found["etc/systemd/system/kubelet.service.d/50-lab.conf"] = (_KUBELET, 0o644)
    return found


def prepare_machine() -> None:
    """Set what all hosts share to what kube-proxy and the kubelet want: they may not change it, and would end."""
    wanted = {
        "net/netfilter/nf_conntrack_max": max(131_072, 32_768 * (os.cpu_count() or 1)),
        "vm/overcommit_memory": 1,
        "kernel/panic": 10,
        "kernel/panic_on_oops": 1,
        "kernel/keys/root_maxkeys": 1_000_000,
        "kernel/keys/root_maxbytes": 25_000_000,
    }
    for name, value in wanted.items():
        path = Path("/proc/sys") / name
        with suppress(FileNotFoundError):
            if path.read_text(encoding="ascii").strip() != str(value):
                try:
                    path.write_text(str(value), encoding="ascii")
                except OSError as error:
                    raise LabError(f"hosts with kubernetes=yes need {name} = {value}: {error.strerror}") from None
