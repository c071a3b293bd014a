# Takes a host out of its cluster and leaves it as clean as before; packages, images and the mesh stay.
# In: $only_unfinished (yes: only what a run of ours has begun and not finished), $wait_s.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unfinished=/var/lib/isthmus-kubernetes/unfinished
log=/run/isthmus-kubernetes.log
exec 9>/run/isthmus-kubernetes.lock
flock -w "$wait_s" 9 || { echo "another run is at work on this host" >&2; exit 1; }
if [ "$only_unfinished" = yes ] && [ ! -s $unfinished ]; then exit 0; fi # it has come to its end meanwhile

clean() {
    trap '' HUP PIPE
    mkdir -p ${unfinished%/*}
    echo reset >$unfinished
    if command -v kubeadm >/dev/null; then
        kubeadm reset -f --cri-socket unix:///run/containerd/containerd.sock || return 1
    fi
    systemctl stop kubelet 2>/dev/null || true
    # What kubeadm leaves: the pod network's interfaces, files and rules. Only those.
    for link in cni0 flannel.1; do
        if ip link show dev $link >/dev/null 2>&1; then ip link delete dev $link; fi
    done
    rm -rf /etc/cni/net.d/10-flannel.conflist /run/flannel /var/lib/cni /var/lib/etcd/member
    for program in iptables ip6tables; do
        command -v $program-save >/dev/null || continue
        # Jumps to their chains out of others first, then the chains: all of a table at one stroke.
        $program-save 2>/dev/null | awk '
            function theirs(chain) { return chain ~ /^(KUBE-|FLANNEL-|CNI-)/ }
            /^\*/ { table = $0; jumps = ""; flush = ""; drop = "" }
            /^:/ { chain = substr($1, 2); if (theirs(chain)) { flush = flush "-F " chain "\n"; drop = drop "-X " chain "\n" } }
            /^-A / {
                if (!theirs($2)) for (i = 3; i < NF; i++) if (($i == "-j" || $i == "-g") && theirs($(i + 1))) {
                    line = $0; sub(/^-A /, "-D ", line); jumps = jumps line "\n"; break
                }
            }
            /^COMMIT/ { if (jumps drop != "") printf "%s\n%s%s%sCOMMIT\n", table, jumps, flush, drop }
        ' >/run/isthmus-kubernetes.rules
        [ ! -s /run/isthmus-kubernetes.rules ] || $program-restore --noflush </run/isthmus-kubernetes.rules
        rm -f /run/isthmus-kubernetes.rules
    done
    rm -f $unfinished
}
(set -e; clean) >"$log" 2>&1 </dev/null &
if wait $!; then exit 0; fi
tail -n 3 "$log" >&2
exit 1
