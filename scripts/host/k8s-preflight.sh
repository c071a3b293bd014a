# Runs kubeadm's own checks and nothing else. In: $phase (init or join). On stdin: kubeadm's configuration.
# Prints kubeadm's `[ERROR Name]: …` and `[WARNING Name]: …` lines.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 077
folder=$(mktemp -d /run/isthmus-kubernetes.XXXXXX)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/config.yaml"
# A join's checks come before it asks the cluster, which it then cannot for want of a token: that is not looked at.
timeout 120 kubeadm "$phase" phase preflight --config "$folder/config.yaml" </dev/null 2>&1 |
    sed -n 's/^[[:space:]]*\(\[\(ERROR\|WARNING\) [^]]*\]: .*\)/\1/p'
:
