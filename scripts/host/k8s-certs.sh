# Hands the cluster's certificates over to control planes that join: encrypted, in a Secret. In: nothing.
# On stdin: kubeadm's configuration with the key, which is in no argument and no log; its file is gone afterwards.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin KUBECONFIG=/etc/kubernetes/admin.conf
umask 077
rm -rf /run/isthmus-kubernetes-certs.*
folder=$(mktemp -d /run/isthmus-kubernetes-certs.XXXXXX)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/init.yaml"
tries=0
# etcd may be choosing its leader, when a control plane has just joined.
until kubeadm init phase upload-certs --upload-certs --skip-certificate-key-print --config "$folder/init.yaml" >/dev/null 2>"$folder/log" </dev/null; do
    tries=$((tries + 1))
    if [ $tries -ge 5 ]; then tail -n 3 "$folder/log" >&2; exit 1; fi
    sleep 2
done
