# Has kubeadm upgrade this node. In: $how (apply on the first control plane, node on any other host), $version, $node (its
# name), $wait_s (seconds to wait for another run).
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
log=/run/isthmus-kubernetes.log
umask 077
exec 9>/run/isthmus-kubernetes.lock
flock -w "$wait_s" 9 || { echo "another run is at work on this host" >&2; exit 1; }
case $how in
apply) set -- apply "v$version" --yes ;;
node) set -- node ;;
esac

# In the background and into a file: whatever happens to the workstation, kubeadm comes to its end, and the Node
# remembers that it did.
begin() {
    trap '' HUP PIPE
    tries=0
    # Its health check gives a pod 15 s, however busy the hosts are; nothing is changed before that.
    until kubeadm upgrade "$@"; do
        tries=$((tries + 1))
        grep -q 'ERROR CreateJob' "$log" && [ $tries -lt 3 ] || return 1
        : >"$log"
    done
    tries=0
    until kubectl --kubeconfig /etc/kubernetes/kubelet.conf annotate node "$node" "isthmus.internal/upgrade-kubeadm=$version" --overwrite; do
        tries=$((tries + 1))
        [ $tries -lt 60 ] || return 1
        sleep 2
    done
}
trap '' HUP PIPE
: >"$log"
(set -e; begin "$@") >>"$log" 2>&1 </dev/null &
if wait $!; then exit 0; fi
grep -E '^[[:space:]]*\[ERROR|^error' "$log" >&2 || tail -n 3 "$log" >&2
exit 1
