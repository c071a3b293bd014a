# Has the second gateway of $site, which has taken charge, give it back to $gateway, the first. In: $interface, $site, $gateway.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
charge=/run/isthmus/$interface/$site
touch "/run/isthmus/$interface.back" # its watcher looks four times a second, and moves at an even second
for _ in $(seq 60); do
    sleep 0.2
    read -r _ now _ <"$charge"
    if [ "$now" = "$gateway" ]; then
        sleep 4 # the others follow within two even seconds
        exit 0
    fi
    [ -e "/run/isthmus/$interface.back" ] || gone=$((${gone-0} + 1))
    [ "${gone-0}" -lt 15 ] || break # it was seen, and would have been done
done
rm -f "/run/isthmus/$interface.back"
echo "$gateway does not reach all that this gateway reaches" >&2
exit 1
