# Mints tokens to join with, which end by themselves, and proves each against the API. In: $count, $ttl. Prints them.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin KUBECONFIG=/etc/kubernetes/admin.conf
umask 077
folder=$(mktemp -d /run/isthmus-kubernetes.XXXXXX)
trap 'rm -rf "$folder"' EXIT
made=0
while [ $made -lt "$count" ]; do
    kubeadm token create --ttl "$ttl" --description "a join by Isthmus" >"$folder/token" 2>"$folder/log" || { tail -n 3 "$folder/log" >&2; exit 1; }
    token=$(cat "$folder/token")
    id=${token%%.*}
    # As a kubelet would use it: with the token and nothing else of ours.
    sed '/^contexts:/,$d' $KUBECONFIG >"$folder/config"
    cat >>"$folder/config" <<END
kind: Config
contexts:
- {name: join, context: {cluster: isthmus, user: join}}
current-context: join
users:
- {name: join, user: {token: $token}}
END
    tries=0
    until kubectl --kubeconfig "$folder/config" get --raw /api/v1/namespaces/kube-system/configmaps/kubeadm-config >/dev/null 2>"$folder/log" &&
        [ -n "$(kubectl -n kube-public get configmap cluster-info -o "jsonpath={.data.jws-kubeconfig-$id}" 2>/dev/null)" ]; do
        tries=$((tries + 1))
        if [ $tries -ge 60 ]; then echo "the API does not take a token it has just made: $(tail -n 1 "$folder/log")" >&2; exit 1; fi
        sleep 0.5
    done
    cat "$folder/token"
    made=$((made + 1))
done
