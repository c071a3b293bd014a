# Prints what kubernetes/facts.py needs to know of a host, in sections `@@ name`. Changes nothing, prints no secret.
# In: $interface, $endpoint (the API's name), $paths (files of ours).
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
conf=/etc/kubernetes
have() { command -v "$1" >/dev/null 2>&1; }

echo "@@ system"
(. /etc/os-release && echo "$ID ${VERSION_ID:-0}") 2>/dev/null || echo "unknown 0"
echo "@@ machine"
echo "cgroup $(stat -fc %T /sys/fs/cgroup 2>/dev/null)"
echo "cpus $(nproc)"
echo "memory $(awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo)"
# Images are in /var/lib/containerd, which many give a disk of its own: what counts is the fuller one.
echo "disk $(df -Pm /var/lib /var/lib/containerd 2>/dev/null | awk 'NR == 2 || $4 < free { free = $4 } END { print free }')"
echo "clock $(date +%s)"
echo "id $(cat /etc/machine-id 2>/dev/null)"
echo "hostname $(cat /proc/sys/kernel/hostname)"
echo "swap $(awk '/^SwapTotal:/ { print int($2 / 1024) }' /proc/meminfo)"
# What pods of the host's network are given to ask, as the kubelet finds it; a stub on the host itself does not count.
resolv=/run/systemd/resolve/resolv.conf
[ -e $resolv ] || resolv=/etc/resolv.conf
echo "nameservers $(grep -E '^nameserver[[:space:]]' $resolv 2>/dev/null | grep -vcE '[[:space:]](127\.|::1)')"
echo "@@ addresses"
ip -4 -o address show dev "$interface" 2>/dev/null | awk '{ print $4 }'
echo "@@ packages"
dpkg-query -W -f '${Package} ${Version} ${db:Status-Want} ${db:Status-Status}\n' \
    containerd.io kubelet kubeadm kubectl cri-tools kubernetes-cni containerd docker.io cri-o 2>/dev/null
echo "@@ files"
for path in $paths; do
    [ ! -e "$path" ] || echo "$path $(stat -c %a "$path") $(sha256sum <"$path" | cut -c 1-64) $(head -n 1 "$path" | cut -c 1-20)"
done
echo "@@ endpoint"
awk -v name="$endpoint" '{ sub(/#.*/, ""); for (i = 2; i <= NF; i++) if ($i == name) print $1 }' /etc/hosts
echo "@@ kernel"
if grep -qw overlay /proc/filesystems; then echo overlay; fi
(cd /proc/sys && grep -s . net/ipv4/ip_forward net/bridge/bridge-nf-call-iptables net/bridge/bridge-nf-call-ip6tables)
echo "@@ units"
for unit in containerd kubelet isthmus-api; do
    echo "$unit $(systemctl is-active $unit 2>/dev/null) $(systemctl is-enabled $unit 2>/dev/null)"
done
echo "@@ images"
if have ctr; then timeout 20 ctr -n k8s.io images ls -q 2>/dev/null; fi
echo "@@ kubeadm"
for path in admin.conf kubelet.conf bootstrap-kubelet.conf manifests/kube-apiserver.yaml pki/ca.crt; do
    [ ! -e $conf/$path ] || echo $path
done
[ ! -d /var/lib/etcd/member ] || echo etcd
echo "@@ static pods"
sed -n 's/^[ -]*image: *//p' $conf/manifests/*.yaml 2>/dev/null
echo "@@ servers"
sed -n 's/^ *server: *//p' $conf/kubelet.conf $conf/admin.conf 2>/dev/null
echo "@@ ca"
cat $conf/pki/ca.crt 2>/dev/null
lock=/run/isthmus-kubernetes.lock
if [ -e $lock ] && ! flock -n $lock true; then echo "@@ busy"; fi
if [ -s /var/lib/isthmus-kubernetes/unfinished ]; then
    echo "@@ unfinished"
    cat /var/lib/isthmus-kubernetes/unfinished
fi
if [ -e $conf/admin.conf ] && have kubectl; then
    export KUBECONFIG=$conf/admin.conf
    echo "@@ certificates"
    cat $conf/pki/apiserver*.crt $conf/pki/front-proxy-client.crt $conf/pki/etcd/server.crt $conf/pki/etcd/peer.crt 2>/dev/null
    echo "@@ api"
    if [ "$(timeout 10 kubectl get --raw /readyz 2>/dev/null)" = ok ]; then
        echo ready
        echo "@@ nodes"
        timeout 20 kubectl get nodes -o json 2>/dev/null
        echo "@@ manifests"
        timeout 20 kubectl get daemonsets,services -A -l app.kubernetes.io/managed-by=isthmus -o jsonpath='{range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name} {.metadata.annotations.isthmus\.internal/sha256}{"\n"}{end}' 2>/dev/null
        echo "@@ system pods"
        timeout 20 kubectl get pods -n kube-system -o jsonpath='{range .items[*]}{.metadata.name} {.spec.nodeName} {.status.phase} {.status.containerStatuses[*].ready}{"\n"}{end}' 2>/dev/null
        timeout 20 kubectl get pods -n kube-flannel -o jsonpath='{range .items[*]}{.metadata.name} {.spec.nodeName} {.status.phase} {.status.containerStatuses[*].ready}{"\n"}{end}' 2>/dev/null
    fi
fi
echo "@@ end"
