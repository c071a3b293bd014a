# Takes off everything that is ours; the host is as before. In: $interface, $forget_keys (yes or no).
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec 9>/run/isthmus.lock
flock -w 20 9 || { echo "another run is changing this host" >&2; exit 1; }
if [ -d /var/lib/isthmus/transaction ]; then
    systemctl stop isthmus-undo.timer 2>/dev/null || true
    rm -rf /var/lib/isthmus/transaction
fi
if [ -e /usr/local/sbin/isthmus ]; then
    systemctl disable --now "wg-quick@$interface" 9>&- >/dev/null 2>&1 || true
    # Once more by hand: a unit that was stopped or had failed runs no PreDown.
    sh /usr/local/sbin/isthmus down "$interface"
    ip link show dev "$interface" >/dev/null 2>&1 && ip link del dev "$interface"
    systemctl reset-failed "wg-quick@$interface" 2>/dev/null || true
fi
if [ -e /etc/sysctl.d/90-isthmus.conf ] && [ -e /var/lib/isthmus/sysctls.before ]; then
    while read -r name value; do
        [ ! -e "/proc/sys/$name" ] || echo "$value" >"/proc/sys/$name"
    done </var/lib/isthmus/sysctls.before
fi
rm -f "/etc/wireguard/$interface.conf" "/etc/isthmus/$interface.routes" "/etc/isthmus/$interface.iptables" \
    "/etc/isthmus/$interface.drained" "/etc/isthmus/$interface.watch" /etc/systemd/system/isthmus-names.service \
    /etc/sysctl.d/90-isthmus.conf /usr/local/sbin/isthmus-watch /usr/local/sbin/isthmus
if [ -e /var/lib/isthmus/sysctls.before ]; then # others' files may say more since: Kubernetes' does
    /lib/systemd/systemd-sysctl --prefix=net/ipv4/ip_forward --prefix=net/ipv4/conf/all/accept_redirects \
        --prefix=net/ipv4/conf/all/send_redirects --prefix=net/ipv4/conf/default/send_redirects || true
fi
rm -rf /var/lib/isthmus
rmdir /etc/isthmus 2>/dev/null || true
if [ "$forget_keys" = yes ]; then rm -rf "/etc/wireguard/$interface.key" "/etc/wireguard/$interface.psk"; fi
