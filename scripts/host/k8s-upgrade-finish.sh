# Waits until a node runs its new version and is well, then gives it back. Run on the control plane.
# In: $node, $version, $wait_s. What the user has cordoned stays cordoned.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin KUBECONFIG=/etc/kubernetes/admin.conf
deadline=$(($(date +%s) + wait_s))
ours='isthmus.internal/upgrade-cordoned'
kubeadm='"isthmus.internal/upgrade-kubeadm":null'

# Prints what the node still lacks, nothing when it is well. The API may be away for a moment: that is a lack, too.
lacking() {
    state=$(kubectl get node "$node" -o 'jsonpath={.status.nodeInfo.kubeletVersion} {.status.conditions[?(@.type=="Ready")].status}' 2>&1) || { echo "$state" | tail -n 1; return; }
    case $state in
    "v$version True") ;;
    "v$version "*) echo "is not Ready"; return ;;
    *) echo "runs ${state%% *}"; return ;;
    esac
    for namespace in kube-system kube-flannel; do
        pods=$(kubectl get pods -n $namespace --field-selector "spec.nodeName=$node,status.phase!=Succeeded,status.phase!=Failed" -o 'jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' 2>&1) || { echo "$pods" | tail -n 1; return; }
        echo "$pods" | sed -n 's/^\([^=]*\)=.*/&/; /=True$/d; s/=.*/ is not ready/p'
    done
}

while missing=$(lacking); [ -n "$missing" ]; do
    if [ "$(date +%s)" -gt $deadline ]; then
        echo "not well within $wait_s s: $(echo "$missing" | paste -sd ',' - | sed 's/,/, /g')" >&2
        exit 1
    fi
    sleep 2
done
tries=0
until
    marked=$(kubectl get node "$node" -o 'jsonpath={.metadata.annotations.isthmus\.internal/upgrade-cordoned}' 2>&1) &&
        if [ -n "$marked" ]; then
            kubectl patch node "$node" --type merge -p "{\"metadata\":{\"annotations\":{\"$ours\":null,$kubeadm}},\"spec\":{\"unschedulable\":null}}" >/dev/null 2>&1
        else
            kubectl patch node "$node" --type merge -p "{\"metadata\":{\"annotations\":{$kubeadm}}}" >/dev/null 2>&1
        fi
do
    tries=$((tries + 1))
    if [ $tries -ge 30 ]; then echo "it cannot be given back: $marked" >&2; exit 1; fi
    sleep 2
done
