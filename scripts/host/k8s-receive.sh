# Keeps what comes on stdin as a file of the bundle. In: $path (below the bundle's folder), $sha256.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 077
target=/var/lib/isthmus-kubernetes/bundle/$path
mkdir -p "${target%/*}"
trap 'rm -f "$target.$$"' EXIT
cat >"$target.$$" || { echo "cannot write $target: $(df -Pm /var/lib | awk 'NR == 2 { print $4 }') MB free" >&2; exit 1; }
[ "$(sha256sum <"$target.$$" | cut -c 1-64)" = "$sha256" ] || { echo "$path arrived with another sum than it left with" >&2; exit 1; }
mv "$target.$$" "$target"
