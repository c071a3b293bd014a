"""scripts/host/*.sh for real, on hosts in namespaces of this machine: what they change, and that it can be undone."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from namespace_host import NamespaceHost
from test_host_program import BY_N2, CONFIGS, PRIVATE, files_of, public_keys, started

from isthmus.host_scripts import apply_script, fire_script, hold_script, host_script, renew_script
from isthmus.model import HostConfig
from isthmus.observe import Facts, parse_probe
from isthmus.plan import HostPlan, plan_host
from isthmus.render import File

TRANSACTION = "/var/lib/isthmus/transaction"
POWER_OFF = """
rm /run/units/*.active
ip link del wg0
for _ in $(seq 250); do [ -e /run/wireguard/wg0.sock ] || break; sleep 0.02; done"""
"""As far as the mesh goes. On a kernel without WireGuard its program is given time to end."""
PREPARE = host_script("prepare", interface="wg0", packages="", apt_wait=1)


@pytest.fixture
def bare() -> Iterator[NamespaceHost]:
    """A host with n1's key and nothing else of ours."""
    with NamespaceHost("172.16.0.1/24") as host:
        host.put_key(PRIVATE["n1"])
        yield host


@pytest.fixture
def meshed() -> Iterator[NamespaceHost]:
    """The article's n1 with its mesh up."""
    with NamespaceHost("172.16.0.1/24") as host:
        yield started(host, files_of(CONFIGS["n1"]), PRIVATE["n1"])


def facts_of(host: NamespaceHost) -> Facts:
    return parse_probe("n1", "wg0", host.probe())


def planned(host: NamespaceHost, config: HostConfig = CONFIGS["n1"]) -> HostPlan:
    return plan_host(config, files_of(config), public_keys(), facts_of(host))


def applying(plan: HostPlan, owner: str = "ada@desk (1)") -> str:
    return apply_script(plan, interface="wg0", owner=owner, undo_after=60)


def confirming(owner: str = "ada@desk (1)") -> str:
    return host_script("confirm", owner=owner)


# --- apply, confirm -----------------------------------------------------------------------------------------------


def test_an_applied_plan_leaves_nothing_to_plan_and_holds_the_host_until_it_is_confirmed(bare: NamespaceHost) -> None:
    assert bare.run(applying(planned(bare))) == "applied\n"
    assert not planned(bare)
    assert facts_of(bare).transaction == "ada@desk (1)"
    assert bare.run("cat /run/timer; ls /run/units").split() == [
        "60s",
        "isthmus-undo.timer.active",
        "wg-quick@wg0.active",
        "wg-quick@wg0.enabled",
    ]
    log = bare.run("cat /run/systemd.log")
    assert log.index("systemd-run ") < log.index("systemctl restart wg-quick@wg0"), (
        "the undo is declared before the deed"
    )
    bare.run(confirming())
    assert facts_of(bare).transaction is None
    assert not planned(bare)
    assert bare.run("ls /run/units; ls /var/lib/isthmus").split() == [
        "wg-quick@wg0.active",
        "wg-quick@wg0.enabled",
        "sysctls.before",
    ]


def test_a_host_without_a_timer_is_not_changed(bare: NamespaceHost) -> None:
    before = bare.state()
    script = applying(planned(bare))
    bare.put(
        {"/usr/local/sbin/systemd-run": File("#!/bin/sh\necho 'Failed to start transient timer' >&2; exit 1\n", 0o755)}
    )
    done = bare.attempt(script)
    assert (done.returncode, done.stderr) == (1, "Failed to start transient timer\n")
    assert bare.state() == before
    assert facts_of(bare).transaction is None


def test_a_second_run_finds_the_host_held_and_changes_nothing(bare: NamespaceHost) -> None:
    script = applying(planned(bare), "bob@desk (2)")
    bare.run(applying(planned(bare)))
    before = bare.state()
    done = bare.attempt(script)
    assert (done.returncode, done.stderr) == (75, "another run holds this host: ada@desk (1)\n")
    assert bare.attempt(confirming("bob@desk (2)")).returncode == 1
    bare.run(host_script("undo", owner="bob@desk (2)"))
    assert bare.state() == before
    bare.run(confirming())


def test_what_another_run_is_staging_is_left_alone_and_what_a_dead_one_staged_is_not(bare: NamespaceHost) -> None:
    bare.run("mkdir -p /var/lib/isthmus/staged.1 /var/lib/isthmus/staged.99999999")  # 1 is alive
    bare.run(applying(planned(bare)))
    assert bare.run("ls /var/lib/isthmus").split() == ["staged.1", "sysctls.before", "transaction"]


def test_a_mesh_that_cannot_start_is_undone_at_once_and_says_why(bare: NamespaceHost) -> None:
    before = bare.state()
    plan = planned(bare)
    bare.put({"/usr/local/sbin/iptables-restore": File("#!/bin/sh\necho 'no nat table here' >&2; exit 4\n", 0o755)})
    done = bare.attempt(applying(plan))
    assert done.returncode == 1
    assert "no nat table here" in done.stderr
    assert done.stderr.endswith("the old state was put back\n")
    bare.run("rm /usr/local/sbin/iptables-restore")
    assert bare.state() == before
    assert facts_of(bare).transaction is None


def test_on_a_full_disk_nothing_is_changed_and_the_line_says_so(bare: NamespaceHost) -> None:
    before = bare.state()
    script = applying(planned(bare))
    bare.run("mkdir /var/lib/isthmus; mount -t tmpfs -o size=1M tmpfs /var/lib/isthmus")
    done = bare.attempt(f"head -c 2M /dev/zero >/var/lib/isthmus/filler 2>/dev/null\n{script}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "cannot save /etc/isthmus/wg0.iptables: 0 free on /var/lib/isthmus"
    assert bare.state() == before
    assert bare.run("ls /var/lib/isthmus").split() == ["filler"]


def test_a_disk_that_fills_up_in_the_middle_is_undone(bare: NamespaceHost) -> None:
    before = bare.state()
    bare.run("mkdir /etc/isthmus; mount -t tmpfs -o nr_inodes=2 tmpfs /etc/isthmus")
    done = bare.attempt(applying(planned(bare)))
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert done.stderr.endswith("the old state was put back\n")
    bare.run("umount /etc/isthmus; rmdir /etc/isthmus")
    assert bare.state() == before


# --- new keys -----------------------------------------------------------------------------------------------------

KEY = "/etc/wireguard/wg0.key"
OWNER = "ada@desk (1)"


def held(host: NamespaceHost) -> str:
    """Hold a host with a new key and return the public half."""
    script = hold_script([*files_of(CONFIGS["n1"]), KEY], interface="wg0", owner=OWNER, undo_after=60, new_key=True)
    clock, key = host.run(script).split()
    assert abs(float(clock) - time.time()) < 60
    return key


def fired(host: NamespaceHost) -> subprocess.CompletedProcess[str]:
    host.run(renew_script(files_of(CONFIGS["n1"]), ["0 own"], interface="wg0", owner=OWNER))
    in_time = int(time.time()) + 5  # also on a busy machine
    return host.attempt(fire_script(interface="wg0", owner=OWNER, moment=in_time))


def test_a_new_key_is_made_used_and_the_old_one_gone_when_it_is_confirmed(meshed: NamespaceHost) -> None:
    old = meshed.run("wg show wg0 public-key").strip()
    new = held(meshed)
    assert meshed.run("wg show wg0 public-key").strip() == old != new
    assert facts_of(meshed).transaction == OWNER
    assert meshed.run(f"stat -c %a /var/lib/isthmus/transaction /var/lib/isthmus/transaction/new{KEY}") == "700\n600\n"
    assert fired(meshed).stdout == "applied\n"
    assert meshed.run(f"wg show wg0 public-key; wg pubkey <{KEY}; stat -c %a {KEY}").split() == [new, new, "600"]
    meshed.run(confirming())
    assert meshed.run("ls /var/lib/isthmus /etc/wireguard").split() == [
        "/etc/wireguard:",
        "wg0.conf",
        "wg0.key",
        "/var/lib/isthmus:",
        "sysctls.before",
    ]


@pytest.mark.parametrize("until", ["held", "fired"])
def test_the_undo_puts_the_old_key_back_wherever_it_comes(meshed: NamespaceHost, until: str) -> None:
    before = meshed.state()
    held(meshed)
    if until == "fired":
        fired(meshed)
    meshed.run(host_script("undo", owner=OWNER))
    assert meshed.state() == before
    assert meshed.run(f"cat {KEY}").strip() == PRIVATE["n1"]
    done = fired_alone(meshed)
    assert (done.returncode, done.stderr) == (1, "the change was undone before it was begun\n")
    assert meshed.run("ls /var/lib/isthmus").split() == ["sysctls.before"]


def fired_alone(host: NamespaceHost) -> subprocess.CompletedProcess[str]:
    in_time = int(time.time()) + 5  # also on a busy machine
    return host.attempt(fire_script(interface="wg0", owner=OWNER, moment=in_time))


def test_a_step_that_fails_is_undone_at_once(meshed: NamespaceHost) -> None:
    before = meshed.state()
    held(meshed)
    meshed.put({"/usr/local/sbin/renice": File("#!/bin/sh\nexit 1\n", 0o755)})
    broken = '#!/bin/sh\ncase "$*" in "set wg0 private-key"*) echo no >&2; exit 1 ;; esac\nexec /usr/bin/wg "$@"\n'
    meshed.put({"/usr/local/sbin/wg": File(broken, 0o755)})
    done = fired(meshed)
    assert done.returncode == 1
    assert done.stderr.endswith("no\nthe old state was put back\n")
    meshed.run("rm /usr/local/sbin/wg /usr/local/sbin/renice")
    assert meshed.state() == before


@pytest.mark.parametrize("away", [-3600, 3600])
def test_a_host_whose_clock_is_wrong_does_not_begin(meshed: NamespaceHost, away: int) -> None:
    held(meshed)
    done = meshed.attempt(fire_script(interface="wg0", owner=OWNER, moment=int(time.time()) + away))
    assert done.returncode == 1
    assert re.fullmatch(rf"by its clock the moment to begin is {str(away)[:3]}\d* s away\n", done.stderr)


def test_a_host_that_another_run_holds_makes_no_key(meshed: NamespaceHost) -> None:
    held(meshed)
    script = hold_script([KEY], interface="wg0", owner="bob@desk (2)", undo_after=60, new_key=True)
    done = meshed.attempt(script)
    assert (done.returncode, done.stderr) == (75, f"another run holds this host: {OWNER}\n")
    assert meshed.run("ls /var/lib/isthmus").split() == ["sysctls.before", "transaction"]


def sharing(*lines: str, owner: str = "") -> str:
    return host_script("preshare", interface="wg0", owner=owner) + "".join(f"{line}\n" for line in lines)


def test_a_preshared_key_is_made_once_told_and_taken(bare: NamespaceHost) -> None:
    told = bare.run(sharing("make s1", "make b1"))
    assert re.fullmatch(r"s1 [A-Za-z0-9+/]{43}=\nb1 [A-Za-z0-9+/]{43}=\n", told)
    assert bare.run(sharing("make b1", "make s1")).split()[3] == told.split()[1]
    bare.run(sharing("take"), "s1 another\n")
    assert bare.run("cat /etc/wireguard/wg0.psk/s1; ls -A /etc/wireguard/wg0.psk") == "another\nb1\ns1\n"
    assert bare.run("stat -c %a /etc/wireguard/wg0.psk/*") == "600\n600\n"


def test_new_preshared_keys_come_with_the_new_key_and_go_with_it(meshed: NamespaceHost) -> None:
    path = "/etc/wireguard/wg0.psk/s1"
    meshed.run(sharing("take"), "s1 the-old-one\n")
    for confirmed in (False, True):
        paths = [*files_of(CONFIGS["n1"]), KEY, path]
        meshed.run(hold_script(paths, interface="wg0", owner=OWNER, undo_after=60, new_key=True))
        told = meshed.run(sharing("make s1", owner=OWNER)).split()[1]
        assert meshed.run(f"cat {path}") == "the-old-one\n" != told
        assert fired(meshed).stdout == "applied\n"
        assert meshed.run(f"cat {path}; stat -c %a {path}") == f"{told}\n600\n"
        meshed.run(confirming() if confirmed else host_script("undo", owner=OWNER))
        assert meshed.run(f"cat {path}").strip() == (told if confirmed else "the-old-one")
    done = meshed.attempt(sharing("make s1", owner=OWNER))
    assert (done.returncode, done.stderr) == (1, "the change was undone before it was begun\n")


def test_a_preshared_key_that_goes_comes_back_with_the_undo(meshed: NamespaceHost) -> None:
    meshed.run(sharing("take"), "s1 secret\n")
    plan = planned(meshed)
    assert plan.discard == ("/etc/wireguard/wg0.psk/s1",)
    meshed.run(applying(plan))
    assert meshed.run("ls /etc/wireguard") == "wg0.conf\nwg0.key\n"
    meshed.run(host_script("undo", owner=OWNER))
    assert meshed.run("cat /etc/wireguard/wg0.psk/s1; stat -c %a /etc/wireguard/wg0.psk") == "secret\n700\n"
    meshed.run(host_script("leave", interface="wg0", forget_keys="yes"))
    assert meshed.run("ls /etc/wireguard") == ""


# --- undo ---------------------------------------------------------------------------------------------------------


def test_the_undo_makes_a_host_bare_again_and_is_harmless_twice(bare: NamespaceHost) -> None:
    before = bare.state()
    bare.run(applying(planned(bare)))
    assert bare.state() != before
    bare.run(f"cp {TRANSACTION}/undo /run/undo; rm /run/units/isthmus-undo.timer.active; sh /run/undo; sh /run/undo")
    assert bare.state() == before
    done = bare.attempt(confirming())
    assert (done.returncode, done.stderr) == (1, "the change was undone before it was confirmed\n")


def test_the_undo_of_a_live_change_is_live_too(meshed: NamespaceHost) -> None:
    before = meshed.state()
    number = meshed.run("cat /sys/class/net/wg0/ifindex")
    as_leaf = BY_N2["n1"]
    meshed.run(applying(planned(meshed, as_leaf)))
    assert not planned(meshed, as_leaf)
    assert "ISTHMUS-FORWARD" not in meshed.state()
    meshed.run(host_script("undo", owner="ada@desk (1)"))
    assert meshed.state() == before
    assert meshed.run("cat /sys/class/net/wg0/ifindex") == number
    assert not planned(meshed)


def test_an_undo_that_has_to_start_the_mesh_again_arms_no_timer(meshed: NamespaceHost) -> None:
    before = meshed.state()
    meshed.run(applying(planned(meshed, BY_N2["n1"])))
    meshed.run(POWER_OFF)
    meshed.run(host_script("undo", owner=""))
    assert meshed.state() == before, "and no isthmus-undo.timer is active"


def test_the_undo_of_a_repair_puts_back_a_mesh_that_was_stopped(meshed: NamespaceHost) -> None:
    meshed.run("systemctl stop wg-quick@wg0; systemctl disable wg-quick@wg0")
    before = meshed.state()
    meshed.run(applying(planned(meshed)))
    meshed.run(host_script("undo", owner="ada@desk (1)"))
    assert meshed.state() == before


def test_a_transaction_is_undone_by_anybody_once_its_timer_is_gone_but_not_before(bare: NamespaceHost) -> None:
    before = bare.state()
    bare.run(applying(planned(bare)))
    bare.run(host_script("undo", owner=""))
    assert facts_of(bare).transaction == "ada@desk (1)"
    bare.run("rm /run/units/isthmus-undo.timer.active; >/run/units/isthmus-undo.active")
    bare.run(host_script("undo", owner=""))
    assert facts_of(bare).transaction == "ada@desk (1)", "its undo is running"
    bare.run("rm /run/units/isthmus-undo.active")
    bare.run(host_script("undo", owner=""))
    assert bare.state() == before
    bare.run(host_script("undo", owner=""))


def test_a_reboot_before_the_confirmation_arms_the_timer_again(bare: NamespaceHost) -> None:
    bare.run(applying(planned(bare)))
    bare.run(f"rm /run/timer\n{POWER_OFF}\nsystemctl start wg-quick@wg0")
    assert bare.run("cat /run/timer") == "60s\n"
    bare.run(confirming())
    assert bare.run("rm /run/timer; isthmus up wg0; ls /run/timer 2>/dev/null || echo none") == "none\n"


# --- a gateway that becomes a leaf --------------------------------------------------------------------------------


def sysctls(host: NamespaceHost) -> str:
    return host.run("cd /proc/sys/net/ipv4; grep . ip_forward conf/*/forwarding conf/*/send_redirects | grep -v /wg0/")


@pytest.mark.parametrize("forwarding", ["0", "1"])
def test_a_former_gateway_gets_its_sysctls_back_when_it_is_confirmed_and_not_before(
    bare: NamespaceHost, forwarding: str
) -> None:
    bare.run(f"echo {forwarding} >/proc/sys/net/ipv4/ip_forward")
    before = sysctls(bare)
    bare.run(applying(planned(bare)))
    bare.run(confirming())
    as_gateway = sysctls(bare)
    assert as_gateway != before
    as_leaf = BY_N2["n1"]
    bare.run(applying(planned(bare, as_leaf)))
    assert sysctls(bare) == before
    bare.run(host_script("undo", owner="ada@desk (1)"))
    assert sysctls(bare) == as_gateway
    bare.run(applying(planned(bare, as_leaf)))
    bare.run(confirming())
    assert sysctls(bare) == before
    assert bare.run("ls /var/lib/isthmus") == ""


def test_what_a_former_gateway_was_long_ago_is_forgotten(bare: NamespaceHost) -> None:
    for config in (CONFIGS["n1"], BY_N2["n1"]):
        bare.run(applying(planned(bare, config)))
        bare.run(confirming())
    bare.run("echo 1 >/proc/sys/net/ipv4/ip_forward")  # Docker came
    docker = sysctls(bare)
    for config in (CONFIGS["n1"], BY_N2["n1"]):
        bare.run(applying(planned(bare, config)))
        bare.run(confirming())
    assert sysctls(bare) == docker


@pytest.mark.parametrize("leaving", [False, True])
def test_a_former_gateway_keeps_what_files_of_others_have_asked_for_meanwhile(
    bare: NamespaceHost, leaving: bool
) -> None:
    bare.run(applying(planned(bare)))
    bare.run(confirming())
    bare.run("echo net.ipv4.ip_forward = 1 >/etc/sysctl.d/99-kubernetes.conf")
    bare.run("echo 1 >/proc/sys/net/ipv4/conf/eth0/rp_filter")  # by hand; systemd's own files say 2
    if leaving:
        bare.run(host_script("leave", interface="wg0", forget_keys="no"))
    else:
        bare.run(applying(planned(bare, BY_N2["n1"])))
    values = "cd /proc/sys/net/ipv4; cat ip_forward conf/all/send_redirects conf/eth0/rp_filter"
    assert bare.run(values).split() == ["1", "1", "1"]


def test_a_leaf_remembers_no_sysctls(bare: NamespaceHost) -> None:
    bare.run(applying(planned(bare, BY_N2["n1"])))
    bare.run(confirming())
    assert bare.run("ls /var/lib/isthmus") == ""


# --- leave --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forwarding", ["0", "1"])
def test_leave_takes_off_everything_but_the_key_and_puts_the_sysctls_back(bare: NamespaceHost, forwarding: str) -> None:
    bare.run(f"echo {forwarding} >/proc/sys/net/ipv4/ip_forward")
    before = bare.state()
    bare.run(applying(planned(bare)))
    bare.run(confirming())
    bare.run("wg set wg0 listen-port 4444; systemctl stop wg-quick@wg0; isthmus up wg0 || true")
    bare.run(host_script("leave", interface="wg0", forget_keys="no"))
    assert bare.state() == before
    assert bare.attempt("ls -d /var/lib/isthmus").returncode != 0
    bare.run(host_script("leave", interface="wg0", forget_keys="no"))
    assert bare.state() == before
    bare.run(host_script("leave", interface="wg0", forget_keys="yes"))
    assert bare.run("ls /etc/wireguard") == ""


def test_a_file_that_goes_while_the_probe_looks_is_not_there(meshed: NamespaceHost) -> None:
    going = '#!/bin/sh\n/usr/bin/stat "$@" && eval "rm -f \\"\\${$#}\\""\n'
    meshed.put({"/usr/local/sbin/stat": File(going, 0o755)})  # in its own overlay
    found = facts_of(meshed)
    assert found.files == {}
    assert found.program_sha256 is None
    assert "wg0.conf" not in meshed.run("ls /etc/wireguard")


def test_leave_needs_no_x_bit_on_the_program(bare: NamespaceHost) -> None:
    before = bare.state()
    bare.run(applying(planned(bare)))
    bare.run(confirming())
    bare.run("chmod 644 /usr/local/sbin/isthmus")
    bare.run(host_script("leave", interface="wg0", forget_keys="no"))
    assert bare.state() == before


def test_leave_also_ends_an_unconfirmed_change(bare: NamespaceHost) -> None:
    before = bare.state()
    bare.run(applying(planned(bare)))
    bare.run(host_script("leave", interface="wg0", forget_keys="no"))
    assert bare.state() == before


# --- prepare ------------------------------------------------------------------------------------------------------


def test_prepare_makes_one_key_for_root_only_and_prints_its_public_half() -> None:
    with NamespaceHost() as host:
        told = host.run(f"umask 000; >/etc/wireguard/wg0.key\n{PREPARE}")
        assert re.fullmatch(r"[A-Za-z0-9+/]{43}=\n", told)
        assert host.run("stat -c '%a %n' /etc/wireguard/*") == "600 /etc/wireguard/wg0.key\n"
        key = host.run("cat /etc/wireguard/wg0.key")
        assert host.run("wg pubkey", key) == told
        host.run("chmod 644 /etc/wireguard/wg0.key")
        assert host.run(PREPARE) == told
        assert host.run("cat /etc/wireguard/wg0.key") == key
        assert host.run("stat -c %a /etc/wireguard/wg0.key") == "600\n"


APT = """#!/bin/sh
echo "apt-get $*" >>/run/apt.log
case "$*" in
*update*) >/run/lists ;;
*install*)
    echo 'Reading package lists...'
    [ -e /run/lists ] || { echo 'E: Unable to locate package nothing'; exit 100; } ;;
esac
"""


def test_prepare_reads_the_package_lists_only_when_the_first_try_finds_nothing() -> None:
    script = host_script("prepare", interface="wg0", packages="wireguard-tools iptables", apt_wait=7)
    with NamespaceHost() as host:
        host.put({"/usr/local/sbin/apt-get": File(APT, 0o755)})
        host.run(script)
        first = host.run("cat /run/apt.log; rm /run/apt.log").splitlines()
        assert [line.split()[-1] for line in first] == ["iptables", "update", "iptables"]
        assert all("-o DPkg::Lock::Timeout=7 " in line for line in first)
        host.run(script)
        assert len(host.run("cat /run/apt.log").splitlines()) == 1


def test_prepare_says_what_apt_says_and_makes_no_key() -> None:
    script = host_script("prepare", interface="wg0", packages="nothing", apt_wait=7)
    with NamespaceHost() as host:
        host.put({"/usr/local/sbin/apt-get": File(APT.replace("update*) >/run/lists", "update*) true"), 0o755)})
        done = host.attempt(script)
        assert done.returncode != 0
        assert done.stderr.splitlines()[-1] == "E: Unable to locate package nothing"
        assert "Reading" not in done.stderr
        assert host.run("ls /etc/wireguard") == ""


def test_prepare_waits_for_another_run_that_is_preparing() -> None:
    lock = "/run/isthmus-prepare.lock"
    taken = f"until ! flock -n {lock} true; do sleep 0.02; done"
    with NamespaceHost() as host:
        host.run(f"flock {lock} sh -c 'sleep 1; >/run/done' >/dev/null 2>&1 </dev/null & {taken}")
        host.run(f"{PREPARE}\n[ -e /run/done ]".replace("apt_wait=1", "apt_wait=60"))
        host.run(f"flock {lock} sleep 5 >/dev/null 2>&1 </dev/null & {taken}")
        done = host.attempt(PREPARE)
        assert (done.returncode, done.stderr) == (1, "another run is still installing packages\n")


# --- reach --------------------------------------------------------------------------------------------------------

LISTENER = "import socket, time; s = socket.create_server(('127.0.0.1', 3306)); print('up', flush=True); time.sleep(60)"


def test_reach_tells_milliseconds_by_ping_or_connection_a_refusal_and_a_dash_for_no_answer() -> None:
    script = host_script("reach", count=2, wait_s=1)
    targets = {
        "n1": "172.16.0.1 -",
        "gone": "172.16.0.99 -",
        "mysql": "127.0.0.1 3306",
        "closed": "127.0.0.1 3307",
        "mute": "127.0.0.1 3308",
    }
    with NamespaceHost("172.16.0.1/24") as host:
        host.run("iptables -A INPUT -p tcp --dport 3308 -j DROP")
        host.run(f"{sys.executable} -c {shlex.quote(LISTENER)} </dev/null >/run/said 2>&1 &")
        host.run("until [ -s /run/said ]; do sleep 0.02; done")
        told = host.run(script + "".join(f"to {name} {target}\n" for name, target in targets.items()) + "wait\n")
    answers = dict(line.split() for line in told.splitlines())
    assert answers.keys() == targets.keys()
    assert (answers["gone"], answers["closed"], answers["mute"]) == ("-", "refused", "-")
    assert re.fullmatch(r"\d+\.\d{3}", answers["n1"])
    assert re.fullmatch(r"\d+\.\d{3}", answers["mysql"])
