# Keeps preshared keys. Followed by `make NAME` lines, which print `NAME KEY`, or by `take`, which reads such from stdin.
# In: $interface, $owner (of the transaction that makes all keys anew; empty: what is missing is added to the host's own).
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
transaction=/var/lib/isthmus/transaction
root=
umask 077
if [ -n "$owner" ]; then
    [ "$(cat $transaction/owner 2>/dev/null)" = "$owner" ] || { echo "the change was undone before it was begun" >&2; exit 1; }
    root=$transaction/new
fi
folder=$root/etc/wireguard/$interface.psk
mkdir -p "$folder"

# Whole or not at all; a key never stands in a command line: echo is the shell's own.
keep() { # NAME KEY
    echo "$2" >"$folder/.$1" && [ -s "$folder/.$1" ] || { echo "cannot save a preshared key" >&2; exit 1; }
    mv "$folder/.$1" "$folder/$1"
}

make() { # NAME
    secret=
    if [ -s "$folder/$1" ]; then read -r secret <"$folder/$1"; fi
    [ -n "$secret" ] || secret=$(wg genpsk)
    keep "$1" "$secret"
    echo "$1 $secret"
}

take() {
    while read -r name secret; do keep "$name" "$secret"; done
}
