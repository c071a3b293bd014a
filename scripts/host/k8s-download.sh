# Fetches one file of the bundle from the internet, for its site: a package, or an image's blobs, which it packs into an
# archive. In: $path, $sha256 (empty where only the blobs' sums are known). For a package $urls; for an image $index (its
# manifest.json), $blobs (their names in the archive, which begin with their sums) and $places (what stands before
# `/blobs/sha256:…`), in the order to be tried. Prints the file's sum. What is there already is not fetched again.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
umask 077
target=/var/lib/isthmus-kubernetes/bundle/$path
mkdir -p "${target%/*}"

sum_of() {
    sha256sum 2>/dev/null <"$1" | cut -c 1-64
}

size_of() {
    stat -c %s "$1" 2>/dev/null || echo 0
}

# authorize FILE: a token for anybody, as the last answer in FILE.head wants it, into FILE.token.
authorize() {
    wanted=$(sed -n 's/^[Ww][Ww][Ww]-[Aa]uthenticate: *[Bb]earer *//p' "$1.head" | tail -n 1)
    word() { printf '%s\n' "$wanted" | sed -n "s/.*$1=\"\([^\"]*\)\".*/\1/p"; }
    case $(word realm) in http*) ;; *) return 1 ;; esac
    curl -fsS -G $secure --connect-timeout 10 -m 60 --data-urlencode "service=$(word service)" \
        --data-urlencode "scope=$(word scope)" "$(word realm)" 2>"$1.said" |
        sed -n 's/.*"\(access_\)\{0,1\}token" *: *"\([^"]*\)".*/Authorization: Bearer \2/p' >"$1.token"
    [ -s "$1.token" ]
}

# fetch URL FILE SHA256: what arrives is kept and gone on with; as long as something arrives it is tried again.
fetch() {
    [ "$(sum_of "$2" || :)" != "$3" ] || return 0
    case $1 in https:*) secure='--proto =https --proto-redir =https' ;; *) secure= ;; esac
    rm -f "$2.token"
    failed=0 granted=
    while [ $failed -lt 3 ]; do
        before=$(size_of "$2.part")
        if [ "$(sum_of "$2.part" || :)" = "$3" ]; then
            mv "$2.part" "$2"
            rm -f "$2.head" "$2.said" "$2.token"
            return 0
        fi
        set -- "$1" "$2" "$3"
        if [ -e "$2.token" ]; then set -- "$@" -H "@$2.token"; fi
        what=$1 file=$2 digest=$3
        shift 3
        code=0
        status=$(curl -fsSL $secure "$@" --connect-timeout 10 --speed-limit 1 --speed-time 30 -C - -D "$file.head" \
            -o "$file.part" -w '%{http_code}' "$what" 2>"$file.said") || code=$?
        set -- "$what" "$file" "$digest"
        # A token lasts some minutes: where something has arrived since it was given, another one is worth asking for.
        if [ "$status" = 401 ] && [ "$granted" != "$before" ] && authorize "$2"; then
            granted=$before
            continue
        fi
        if [ $code = 0 ]; then
            [ "$(sum_of "$2.part")" != "$3" ] || continue
            [ "$before" != 0 ] || { echo "$1: arrived with another sum than $3" >&2; rm -f "$2.part"; return 1; }
            rm -f "$2.part" # a part of something else
        fi
        case $code,$status in
        33,* | *,416) rm -f "$2.part" ;;
        *,408 | *,429 | *,5??) ;;
        *,4??) break ;;
        esac
        if [ "$(size_of "$2.part")" -gt "$before" ]; then failed=0; else failed=$((failed + 1)); fi
        [ $failed = 3 ] || sleep $((failed * 2))
    done
    case $status in
    4?? | 5??) echo "$1: answered $status" >&2 ;;
    *) echo "$1: $(sed -n '$s/^curl: ([0-9]*) //p' "$2.said")" >&2 ;;
    esac
    return 1
}

# first_of FILE SHA256 URL…: from the first place that has it.
first_of() {
    here=$1 sum=$2
    shift 2
    for url; do
        if fetch "$url" "$here" "$sum" 2>>"$here.failures"; then
            rm -f "$here.failures"
            return 0
        fi
    done
    tr '\n' ';' <"$here.failures" | sed 's/;$/\n/; s/;/; /g' >&2
    rm -f "$here.failures"
    exit 1
}

if [ -n "$sha256" ] && [ "$(sum_of "$target" || :)" = "$sha256" ]; then
    echo "$sha256"
    exit
fi
if ! command -v curl >/dev/null; then
    apt-get -o DPkg::Lock::Timeout=60 -qq install -y --no-install-recommends curl ca-certificates >/dev/null 2>&1 </dev/null ||
        { apt-get -qq update && apt-get -qq install -y --no-install-recommends curl ca-certificates; } >/dev/null 2>&1 </dev/null ||
        { echo "has no curl, and apt cannot install it" >&2; exit 1; }
fi
if [ -n "$urls" ]; then
    first_of "$target" "$sha256" $urls
    echo "$sha256"
    exit
fi
# An archive whose sum is not known before is one that an earlier try has made of the same blobs.
made="$(printf %s "$index" | sha256sum | cut -c 1-64) $(sum_of "$target" || :)"
if [ "$(cat "$target.made" 2>/dev/null)" != "$made" ]; then
    parts=$target.parts
    mkdir -p "$parts"
    printf %s "$index" >"$parts/manifest.json"
    for blob in $blobs; do
        digest=${blob%%.*}
        set --
        for place in $places; do set -- "$@" "$place/blobs/sha256:$digest"; done
        first_of "$parts/$blob" "$digest" "$@"
    done
    (cd "$parts" && exec tar --format=ustar --owner=0 --group=0 --numeric-owner --mode=0644 --mtime=@0 -cf "$target.$$" manifest.json $blobs)
    mv "$target.$$" "$target"
    rm -rf "$parts"
    made="${made%% *} $(sum_of "$target")"
    echo "$made" >"$target.made"
fi
found=${made#* }
[ -z "$sha256" ] || [ "$found" = "$sha256" ] || { echo "$path came with another sum than $sha256" >&2; exit 1; }
echo "$found"
