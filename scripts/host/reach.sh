# Measures round-trip times from this host. Followed by `to NAME ADDRESS PORT` lines (PORT - for ping) and `wait`.
# In: $count (echo requests), $wait_s (seconds to wait for an answer). Prints `NAME MILLISECONDS`, `NAME refused` where the
# answer is that nothing listens there, or `NAME -` for no answer.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
echoes() { # ADDRESS: the average of ping's summary, `rtt min/avg/max/mdev = 0.1/0.2/0.3/0.0 ms`
    ping -n -q -c "$count" -i 0.2 -W "$wait_s" -w $((wait_s + count)) "$1" 2>/dev/null |
        sed -n 's#^rtt [^=]*= [0-9.]*/\([0-9.]*\)/.*#\1#p'
}
connects() { # ADDRESS PORT: from SYN to SYN-ACK, with what Debian has everywhere
    said=$(timeout "$wait_s" bash -c '
        before=${EPOCHREALTIME/./}
        exec 3<>"/dev/tcp/$0/$1" || exit 1
        after=${EPOCHREALTIME/./}
        printf "%d.%03d\n" $(((after - before) / 1000)) $(((after - before) % 1000))' "$1" "$2" 2>&1)
    case $said in
    *"Connection refused"*) echo refused ;;
    [0-9]*) echo "$said" ;;
    esac
}
to() {
    (
        if [ "$3" = - ]; then rtt=$(echoes "$2"); else rtt=$(connects "$2" "$3"); fi
        echo "$1 ${rtt:--}"
    ) &
}
