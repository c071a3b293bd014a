# Makes this host the control plane. In: $wait_s (seconds to wait for another run). On stdin: kubeadm's configuration.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin KUBECONFIG=/etc/kubernetes/admin.conf
unfinished=/var/lib/isthmus-kubernetes/unfinished
log=/run/isthmus-kubernetes.log
umask 077
folder=$(mktemp -d /run/isthmus-kubernetes.XXXXXX)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/init.yaml"

exec 9>/run/isthmus-kubernetes.lock
flock -w "$wait_s" 9 || { echo "another run is at work on this host" >&2; exit 1; }
if [ -s $unfinished ]; then echo "kubeadm $(cat $unfinished) was begun by another run and not finished" >&2; exit 1; fi
if [ -e /etc/kubernetes/admin.conf ]; then exit 0; fi # another run was faster
if [ -e /etc/kubernetes/kubelet.conf ] || [ -e /etc/kubernetes/manifests/kube-apiserver.yaml ]; then
    echo "this host is in a cluster already" >&2
    exit 1
fi

# In the background and into a file: whatever happens to the workstation, kubeadm comes to its end. `unfinished` is what
# tells a later run that what is there was never a cluster.
begin() {
    trap '' HUP PIPE
    kubeadm config validate --config "$folder/init.yaml"
    echo init >$unfinished
    kubeadm init --config "$folder/init.yaml" --skip-token-print
    kubeadm token list -o jsonpath='{.token}{"\n"}' | cut -d . -f 1 | while read -r id; do
        [ -z "$id" ] || kubeadm token delete "$id"
    done
    rm $unfinished
}
trap '' HUP PIPE
(set -e; begin) >"$log" 2>&1 </dev/null &
if wait $!; then exit 0; fi
grep -E '^[[:space:]]*\[ERROR|^error' "$log" >&2 || tail -n 3 "$log" >&2
exit 1
