# Installs the packages that are missing and makes the host's key if there is none; adds, never replaces.
# In: $interface, $packages (may be empty), $apt_wait (seconds to wait for dpkg's lock). Prints the public key.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
key=/etc/wireguard/$interface.key
log=/run/isthmus-apt.log

# In the background and into a file: a workstation that vanishes must not leave dpkg half-way (no SIGPIPE, no SIGHUP).
quietly() {
    (trap '' HUP PIPE; exec "$@") >"$log" 2>&1 </dev/null 9>&- &
    if wait $!; then return 0; fi
    grep -E '^(E|dpkg):' "$log" >&2 || tail -n 3 "$log" >&2
    return 1
}

# One run after the other: apt waits for dpkg's lock, but not for that of its package lists.
exec 9>/run/isthmus-prepare.lock
flock -w "$apt_wait" 9 || { echo "another run is still installing packages" >&2; exit 1; }
if [ -n "$packages" ]; then
    if [ -n "$(dpkg --audit 2>/dev/null)" ]; then quietly dpkg --configure -a || true; fi
    # `wireguard` itself would pull in a kernel; recommended packages are not needed.
    install="apt-get -o DPkg::Lock::Timeout=$apt_wait -o Acquire::Retries=3 -qq install -y --no-install-recommends $packages"
    # A fresh cloud image has stale or no lists: update only when the first try does not find what it needs.
    quietly $install || { quietly apt-get -o DPkg::Lock::Timeout="$apt_wait" -o Acquire::Retries=3 -qq update && quietly $install; } 
fi
if [ ! -s "$key" ]; then
    umask 077
    if [ -e "$key" ]; then rm "$key"; fi # empty: the disk was full
    mkdir -p /etc/wireguard
    wg genkey >"$key.$$"
    # `ln` fails when another run was faster: then its key is the host's key.
    ln "$key.$$" "$key" 2>/dev/null || [ -s "$key" ]
    rm -f "$key.$$"
fi
chmod 600 "$key"
wg pubkey <"$key"
