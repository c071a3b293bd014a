"""A host in namespaces of its own on this machine: real kernel, iproute2, iptables and wg; systemd is a stand-in.

It has an empty /etc/wireguard, /run and /var/lib/isthmus, a NIC, and no other processes than its own; nothing that
happens in it reaches the machine. Whole systemd hosts over SSH are the lab's; this one starts in 0.1 s.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType

import pytest

from isthmus.host_scripts import host_script
from isthmus.render import File

UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
TOOLS = ("unshare", "nsenter", "ip", "iptables", "wg", "wg-quick", "wireguard-go")

BOOT = r"""
set -eu
mount -t sysfs sysfs /sys
for folder in /run /mnt; do mount -t tmpfs -o mode=755 tmpfs $folder; done
for folder in /etc /var/lib /usr/bin /usr/local/sbin; do
    mkdir -p /mnt/$folder/upper /mnt/$folder/work
    mount -t overlay -o lowerdir=$folder,upperdir=/mnt/$folder/upper,workdir=/mnt/$folder/work overlay $folder
done
rm -rf /etc/wireguard /etc/isthmus /etc/sysctl.d/* /etc/sysctl.conf /var/lib/isthmus /usr/local/sbin/* /etc/os-release
mkdir -p /run/lock /run/units /etc/wireguard
mv /usr/bin/wg /usr/bin/the-real-wg
printf 'ID=%s\nVERSION_ID="%s"\n' $system >/etc/os-release
ip link set lo up
ip link add $nic type veth peer name far-end
ip link set far-end up
ip address add $address dev $nic
ip link set $nic up
"""

SYSTEMCTL = r"""#!/bin/sh
# What the scripts ask of systemctl, with files below /run/units for its memory.
echo "systemctl $*" >>/run/systemd.log
verb= unit= now= quiet=
while [ $# -gt 0 ]; do
    case $1 in
    -p) shift ;;
    --now) now=yes ;;
    -q) quiet=yes ;;
    -*) ;;
    *) if [ -z "$verb" ]; then verb=$1; elif [ -z "$unit" ]; then unit=${1%.service}; fi ;;
    esac
    shift
done
interface=${unit#wg-quick@}
stop() { if [ -e "/run/units/$unit.active" ]; then rm "/run/units/$unit.active"; wg-quick down "$interface"; fi; }
case $unit in isthmus-*)
    case $verb in
    start | restart) : >"/run/units/$unit.active"; exit ;;
    stop) rm -f "/run/units/$unit.active"; exit ;;
    esac ;;
esac
case $verb in
start | restart)
    case $unit in wg-quick@*) ;; *) : >"/run/units/$unit.active"; exit 0 ;; esac
    stop || true
    wg-quick up "$interface" || { echo "Job for $unit.service failed" >&2; exit 1; }
    : >"/run/units/$unit.active" ;;
stop) case $unit in wg-quick@*) stop ;; *) rm -f "/run/units/$unit.active" ;; esac ;;
enable) : >"/run/units/$unit.enabled" ;;
disable) rm -f "/run/units/$unit.enabled"; [ -z "$now" ] || stop ;;
is-active)
    if [ -e "/run/units/$unit.active" ]; then word=active status=0; else word=inactive status=3; fi
    [ "$quiet" ] || echo $word
    exit $status ;;
is-enabled) if [ -e "/run/units/$unit.enabled" ]; then echo enabled; else echo disabled; exit 1; fi ;;
show)
    if [ -e "/run/units/$unit.active" ]; then echo ActiveState=active; else echo ActiveState=inactive; fi
    if [ -e "/run/units/$unit.enabled" ]; then echo UnitFileState=enabled; else echo UnitFileState=disabled; fi ;;
reset-failed | daemon-reload) ;;
*) echo "the stand-in for systemctl does not know: $verb" >&2; exit 99 ;;
esac
"""

SYSTEMD_RUN = r"""#!/bin/sh
# Keeps what a timer would run; the test decides when it fires. What is no timer is active, and nothing runs.
echo "systemd-run $*" >>/run/systemd.log
for word in "$@"; do
    case $word in --unit=*) unit=${word#--unit=} ;; --on-active=*) echo "${word#--on-active=}" >/run/timer ;; esac
done
case $unit in *.service) unit=${unit%.service} ;; *) unit=$unit.timer ;; esac
: >"/run/units/$unit.active"
"""

WG = r"""#!/bin/sh
# Says what is changed, so that a test sees what was not.
case $1 in
set | setconf | syncconf | addconf)
    date +%s.%N >/run/wg.at  # a file's own time is that of the kernel's last tick, up to 10 ms earlier
    echo "wg $*" >>/run/wg.log
    ;;
esac
exec /usr/bin/the-real-wg "$@"
"""


@cache
def need_root_and_tools() -> None:
    """Fail, not skip: what these tests prove is proven nowhere else."""
    if os.geteuid() != 0:
        pytest.fail("needs root: it makes network namespaces", pytrace=False)
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.fail(f"{', '.join(missing)} missing on this machine: run scripts/install tests", pytrace=False)


class NamespaceHost:
    """One such host, from `with NamespaceHost() as host:` to its end."""

    def __init__(self, address: str = "172.16.0.1/24", nic: str = "eth0", system: str = "debian 12") -> None:
        need_root_and_tools()
        inputs = f"address={address} nic={nic} system={shlex.quote(system)}\n"
        # The host lives as long as its first process, which lives as long as our end of the pipe.
        self._unshare = subprocess.Popen(
            [*UNSHARE, "sh", "-c", f"{inputs}{BOOT}\necho ready; read -r end"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._unshare.stdout is not None
        said = self._unshare.stdout.readline()
        assert said == "ready\n", said + self._unshare.stdout.read()
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self._pid = children.read_text().split()[0]
        for name, text in {"systemctl": SYSTEMCTL, "systemd-run": SYSTEMD_RUN, "wg": WG}.items():
            self.put({f"/usr/bin/{name}": File(text, 0o755)})

    def __enter__(self) -> NamespaceHost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process of the host; its network goes with them."""
        self._unshare.communicate("end\n")
        deadline = time.monotonic() + 5
        while Path(f"/proc/{self._pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    def attempt(self, script: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a script with sh, as root on the host."""
        # Not text=True: it would turn carriage returns into newlines.
        command = ["nsenter", "-t", self._pid, "-n", "-m", "-p", "sh", "-c", script]
        done = subprocess.run(command, input=stdin.encode(), capture_output=True, check=False, timeout=60)
        return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())

    def run(self, script: str, stdin: str = "") -> str:
        """Run a script that must succeed; return its stdout."""
        done = self.attempt(script, stdin)
        assert done.returncode == 0, f"{script}\nstatus {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def put(self, files: Mapping[str, File]) -> None:
        """Write files."""
        for path, file in files.items():
            self.run(f"mkdir -p {path.rpartition('/')[0]}; cat >{path}; chmod {file.mode:o} {path}", file.text)

    def put_key(self, private_key: str, interface: str = "wg0") -> str:
        """Give the host its private key; return the public one."""
        self.put({f"/etc/wireguard/{interface}.key": File(private_key + "\n", 0o600)})
        return self.run("wg pubkey", private_key).strip()

    def probe(self, interface: str = "wg0") -> str:
        """Return what the probe prints here."""
        return self.run(host_script("probe", interface=interface))

    def state(self) -> str:
        """Return the host's network and our folders as text; equal texts are equal hosts. No private key is in it."""
        return "\n".join(line for line in _steady(self.run(STATE)) if line)


STATE = r"""
ip -4 route show table all | sort
echo; ip -4 rule show
echo; iptables-save 2>/dev/null
echo; for interface in $(wg show interfaces | tr ' ' '\n' | sort); do
    [ -e /sys/class/net/$interface ] || continue # a wireguard-go that is just ending
    echo "$interface $(wg show "$interface" public-key) $(wg show "$interface" listen-port)"
    wg show "$interface" dump | awk 'NR > 1 { print $1, ($2 == "(none)" ? "-" : "psk"), $3, $4, $8 }' | sort
done
echo; ip -o address show | sed 's/ *valid_lft.*//; /inet6 fe80/d'; ip -o link show | sed 's/ link.*//'
ours='/etc/wireguard /etc/isthmus /etc/sysctl.d/*isthmus* /usr/local/sbin/isthmus'
for path in $(find $ours -type f 2>/dev/null | sort); do
    echo; case $path in *.key) stat -c '%n %a' "$path" ;; *) stat -c '%n %a %y' "$path"; md5sum <"$path" ;; esac
done
echo; cd /proc/sys/net/ipv4; grep -H . ip_forward conf/*/send_redirects
ls /run/units
"""


def _steady(text: str) -> Iterator[str]:
    """Leave out counters, dates, interface numbers and what iptables makes by itself when a table is first used."""
    for line in text.splitlines():
        if line.startswith(("#", "COMMIT")) or re.match(r":[A-Z]+ ACCEPT |\*", line):
            continue
        line = re.sub(r"\[\d+:\d+\]|^\d+: | \[detached\]", "", line)
        yield re.sub(r"(\d+\.\d+\.\d+\.\d+/\d+,?){2,}", lambda match: ",".join(sorted(match[0].split(","))), line)
