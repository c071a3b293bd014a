# Sets up or takes off the load balancer by which a worker reaches several control planes. Followed by
# `stage PATH MODE <<'.'` with files in base64 and `balance`, or by `unbalance`.
# In: $config and $unit_file (ours), $apt_wait (seconds to wait for dpkg's lock).
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
unit=${unit_file##*/}
log=/run/isthmus-kubernetes.log

# In the background and into a file: a workstation that vanishes must not leave dpkg half-way (no SIGPIPE, no SIGHUP).
quietly() {
    (trap '' HUP PIPE; exec "$@") >"$log" 2>&1 </dev/null 9>&- &
    if wait $!; then return 0; fi
    grep -E '^(E|dpkg):' "$log" >&2 || tail -n 3 "$log" >&2
    return 1
}

stage() {
    mkdir -p "${1%/*}"
    base64 -d >"$1.isthmus-new"
    chmod "$2" "$1.isthmus-new"
    mv -f "$1.isthmus-new" "$1"
    staged=yes
}

balance() {
    if ! command -v haproxy >/dev/null; then
        if [ -n "$(dpkg --audit 2>/dev/null)" ]; then quietly dpkg --configure -a || true; fi
        install="apt-get -o DPkg::Lock::Timeout=$apt_wait -qq install -y --no-install-recommends --no-remove haproxy"
        quietly $install || { quietly apt-get -o DPkg::Lock::Timeout="$apt_wait" -qq update && quietly $install; }
        # The package's own service has nothing to do here; where it was before us, it is somebody's.
        systemctl -q disable --now haproxy 9>&- 2>/dev/null || true
    fi
    haproxy -c -f "$config" >"$log" 2>&1 9>&- || { tail -n 3 "$log" >&2; exit 1; }
    systemctl daemon-reload
    systemctl -q enable "$unit" 9>&-
    if [ -n "$staged" ]; then quietly systemctl restart "$unit"; else quietly systemctl start "$unit"; fi
}

unbalance() {
    systemctl -q disable --now "$unit" 9>&- 2>/dev/null || true
    rm -f "$config" "$unit_file"
    rmdir "${config%/*}" 2>/dev/null || true
    systemctl daemon-reload
}

staged=
exec 9>/run/isthmus-kubernetes.lock
flock -w "$apt_wait" 9 || { echo "another run is at work on this host" >&2; exit 1; }
