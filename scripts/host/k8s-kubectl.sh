# Asks the cluster, on its control plane, as its admin. Followed by lines of kubectl; the first that fails ends it.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin KUBECONFIG=/etc/kubernetes/admin.conf
[ -e $KUBECONFIG ] || { echo "there is no cluster on this host" >&2; exit 1; }
