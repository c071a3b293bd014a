# Has pods ask each other, and the cluster's DNS. Run on the control plane; followed by `ask NODE POD` lines and `wait`.
# In: $namespace, $port, $bytes (what each pod hands out), $targets (`NODE=ADDRESS …` of all pods), $dns_name (to be
# looked up) and $dns_address (what it is). Prints `FROM TO ok`, or `FROM TO` and what came instead; TO is `dns` for the name.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin KUBECONFIG=/etc/kubernetes/admin.conf
question='
    for target in $1; do
        got=0
        for try in 1 2 3; do
            got=$(timeout 20 wget -q -O - "http://${target#*=}:$2/data" 2>/dev/null | wc -c)
            [ "$got" -ne "$3" ] || break
        done
        if [ "$got" -eq "$3" ]; then echo "${target%%=*} ok"; else echo "${target%%=*} $got of $3 bytes arrived"; fi
    done
    for try in 1 2 3; do
        said=$(timeout 20 nslookup "$4" 2>&1)
        case $said in *"$5"*) echo "dns ok"; exit ;; esac
    done
    echo "dns $(echo $said | cut -c 1-80)"
'
ask() {
    (
        kubectl exec -n "$namespace" "$2" -- sh -c "$question" sh "$targets" "$port" "$bytes" "$dns_name" "$dns_address" 2>&1 </dev/null |
            while read -r line; do echo "$1 $line"; done
    ) &
}
