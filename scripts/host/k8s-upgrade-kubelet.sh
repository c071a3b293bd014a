# Restarts the kubelet, in the version that is installed now.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
systemctl daemon-reload
systemctl restart kubelet
