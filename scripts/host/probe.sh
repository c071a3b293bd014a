# Prints what observe.py needs to know of a host, in sections `@@ name`. Changes nothing, prints no secret.
# In: $interface. One round trip, few processes: this is what every run pays.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
conf=/etc/wireguard/$interface.conf
key=/etc/wireguard/$interface.key
# Tells whether two keys are the same and nothing more: a key of 256 random bits cannot be found from it.
fingerprint() { printf 'isthmus preshared key %s' "$1" | sha256sum | cut -d ' ' -f 1; }
have() { command -v "$1" >/dev/null 2>&1; }

echo "@@ system"
(. /etc/os-release && echo "$ID ${VERSION_ID:-0}") 2>/dev/null || echo "unknown 0"
echo "@@ clock"
date +%s
echo "@@ tools"
for tool in wg wg-quick iptables iptables-restore ping; do have $tool && echo $tool; done
for path in "$conf" /etc/isthmus/"$interface".routes /etc/isthmus/"$interface".iptables \
    /etc/isthmus/"$interface".drained /etc/isthmus/"$interface".watch /usr/local/sbin/isthmus-watch \
    /etc/sysctl.d/90-isthmus.conf /etc/systemd/system/isthmus-names.service; do
    mode=$(stat -c %a "$path" 2>/dev/null) || continue
    # Opened before a word is said: a run that takes the mesh off may be at work, and a file that has just gone is none.
    # A foreign file may hold keys, also in comments or a PostUp; they are masked before they leave the host. A space
    # before each line, so that none looks like a section; the `echo` ends a last line that has no newline.
    {
        echo "@@ file $mode $path"
        sed -E '/^([[:space:]]*PublicKey[[:space:]]*=|moved [a-z0-9-]+ )/I!s#[A-Za-z0-9+/]{43}=#(hidden)#g
            s/((Private|Preshared)Key[[:space:]]*=).*/\1 (hidden)/I; s/^/ /'
        echo
    } 2>/dev/null <"$path"
done
program=/usr/local/sbin/isthmus
if mode=$(stat -c %a $program 2>/dev/null) && sum=$(sha256sum 2>/dev/null <$program); then
    echo "@@ program $mode"
    echo "$sum"
fi
if [ -s "$key" ] && have wg; then
    echo "@@ key $(stat -c %a "$key")"
    wg pubkey <"$key" 2>/dev/null
fi
if have wg && dump=$(wg show "$interface" dump 2>/dev/null); then
    echo "@@ wireguard"
    # The first line holds the private key, the second field of the others a preshared one: of that only a fingerprint.
    echo "$dump" | awk 'NR == 1 { print "device", $2, $3 }
        NR > 1 && $2 == "(none)" { print "peer", $1, "no", $3, $4, $5, $6, $7, $8 }'
    echo "$dump" | awk 'NR > 1 && $2 != "(none)"' | while read -r peer secret rest; do
        echo "peer $peer $(fingerprint "$secret") $rest"
    done
fi
if [ -d "/etc/wireguard/$interface.psk" ]; then
    echo "@@ preshared"
    for path in "/etc/wireguard/$interface.psk"/*; do
        [ ! -s "$path" ] || echo "${path##*/} $(read -r secret <"$path"; fingerprint "$secret")"
    done
fi
for path in /etc/isthmus/*.routes; do
    other=${path##*/} other=${other%.routes}
    [ ! -e "$path" ] || [ "$other" = "$interface" ] || echo "@@ other $other"
done
echo "@@ link"
ip -o link show dev "$interface" 2>/dev/null
echo "@@ addresses"
ip -4 -o address show
echo "@@ routes"
ip -4 -d route show table all | grep -vE '^(local|broadcast|multicast) '
echo "@@ rules"
ip -4 rule show
echo "@@ firewall"
have iptables-save && iptables-save 2>/dev/null | grep -E '^\*|^:(INPUT|FORWARD|ISTHMUS-[A-Z]+) |ISTHMUS-'
echo "@@ sysctls"
# Not `read`: dash reads byte by byte, and these files end after the first.
(cd /proc/sys && grep -s . net/ipv4/ip_forward net/ipv4/conf/all/send_redirects net/ipv4/conf/default/send_redirects \
    net/ipv4/conf/*/rp_filter)
echo "@@ unit"
systemctl show -p ActiveState,UnitFileState "wg-quick@$interface" 2>/dev/null
if [ -e /etc/systemd/system/isthmus-names.service ]; then
    echo "@@ names"
    systemctl is-active isthmus-names.service
fi
if [ -e /etc/isthmus/"$interface".watch ] && systemctl -q is-active "isthmus-watch-$interface.service"; then
    echo "@@ watch"
    cat "/run/isthmus/$interface"/* 2>/dev/null
fi
if [ -d /var/lib/isthmus/transaction ]; then
    echo "@@ transaction"
    cat /var/lib/isthmus/transaction/owner 2>/dev/null || echo unknown
fi
echo "@@ end"
