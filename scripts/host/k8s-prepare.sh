# Makes a host ready to be a node. Followed by `stage PATH MODE <<'.'` with files in base64, then `prepare`.
# In: $debs and $images (files of the bundle, may be empty), $hold (packages), $endpoint and $address of the API (several,
# first choice first), $apt_wait (seconds to wait for dpkg's lock), $keep (yes: other files of the bundle stay, for what comes
# later). Whatever is there already is left alone.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
folder=/var/lib/isthmus-kubernetes
bundle=$folder/bundle
log=/run/isthmus-kubernetes.log

# In the background and into a file: a workstation that vanishes must not leave dpkg half-way (no SIGPIPE, no SIGHUP).
quietly() {
    (trap '' HUP PIPE; exec "$@") >"$log" 2>&1 </dev/null 9>&- &
    if wait $!; then return 0; fi
    grep -E '^(E|dpkg|ctr):' "$log" >&2 || tail -n 3 "$log" >&2
    return 1
}

stage() {
    mkdir -p "${1%/*}"
    # What somebody had here before us is kept beside it, once.
    if [ -e "$1" ] && [ ! -e "$1.before-isthmus" ] && ! head -n 1 "$1" | grep -q '^# isthmus-kubernetes'; then
        cp -p "$1" "$1.before-isthmus"
    fi
    base64 -d >"$1.isthmus-new"
    chmod "$2" "$1.isthmus-new"
    mv -f "$1.isthmus-new" "$1"
    staged="$staged $1"
}

install_packages() {
    if [ -n "$(dpkg --audit 2>/dev/null)" ]; then quietly dpkg --configure -a || true; fi
    install="apt-get -o DPkg::Lock::Timeout=$apt_wait -o Dpkg::Options::=--force-confold -qq install -y
        --no-install-recommends --no-remove --allow-downgrades --allow-change-held-packages"
    set --
    for deb in $debs; do set -- "$@" "$bundle/$deb"; done
    # A fresh cloud image has stale or no lists: update only when the first try does not find what it needs.
    quietly $install "$@" || { quietly apt-get -o DPkg::Lock::Timeout="$apt_wait" -qq update && quietly $install "$@"; }
    rm -f "$@"
}

name_the_api() { # in place: /etc/hosts may be a mount
    if [ "$(awk -v name="$endpoint" '{ sub(/#.*/, ""); for (i = 2; i <= NF; i++) if ($i == name) print $1 }' /etc/hosts | paste -sd ' ')" != "$address" ]; then
        awk -v name="$endpoint" '{ line = $0; sub(/#.*/, ""); for (i = 2; i <= NF; i++) if ($i == name) next; print line }' /etc/hosts >"$folder/hosts"
        for one in $address; do echo "$one $endpoint # isthmus"; done >>"$folder/hosts"
        cat "$folder/hosts" >/etc/hosts
        rm "$folder/hosts"
    fi
}

prepare() {
    for file in $debs $images; do
        [ -e "$bundle/$file" ] || { echo "another run has prepared this host meanwhile: run k8s.bootstrap again" >&2; exit 1; }
    done
    if [ -n "$debs" ]; then install_packages; fi
    quietly apt-mark hold $hold
    name_the_api
    for module in overlay br_netfilter; do modprobe -q $module 2>/dev/null || true; done
    sysctl -q -p /etc/sysctl.d/90-isthmus-kubernetes.conf 2>"$log" || { cat "$log" >&2; exit 1; }
    systemctl daemon-reload
    systemctl -q enable containerd kubelet 9>&-
    case $staged in
    */containerd/*) quietly systemctl restart containerd ;;
    *) quietly systemctl start containerd ;;
    esac
    for image in $images; do
        quietly ctr -n k8s.io images import "$bundle/$image"
        rm -f "$bundle/$image"
    done
    [ "$keep" = yes ] || rm -rf "$bundle"
}

staged=
mkdir -p "$folder"
exec 9>/run/isthmus-kubernetes.lock
flock -w "$apt_wait" 9 || { echo "another run is at work on this host" >&2; exit 1; }
