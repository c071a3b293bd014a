# Tells which images kubeadm takes for a version, one a line. In: $version. Asks nobody: the version is exact.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
timeout 60 kubeadm config images list --kubernetes-version "v$version" </dev/null 2>/dev/null
