# Joins this host to the cluster. In: $wait_s (seconds to wait for another run). On stdin: kubeadm's JoinConfiguration,
# which holds a token: it is in no argument and no log, and its file is gone when kubeadm ends.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unfinished=/var/lib/isthmus-kubernetes/unfinished
log=/run/isthmus-kubernetes.log
umask 077
rm -rf /run/isthmus-kubernetes-join.*
folder=$(mktemp -d /run/isthmus-kubernetes-join.XXXXXX)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/join.yaml"

exec 9>/run/isthmus-kubernetes.lock
flock -w "$wait_s" 9 || { echo "another run is at work on this host" >&2; exit 1; }
if [ -s $unfinished ]; then echo "kubeadm $(cat $unfinished) was begun by another run and not finished" >&2; exit 1; fi
if [ -e /etc/kubernetes/kubelet.conf ]; then exit 0; fi # another run was faster

begin() {
    kubeadm config validate --config "$folder/join.yaml"
    echo join >$unfinished
    kubeadm join --config "$folder/join.yaml"
    rm $unfinished
}
trap '' HUP PIPE
(set -e; begin) >"$log" 2>&1 </dev/null &
if wait $!; then exit 0; fi
grep -E '^[[:space:]]*\[ERROR|^error' "$log" >&2 || tail -n 3 "$log" >&2
exit 1
