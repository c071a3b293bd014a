"""A host full of what somebody else put there, and a way to see whether any of it was changed.

Everything is as near to ours as others' things can be: rules in every table and inside INPUT and FORWARD, chains and
comments named almost like ours, routes and rules beside ours, files in the folders where ours are, a WireGuard
interface. What does not outlive a reboot by itself is put back at each start by a unit of theirs, before our interface
comes up, as netfilter-persistent and ifupdown do.
"""

from __future__ import annotations

import shlex

from workstation import Admin

_INSTALL = r"""
set -eu
umask 022
mkdir -p /etc/iptables /etc/isthmus /etc/isthmus-of-another /etc/wireguard /var/lib/isthmus-of-another
cat >/etc/iptables/rules.v4 <<'RULES'
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -s 10.66.0.0/16 -j DROP
COMMIT
*mangle
:FORWARD ACCEPT [0:0]
:ISTHMUS - [0:0]
-A PREROUTING -i eth7 -j MARK --set-xmark 0x7/0xffffffff
-A FORWARD -o eth7 -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1200
-A FORWARD -s 10.1.0.0/16 -j ISTHMUS
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
:OTHER-POSTROUTING - [0:0]
-A PREROUTING -d 10.2.2.2/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.1.1.1:8080
-A POSTROUTING -s 10.1.0.0/16 -o eth0 -j MASQUERADE
-A POSTROUTING -d 10.9.9.0/24 -j OTHER-POSTROUTING
COMMIT
*security
:INPUT ACCEPT [0:0]
-A INPUT -i eth7 -j RETURN
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ISTHMUS - [0:0]
:OTHER - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A INPUT -p udp -m udp --dport 51820 -m comment --comment "before ISTHMUS-INPUT" -j OTHER
-A FORWARD -s 10.1.0.0/16 -j OTHER
-A FORWARD -i eth7 -j ISTHMUS
-A OTHER -p tcp -m tcp --dport 8080 -m comment --comment "isthmus of somebody else" -j ACCEPT
-A ISTHMUS -j RETURN
COMMIT
RULES
cat >/usr/local/sbin/others <<'BOOT'
#!/bin/sh
set -eu
iptables-restore /etc/iptables/rules.v4
ip route replace 192.0.2.0/24 via 172.16.0.250 dev eth0 onlink proto static
ip route replace blackhole 10.66.0.0/16
ip route replace 10.77.0.0/16 dev eth0 table 5182
ip route replace 172.16.5.0/24 dev eth0 metric 7 proto 99
ip rule add from 10.1.1.1 lookup 100 priority 5182
ip rule add fwmark 0x7 lookup 5182 priority 5183
BOOT
chmod 755 /usr/local/sbin/others
cat >/etc/systemd/system/others.service <<'UNIT'
[Unit]
Before=wg-quick@wg0.service wg-quick@wg9.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/others
[Install]
WantedBy=multi-user.target
UNIT
printf 'net.ipv4.%s = 0\n' ip_forward conf.all.send_redirects conf.all.accept_redirects >/etc/sysctl.d/99-other.conf
sysctl -qp /etc/sysctl.d/99-other.conf
echo 'a note that somebody left here' >/etc/isthmus/notes
echo state >/etc/isthmus-of-another/wg0.conf
echo state >/var/lib/isthmus-of-another/transaction
umask 077
printf '[Interface]\nAddress = 10.9.9.9/24\nListenPort = 4999\nPrivateKey = ' >/etc/wireguard/wg9.conf
wg genkey >>/etc/wireguard/wg9.conf
printf '[Peer]\nPublicKey = %s\nAllowedIPs = 10.9.9.0/24\n' "$(wg genkey | wg pubkey)" >>/etc/wireguard/wg9.conf
systemctl -q enable --now others wg-quick@wg9
"""

OURS = (
    "/etc/wireguard/wg0.conf",
    "/etc/wireguard/wg0.key",
    "/etc/wireguard/wg0.psk",
    "/etc/wireguard/wg0.psk/*",
    "/etc/isthmus",
    "/etc/isthmus/wg0.routes",
    "/etc/isthmus/wg0.iptables",
    "/etc/isthmus/wg0.drained",
    "/etc/isthmus/wg0.watch",
    "/etc/sysctl.d/90-isthmus.conf",
    "/etc/systemd/system/multi-user.target.wants/wg-quick@wg0.service",
    "/usr/local/sbin/isthmus",
    "/usr/local/sbin/isthmus-watch",
)
"""What may lie below _FOLDERS because of us, by exact names: whatever else we leave there is seen."""
_FOLDERS = "/etc /usr/local /var/lib/isthmus-of-another"
_RENEWED = ("/etc/ld.so.cache",)
"""By any package that is installed."""
_FILES = f"find {_FOLDERS} {' '.join(f'! -path {shlex.quote(path)}' for path in (*OURS, *_RENEWED))}"
_CHAINS = "ISTHMUS-INPUT|ISTHMUS-FORWARD|ISTHMUS-POSTROUTING|ISTHMUS-WATCH"
_SECTIONS = {
    "files": rf"{_FILES} -printf '%y %m %U:%G %l %p\n'",
    "contents": f"{_FILES} -type f -exec sha256sum {{}} +",
    "routes": "ip -4 -d route show table all | grep -vE 'proto 182|dev wg0 '",
    "rules": "ip -4 rule show | grep -v 'proto 182'",
    "addresses": "ip -4 -o address | grep -v ' wg0 ' | sed 's/^[0-9]*: //; s/ valid_lft.*//'",
    "links": "ls /sys/class/net | grep -vx wg0",
    "wireguard": "for what in public-key listen-port allowed-ips persistent-keepalive; do wg show wg9 $what; done",
    "firewall": "iptables-save | sed '/^#/d; s/ \\[[0-9:]*\\]$//'"
    f" | grep -vE '^(:|-A )({_CHAINS})( |$)|-j ({_CHAINS})$'",
    "sysctls": "sysctl -a --pattern '^net[.]ipv4[.]conf[.]' | grep -vE '[.]wg0[.]|forwarding|send_redirects'",
}
"""By what others' things are known, and how to ask for them; ours are left out, as are counters, and the switches that
making a host a router turns."""


def install(admin: Admin) -> None:
    """Fill every host with somebody else's things, and let it start once with them: that is how they shall stay."""
    for host in admin.hosts:
        admin.said(host, _INSTALL)
    admin.lab.reboot(*admin.hosts)
    for host in admin.hosts:
        admin.said(host, "systemctl is-system-running --wait; systemctl is-active others wg-quick@wg9")


def seen(admin: Admin) -> dict[str, dict[str, list[str]]]:
    """Return all of somebody else's things, by host and kind, line by line; where order means nothing, sorted."""
    started = "systemctl is-system-running --wait >/dev/null; "
    script = started + "".join(f"echo '@@ {what}'; {command}; " for what, command in _SECTIONS.items())
    found: dict[str, dict[str, list[str]]] = {}
    for host in admin.hosts:
        sections = (part.split("\n") for part in admin.said(host, f"{script} true").split("@@ ")[1:])
        kinds = {what: [line.rstrip() for line in lines] for what, *lines in sections}
        found[host] = {what: rows if what in ("rules", "firewall") else sorted(rows) for what, rows in kinds.items()}
        assert found[host].keys() == _SECTIONS.keys()
        assert all(any(rows) for rows in found[host].values()), f"{host} has nothing of somebody else's"
    return found


def left(admin: Admin) -> list[str]:
    """Return what is still there of us, but for keys, which mesh.down leaves, a line each."""
    files = " ".join(path for path in OURS if not path.startswith("/etc/wireguard/wg0.") and path != "/etc/isthmus")
    script = f"""ls -d /etc/wireguard/wg0.conf /var/lib/isthmus /sys/class/net/wg0 {files} 2>/dev/null
        iptables-save | grep -E '^:ISTHMUS-|-j ISTHMUS-'; ip -4 route show table all proto 182
        ip -4 rule show | grep 'proto 182'; systemctl list-units --plain --no-legend 'isthmus*'; true"""
    return [f"{host}: {line}" for host in admin.hosts for line in admin.said(host, script).splitlines()]


def changed(before: dict[str, dict[str, list[str]]], now: dict[str, dict[str, list[str]]]) -> list[str]:
    """Return what is not as it was, a line each."""
    return [
        f"{host}: {what}: {sign} {line}"
        for host, kinds in before.items()
        for what, rows in kinds.items()
        if rows != now[host][what]
        for sign, lines, others in (("-", rows, now[host][what]), ("+", now[host][what], rows))
        for line in [line for line in lines if line not in others] or ["(other order)"]
    ]
