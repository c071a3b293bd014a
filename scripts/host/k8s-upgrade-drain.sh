# Drains a node for its upgrade. Run on the control plane. In: $node, $limit_s, $only_ask (yes: say what would stand
# against it, touch nothing). A node that was cordoned before stays the user's; one that we cordon says so, at the same
# stroke, and is given back when its pods do not leave in time.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin KUBECONFIG=/etc/kubernetes/admin.conf
folder=$(mktemp -d /run/isthmus-kubernetes.XXXXXX)
trap 'rm -rf "$folder"' EXIT
said=$folder/said
deadline=$(($(date +%s) + limit_s))
left() { echo $((deadline - $(date +%s))); }

# The API may be away for a moment where its own node has just been upgraded.
patiently() {
    until "$@" >"$folder/output" 2>"$said" </dev/null; do
        [ "$(left)" -gt 0 ] || { tail -n 1 "$said" >&2; exit 1; }
        sleep 2
    done
}
patch() { kubectl patch node "$node" --type merge -p "$1"; }
drain() { kubectl drain "$node" --ignore-daemonsets --delete-emptydir-data "$@" >"$said" 2>&1 </dev/null; }

# Says which pods stand against it, and why, as clearly as kubectl lets it be known.
explain() {
    pods=$(sed 's/error when /\n&/g' "$said" | sed -n '
        s/^error when evicting pods\/"\([^"]*\)" -n "\([^"]*\)": global timeout.*/\2\/\1/p
        s/^error when waiting for pod "\([^"]*\)" in namespace "\([^"]*\)" to terminate.*/\2\/\1/p' | sort -u | paste -sd ' ' -)
    if [ -n "$pods" ]; then
        echo "these pods did not leave within $limit_s s: $pods"
        if grep -q 'disruption budget' "$said"; then echo "a PodDisruptionBudget does not let them go"; fi
    elif grep -q 'cannot delete' "$said"; then
        sed -n 's/^error: unable to drain .*\(cannot delete .*\), continuing command.*/\1/p' "$said" | sed 's/ (use --[a-z-]* to override)//g'
    else
        tail -n 1 "$said"
    fi
}

if [ "$only_ask" = yes ]; then
    # An API that has just begun may refuse its own admin for a moment.
    until drain --dry-run=client; do
        if grep -qE 'cannot delete|global timeout' "$said" || [ "$(left)" -le 0 ]; then
            explain >&2
            exit 1
        fi
        sleep 2
    done
    exit 0
fi
patiently kubectl get node "$node" -o 'jsonpath={.spec.unschedulable}.{.metadata.annotations.isthmus\.internal/upgrade-cordoned}'
was=$(cat "$folder/output")
# One node at a time, whoever upgrades.
patiently kubectl get nodes -o 'jsonpath={range .items[*]}{.metadata.name}={.metadata.annotations.isthmus\.internal/upgrade-cordoned}{"\n"}{end}'
other=$(sed -n 's/=yes$//p' "$folder/output" | grep -vxF "$node" | head -n 1) || true
if [ -n "$other" ]; then
    echo "another run upgrades $other just now, or has ended there: run it again later" >&2
    exit 1
fi
[ "$was" = true. ] || # the user's
    patiently patch '{"metadata":{"annotations":{"isthmus.internal/upgrade-cordoned":"yes"}},"spec":{"unschedulable":true}}'
while :; do
    seconds=$(left)
    [ "$seconds" -gt 0 ] || seconds=1
    if drain --timeout="${seconds}s"; then exit 0; fi
    if grep -qE 'cannot delete|global timeout' "$said" || [ "$(left)" -le 0 ]; then break; fi
    sleep 2
done
explain >&2
if [ "$was" != true. ]; then
    if patch '{"metadata":{"annotations":{"isthmus.internal/upgrade-cordoned":null}},"spec":{"unschedulable":null}}' >/dev/null 2>&1; then
        echo "it is uncordoned again" >&2
    fi
fi
exit 1
