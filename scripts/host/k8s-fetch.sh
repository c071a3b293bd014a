# Fetches files of the bundle from another host of the site. Followed by `file PATH SHA256` lines.
# In: $address, $port, $token of the host that serves them. Ends with an error for a file that does not arrive whole.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 077
fetch='
    use strict;
    use Socket;
    my ($address, $port, $token, $path) = @ARGV;
    socket(my $call, PF_INET, SOCK_STREAM, 0) or die "no socket: $!\n";
    local $SIG{ALRM} = sub { die "no connection to $address within 10 s\n" };
    alarm 10;
    connect $call, sockaddr_in($port, inet_aton $address) or die "no connection to $address: $!\n";
    alarm 0;
    syswrite $call, "$token $path\n";
    while (sysread $call, my $block, 1 << 18) { print $block or die "cannot write: $!\n" }
    close STDOUT or die "cannot write: $!\n";
'
file() {
    target=/var/lib/isthmus-kubernetes/bundle/$1
    mkdir -p "${target%/*}"
    perl -e "$fetch" "$address" "$port" "$token" "$1" >"$target.$$" || { rm -f "$target.$$"; return 1; }
    if [ "$(sha256sum <"$target.$$" | cut -c 1-64)" != "$2" ]; then
        rm -f "$target.$$"
        echo "$1 did not arrive whole from $address" >&2
        return 1
    fi
    mv "$target.$$" "$target"
}
