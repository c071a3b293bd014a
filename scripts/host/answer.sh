# Answers datagrams at WireGuard's port, whether WireGuard runs or not, and never in its way. Once it does, prints the
# number of the process that goes on answering, and returns.
# In: $port, $token (what a datagram to be answered begins with), $idle_s (seconds after the last one when it ends).
# A raw socket is given a copy of every datagram that the host's firewall lets in; WireGuard drops what is not its own.
# An answer is the token and the size of the packet that arrived, sent from the very address and port that were asked.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
perl -e '
    use strict;
    use POSIX ();
    use Socket;
    my ($port, $token, $idle_s) = @ARGV;
    my $udp = 17;
    socket(my $in, PF_INET, SOCK_RAW, $udp) or die "no raw socket: $!\n";
    # The kernel hands over only what is for us (a classic BPF program), so a busy tunnel costs nothing.
    my $filter = join "", map { pack "SCCL", @$_ } (
        [0xb1, 0, 0, 0],                                    # X = length of the IP header
        [0x48, 0, 0, 2], [0x15, 0, 3, $port],               # the destination port is ours
        [0x40, 0, 0, 8], [0x15, 0, 1, unpack "N", $token],  # and the data begins with the token
        [0x06, 0, 0, 0xffffffff], [0x06, 0, 0, 0]);
    setsockopt($in, SOL_SOCKET, 26, pack "S x![L!] P", length($filter) / 8, $filter)  # SO_ATTACH_FILTER
        or die "no filter: $!\n";
    defined(my $child = fork) or die "no child: $!\n";
    if ($child) { print "$child\n"; exit }
    POSIX::setsid();
    open $_, "+<", "/dev/null" for *STDIN, *STDOUT, *STDERR;
    alarm $idle_s;
    while (1) {
        my $asker = recv $in, my $packet, 65535, 0;
        next unless defined $asker;
        my ($header, $to) = (4 * (ord($packet) & 15), substr $packet, 16, 4);
        my ($from, $at) = unpack "nn", substr $packet, $header;
        next if $at != $port or index($packet, $token, $header) != $header + 8;
        alarm $idle_s;
        my $answer = $token . pack "n", length $packet;
        socket my $out, PF_INET, SOCK_RAW, $udp or next;
        bind $out, sockaddr_in(0, $to) or next;
        send $out, pack("nnnn", $port, $from, 8 + length $answer, 0) . $answer, 0, $asker;  # checksum 0: none
    }
' "$port" "$token" "$idle_s"
