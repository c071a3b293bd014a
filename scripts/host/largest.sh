# Finds the largest packet that arrives whole. Followed by `to NAME ADDRESS PORT LEAST MOST` lines and `wait`.
# In: $token, $tries, $wait_s (seconds a try). PORT is where answer.sh answers there, `-` for ping. Sizes are those of
# whole IPv4 packets, in bytes, with DF. Prints `NAME SIZE`; `NAME -` when not even LEAST arrives.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
echoes() { # ADDRESS SIZE: 20 bytes of it are IP's, 8 ICMP's
    try=0
    while [ $try -lt "$tries" ]; do
        said=$(ping -n -M do -c 1 -W "$wait_s" -s $(($2 - 28)) "$1" 2>&1) && return
        case $said in *"essage too long"* | *"Frag needed"*) break ;; esac # told so: by our own kernel, by a router
        try=$((try + 1))
    done
    false
}
answers() { # ADDRESS PORT SIZE: from a port of its own, so that no flow that is open already lets it in
    perl -e '
        use strict;
        use Errno;
        use Socket qw(:DEFAULT MSG_DONTWAIT);
        my ($address, $port, $size, $token, $tries, $wait_s) = @ARGV;
        socket(my $ask, PF_INET, SOCK_DGRAM, 0) or die "no socket: $!\n";
        # IP_MTU_DISCOVER, IP_PMTUDISC_PROBE: DF, whatever the kernel believes of the path
        setsockopt($ask, 0, 10, pack "i", 3) or die "no DF: $!\n";
        connect $ask, sockaddr_in($port, inet_aton $address) or die "no way: $!\n";
        my $data = $token . "\0" x ($size - 28 - length $token);
        vec(my $asked = "", fileno $ask, 1) = 1;
        for (1 .. $tries) {
            # EMSGSIZE: our own NIC is too narrow, or a router said so (ICMP). ECONNREFUSED only tells that no WireGuard
            # runs there: the answer comes all the same.
            exit 1 if !send($ask, $data, 0) and $!{EMSGSIZE};
            while (select my $ready = $asked, undef, undef, $wait_s) {
                my $from = recv $ask, my $answer, 64, MSG_DONTWAIT;
                exit 0 if defined $from and $answer eq $token . pack "n", $size;
                exit 1 if !defined $from and $!{EMSGSIZE};
            }
        }
        exit 1;
    ' "$@" "$token" "$tries" "$wait_s" 2>/dev/null
}
arrives() { # ADDRESS PORT SIZE
    if [ "$2" = - ]; then echoes "$1" "$3"; else answers "$1" "$2" "$3"; fi
}
to() {
    (
        least=$4 most=$5
        if arrives "$2" "$3" "$most"; then
            least=$most
        elif [ "$least" = "$most" ] || ! arrives "$2" "$3" "$least"; then
            least=- most=-
        fi
        while [ "$least" != "$most" ] && [ $((most - least)) -gt 1 ]; do
            middle=$(((least + most) / 2))
            if arrives "$2" "$3" $middle; then least=$middle; else most=$middle; fi
        done
        echo "$1 $least"
    ) &
}
