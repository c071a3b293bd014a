# Deletes the certificates that were handed over, and the token of two hours that kubeadm ties them to.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin KUBECONFIG=/etc/kubernetes/admin.conf
owner='jsonpath={.metadata.ownerReferences[*].name}'
for try in 1 2 3 4 5; do # etcd may be choosing its leader
    token=$(kubectl get secret -n kube-system kubeadm-certs --ignore-not-found -o "$owner") &&
        kubectl delete secret -n kube-system --ignore-not-found kubeadm-certs $token >/dev/null && exit 0
    sleep 2
done
exit 1
