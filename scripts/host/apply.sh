# Carries out a host's plan so that it undoes itself unless confirmed. Followed by `stage` and `discard` lines and `commit`.
# In: $interface, $owner (one line of text), $undo_after (seconds), $moment (when to change peers, in seconds since 1970).
# Order: save the old state, arm the timer, only then change. An interruption at any line leaves old, new, or the timer.
# New keys take three calls, so that no host begins before all can: `keep` lines and `hold` save, arm and make a key;
# `stage` and `round` lines and `renew` bring the files that go with everybody's new keys; `fire` changes the host.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
home=/var/lib/isthmus
transaction=$home/transaction
staged=$home/staged.$$
sysctl_file=/etc/sysctl.d/90-isthmus.conf
key=/etc/wireguard/$interface.key
umask 077

fail() {
    echo "$*" >&2
    rm -rf "$staged"
    exit 1
}

busy() { # 75 is sysexits.h's EX_TEMPFAIL: apply.py waits and begins anew
    echo "$*" >&2
    rm -rf "$staged"
    exit 75
}

begin() {
    mkdir -p $home
    # What runs that died have left, but not what another is staging now.
    for old in $home/staged.*; do [ -e "/proc/${old##*.}" ] || rm -rf "$old"; done
    mkdir -p "$staged/new" "$staged/old"
    : >"$staged/discard"
    : >"$staged/paths"
    : >"$staged/rounds"
}

stage() { # PATH MODE <base64
    mkdir -p "$staged/new${1%/*}"
    base64 -d >"$staged/new$1" || fail "cannot save $1: $(df -h $home | awk 'NR == 2 { print $4 " free on " $6 }')"
    chmod "$2" "$staged/new$1"
    echo "$1" >>"$staged/paths"
}

discard() { # PATH
    echo "$1" >>"$staged/discard"
}

keep() { # PATH: saved now, changed later
    echo "$1" >>"$staged/paths"
}

round() { # SECONDS own | SECONDS peer OLD NEW | SECONDS preshared
    echo "$*" >>"$staged/rounds"
}

# What a gateway changes, as `NAME VALUE`. ip_forward comes first: writing it resets the forwarding of every interface
# and accept_redirects, which somebody may have hardened (ip-sysctl.rst, "ip_forward").
sysctls() {
    (cd /proc/sys && grep . net/ipv4/ip_forward net/ipv4/conf/all/accept_redirects net/ipv4/conf/*/forwarding \
        net/ipv4/conf/all/send_redirects net/ipv4/conf/default/send_redirects | sed 's/:\([0-9]*\)$/ \1/')
}

save() {
    while read -r path; do
        [ -e "$path" ] || continue
        mkdir -p "$staged/old${path%/*}"
        cp -p "$path" "$staged/old$path" || fail "cannot save $path"
    done <"$staged/all"
    if ip link show dev "$interface" >/dev/null 2>&1; then echo yes; else echo no; fi >"$staged/was-up"
    systemctl is-enabled "wg-quick@$interface" >"$staged/was-enabled" 2>/dev/null || true
    # What the host had before it became a gateway, for when it is none any more.
    if [ ! -e $home/sysctls.before ] && grep -qxF $sysctl_file "$staged/paths"; then
        sysctls >"$staged/sysctls.before"
        mv "$staged/sysctls.before" $home/sysctls.before || fail "cannot save the sysctls"
    fi
    sysctls >"$staged/sysctls"
    echo "$interface" >"$staged/interface"
    echo "$owner" >"$staged/owner"
    cat >"$staged/arm" <<END
#!/bin/sh
systemctl stop isthmus-undo.timer 2>/dev/null
systemctl reset-failed isthmus-undo.service isthmus-undo.timer 2>/dev/null
exec systemd-run -q --unit=isthmus-undo --on-active=${undo_after}s --timer-property=AccuracySec=100ms --property=KillMode=process /bin/sh $transaction/undo
END
    chmod 700 "$staged/arm"
}

install_files() {
    while read -r path; do
        [ -d "${path%/*}" ] || { mkdir -p "${path%/*}" && chmod 755 "${path%/*}"; }
        cp -p "$transaction/new$path" "$path.isthmus-new"
        mv -f "$path.isthmus-new" "$path"
    done <"$transaction/paths"
    while read -r path; do rm -f "$path"; done <"$transaction/discard"
    rmdir "/etc/wireguard/$interface.psk" 2>/dev/null || true
}

# A gateway that is none any more gets back what it had, and what files of others say meanwhile (Kubernetes').
put_back_sysctls() {
    grep -qxF $sysctl_file "$transaction/discard" && [ -e $home/sysctls.before ] || return 0
    while read -r name value; do [ ! -e "/proc/sys/$name" ] || echo "$value" >"/proc/sys/$name"; done <$home/sysctls.before
    /lib/systemd/systemd-sysctl --prefix=net/ipv4/ip_forward --prefix=net/ipv4/conf/all/accept_redirects \
        --prefix=net/ipv4/conf/all/send_redirects --prefix=net/ipv4/conf/default/send_redirects || true
}

# From here on the host is held: what was saved comes back when nobody confirms.
take() {
    cat "$staged/paths" "$staged/discard" >"$staged/all"
    save
    write_undo >"$staged/undo" || fail "cannot save the undo script"
    cp -p "$staged/new/usr/local/sbin/isthmus" "$staged/program" 2>/dev/null ||
        cp -p /usr/local/sbin/isthmus "$staged/program" || fail "cannot save the program"
    exec 9>/run/isthmus.lock
    flock -w 20 9 || busy "another run is changing this host"
    if [ -d $transaction ]; then busy "another run holds this host: $(cat $transaction/owner 2>/dev/null)"; fi
    # The timer comes first, so that no transaction is ever without one: killed between the two we leave a timer that
    # finds nothing to undo. Should it fire before we are done, its undo waits for the lock.
    "$staged/arm" 9>&- >"$staged/log" 2>&1 || fail "$(cat "$staged/log")"
    mv "$staged" $transaction # the lock of the run: whoever comes later finds it
}

change() { # VERB of the program
    # Not as the condition of an `if`: there `set -e` would mean nothing.
    set +e
    (set -e; install_files; MOMENT=$moment /usr/local/sbin/isthmus "$1" "$interface" 9>&-; put_back_sysctls) >$transaction/log 2>&1
    status=$?
    set -e
    if [ $status -eq 0 ]; then
        echo applied
    else
        tail -n 5 $transaction/log >&2
        flock -u 9
        exec 9>&-
        systemctl stop isthmus-undo.timer 2>/dev/null || true
        /bin/sh $transaction/undo >/dev/null 2>&1 || true
        echo "the old state was put back" >&2
        exit 1
    fi
}

commit() {
    take
    change sync
}

hold() { # yes or no: with a new key. Prints the time, and the public key.
    date +%s.%N
    if [ "$1" = yes ]; then
        mkdir -p "$staged/new/etc/wireguard"
        wg genkey >"$staged/new$key" && [ -s "$staged/new$key" ] || fail "cannot save a new key"
        wg pubkey <"$staged/new$key"
    fi
    take
}

mine() {
    exec 9>/run/isthmus.lock
    flock -w 20 9 || busy "another run is changing this host"
    [ "$(cat $transaction/owner 2>/dev/null)" = "$owner" ] || fail "the change was undone before it was begun"
}

renew() {
    mine
    # Beside what was made here: the key, and preshared ones.
    (cd "$staged/new" && find . -type f) | while read -r path; do
        mkdir -p "$transaction/new/${path%/*}"
        mv "$staged/new/$path" "$transaction/new/$path"
    done
    (cd $transaction/new && find . -type f) | sed 's/^.//' >"$staged/paths"
    mv "$staged/paths" "$staged/discard" "$staged/rounds" $transaction
    rm -rf "$staged"
}

fire() {
    rm -rf "$staged"
    mine
    left=$((moment - $(date +%s)))
    [ $left -ge 0 ] && [ $left -le 30 ] || fail "by its clock the moment to begin is $left s away"
    change rotate <$transaction/rounds
}

write_undo() {
    cat <<'END'
# Puts back what the host had before the transaction this file lies in. Run by its timer, or by hand; harmless twice.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
transaction=/var/lib/isthmus/transaction
exec 9>/run/isthmus.lock
flock -w 120 9
cd $transaction 2>/dev/null || exit 0
rm -f arm
read -r interface <interface
read -r was_up <was-up
read -r was_enabled <was-enabled || was_enabled=disabled
conf=/etc/wireguard/$interface.conf
if [ "$was_up" = no ] || [ ! -e "old$conf" ]; then
    systemctl stop "wg-quick@$interface" 9>&-
    # Stopping can fail half-way when the start did; nothing of ours may stay.
    ./program down "$interface"
    ip link show dev "$interface" >/dev/null 2>&1 && ip link del dev "$interface"
    systemctl reset-failed "wg-quick@$interface" 2>/dev/null
fi
# A full disk may be why this runs: make room first; where even that does not suffice, the old file follows the new one.
rm -rf new
while read -r path; do rm -f "$path.isthmus-new"; done <all
while read -r path; do
    if [ ! -e "old$path" ]; then
        rm -f "$path"
    elif ! { { [ -d "${path%/*}" ] || mkdir -m 700 "${path%/*}"; } && cp -p "old$path" "$path.isthmus-old" && mv -f "$path.isthmus-old" "$path"; }; then
        rm -f "$path.isthmus-old"
        cp -p --remove-destination "old$path" "$path"
    fi
done <all
while read -r name value; do [ ! -e "/proc/sys/$name" ] || echo "$value" >"/proc/sys/$name"; done <sysctls
if [ "$was_up" = yes ] && [ -e "old$conf" ]; then ./program sync "$interface" 9>&-; fi
[ "$was_enabled" = enabled ] || systemctl -q disable "wg-quick@$interface" 2>/dev/null
logger -t isthmus "undone: the run of $(cat owner) was not confirmed in time" 2>/dev/null
cd / && rm -rf $transaction
rmdir /etc/isthmus 2>/dev/null
exit 0
END
}

begin
