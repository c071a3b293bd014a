# Takes control planes out of etcd, so that the others are a majority without them. Run on one that stays.
# In: $members (`NAME=ADDRESS …`). One that is none is fine; one that has not begun yet has an address, but no name.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin KUBECONFIG=/etc/kubernetes/admin.conf
pki=/etc/kubernetes/pki/etcd
ask() {
    timeout 30 kubectl exec -n kube-system "$pod" -- etcdctl --endpoints https://127.0.0.1:2379 --command-timeout 20s \
        --cacert $pki/ca.crt --cert $pki/healthcheck-client.crt --key $pki/healthcheck-client.key "$@" 2>&1 </dev/null
}
said="no etcd runs on a control plane that stays"
for pod in $(kubectl get pods -n kube-system -l component=etcd --field-selector status.phase=Running -o 'jsonpath={.items[*].metadata.name}'); do
    case " $members " in *" ${pod#etcd-}="*) continue ;; esac
    if said=$(ask member list); then
        for member in $members; do
            # `ID, started, NAME, https://ADDRESS:2380, …`
            id=$(printf '%s\n' "$said" | awk -F ', ' -v name="${member%%=*}" -v url="https://${member#*=}:2380" '$3 == name || $4 == url { print $1 }')
            for one in $id; do
                ask member remove "$one" >/run/isthmus-kubernetes.etcd || {
                    echo "etcd keeps ${member%%=*}: $(tail -n 1 /run/isthmus-kubernetes.etcd)" >&2
                    rm -f /run/isthmus-kubernetes.etcd
                    exit 1
                }
                rm -f /run/isthmus-kubernetes.etcd
            done
        done
        exit 0
    fi
done
echo "etcd cannot be asked: $(printf '%s\n' "$said" | tail -n 1)" >&2
exit 1
