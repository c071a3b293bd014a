"""The lab keeps its own promises: its clouds are as harsh as real ones, its hosts are bare, nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from isthmus.errors import LabError
from isthmus.lab import HostOptions, Lab, LabOptions, State, cgroups, known_labs, send, take_down
from isthmus.lab.machine import namespaces
from isthmus.model import Host, Inventory, Ssh

pytestmark = pytest.mark.lab

HARSH = LabOptions(hosts={"s1": HostOptions(open_ports=("9000/tcp",))})


@pytest.fixture(scope="module")
def twin(lab: Any) -> Lab:
    """The article's cluster; in front of s1 the security group admits 9000/tcp too."""
    return lab(options=HARSH)


def said(lab: Lab, host: str, command: str) -> str:
    """Return what a command prints on a host, without the last line's end."""
    result = lab.host_run(host, command)
    assert result.returncode == 0, f"{host}: {command}: {result.stderr}"
    return result.stdout.strip()


def reaches(lab: Lab, host: str, address: str, port: int = 22) -> bool:
    """Return whether a host gets a TCP connection within a second."""
    return lab.host_run(host, ["timeout", "1", "bash", "-c", f"</dev/tcp/{address}/{port}"]).returncode == 0


def admin_says(lab: Lab, command: str, **how: Any) -> str:
    result = lab.run(command, capture=True, **how)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


# --- hosts --------------------------------------------------------------------------------------------------------


def test_a_host_is_bare_and_knows_only_its_private_address(twin: Lab) -> None:
    assert said(twin, "n1", "hostname") == "n1"
    assert said(twin, "n1", "for p in wg iptables ping; do command -v $p || true; done") == ""
    addresses = said(twin, "n1", "ip -4 -o address show scope global | awk '{print $2, $4}'")
    assert addresses == "eth0 172.16.0.1/24"
    assert said(twin, "n1", "ip route") == (
        "default via 172.16.0.254 dev eth0 \n172.16.0.0/24 dev eth0 proto kernel scope link src 172.16.0.1"
    )
    assert said(twin, "n1", "systemctl is-system-running --wait") == "running"


def test_apt_installs_what_isthmus_needs_without_internet(lab: Any) -> None:
    own = lab(options=HARSH, key="apt")
    install = "apt-get update && apt-get install -y wireguard-tools iptables iputils-ping"
    result = own.host_run("n1", f"export DEBIAN_FRONTEND=noninteractive; {install}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert said(own, "n1", "command -v wg-quick iptables-restore ping") != ""
    assert "bytes from 172.16.0.2" in said(own, "n1", "ping -c 1 172.16.0.2")


def test_same_site_hosts_reach_each_other_and_the_resource_sees_who_comes(twin: Lab) -> None:
    assert reaches(twin, "n1", "172.16.0.3")
    before = len(twin.resource_peers("mysql"))
    assert said(twin, "s1", "timeout 2 bash -c 'head -1 </dev/tcp/172.16.128.50/3306'") == "172.16.128.1"
    seen = twin.resource_peers("mysql")[before:]
    assert [(client.protocol, client.address) for client in seen] == [("tcp", IPv4Address("172.16.128.1"))]


# --- clouds -------------------------------------------------------------------------------------------------------


def test_same_site_bytes_never_touch_the_uplink(twin: Lab) -> None:
    sent = send(twin, "n2", "n3", 20_000_000)
    assert sent.uplinks["nanjing"].sent < 10_000
    assert sent.uplinks["nanjing"].received < 10_000


def test_bytes_between_sites_are_counted_once_on_each_uplink(twin: Lab) -> None:
    receiver = subprocess.Popen(
        twin.host_command("s1", ["timeout", "20", "python3", "-c", RECEIVE]), stdout=subprocess.PIPE, text=True
    )
    with receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        before = twin.counters()
        said(twin, "n1", "head -c 5000000 /dev/zero | timeout 20 bash -c 'cat >/dev/tcp/203.0.113.129/9000'")
        # 1:1 NAT: s1 sees n1's public address
        assert receiver.stdout.read() == "203.0.113.1 5000000\n"
    after = twin.counters()
    nanjing, shanghai = after["nanjing"].sent - before["nanjing"].sent, after["shanghai"].received
    assert 5_000_000 < nanjing < 5_500_000
    assert 5_000_000 < shanghai - before["shanghai"].received < 5_500_000


RECEIVE = """
import socket
server = socket.create_server(("", 9000))
print("ready", flush=True)
connection, (address, _) = server.accept()
count = 0
while data := connection.recv(65536):
    count += len(data)
print(address, count)
"""


def test_private_addresses_never_cross_the_internet(twin: Lab) -> None:
    before = twin.drops()["nanjing"]["private"]
    assert not reaches(twin, "n1", "172.16.128.1")
    assert twin.drops()["nanjing"]["private"] > before


def test_the_security_group_admits_ssh_and_the_mesh_and_nothing_else(twin: Lab) -> None:
    admin_says(twin, "timeout 5 bash -c '</dev/tcp/203.0.113.1/22'")
    server = twin.host_command("n1", ["timeout", "60", "python3", "-u", "-m", "http.server", "80"])
    with subprocess.Popen(server, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Serving")
        assert reaches(twin, "n2", "172.16.0.1", 80)
        before = twin.drops()["nanjing"]["refused"]
        assert twin.run("timeout 1 bash -c '</dev/tcp/203.0.113.1/80'", capture=True).returncode == 124
        assert twin.drops()["nanjing"]["refused"] > before
        process.terminate()
    for port, dropped in ((51821, 1), (51820, 0)):
        before = twin.drops()["nanjing"]["refused"]
        twin.run(f"echo >/dev/udp/203.0.113.1/{port}", capture=True)
        assert twin.drops()["nanjing"]["refused"] == before + dropped


def test_a_host_without_public_address_reaches_only_its_site(twin: Lab) -> None:
    assert reaches(twin, "n2", "203.0.113.129")
    before = twin.drops()["nanjing"]["unroutable"]
    assert not reaches(twin, "n3", "203.0.113.129")
    assert twin.drops()["nanjing"]["unroutable"] > before


SEND = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('{}', 0)); s.sendto(b'x', ('172.16.0.3', 9))"
LISTEN = """
import socket
listener = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
print("ready", flush=True)
while True:
    print(listener.recvfrom(999)[1][0], flush=True)
"""


def send_as(lab: Lab, *addresses: str) -> None:
    """Let n2 send n3 a packet from each address."""
    said(lab, "n2", "ip address replace 10.9.9.9/32 dev lo")
    for address in addresses:
        assert lab.host_run("n2", ["python3", "-c", SEND.format(address)]).returncode == 0


def test_a_source_that_is_not_the_senders_is_dropped_unless_the_cloud_lets_it_pass(twin: Lab, lab: Any) -> None:
    before = twin.drops()["nanjing"]["spoofed"]
    send_as(twin, "172.16.0.2", "10.9.9.9")
    assert twin.drops()["nanjing"]["spoofed"] == before + 1
    lenient = lab(options=HostOptions(anti_spoofing=False, rp_filter=0))
    command = lenient.host_command("n3", ["timeout", "20", "python3", "-c", LISTEN])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        send_as(lenient, "172.16.0.2", "10.9.9.9")
        assert [listener.stdout.readline() for _ in range(2)] == ["172.16.0.2\n", "10.9.9.9\n"]
        listener.kill()


def test_a_cut_host_and_a_cut_site_are_silent_until_healed(twin: Lab) -> None:
    twin.cut("n2")
    assert not reaches(twin, "n1", "172.16.0.2")
    twin.heal("n2")
    assert reaches(twin, "n1", "172.16.0.2")
    twin.cut("shanghai")
    assert not reaches(twin, "n1", "203.0.113.129")
    assert reaches(twin, "n1", "172.16.0.2")
    twin.heal("shanghai")
    twin.heal("shanghai")
    assert reaches(twin, "n1", "203.0.113.129")


# --- the admin workstation ----------------------------------------------------------------------------------------


def test_the_admin_logs_in_with_the_labs_key_and_verified_host_keys(twin: Lab) -> None:
    strict = "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes"
    assert admin_says(twin, f"{strict} n1 hostname") == "n1"
    assert admin_says(twin, f"{strict} 203.0.113.129 hostname") == "s1"
    assert admin_says(twin, f"{strict} -J 203.0.113.1 172.16.0.3 hostname") == "n3"
    paramiko = (
        "import paramiko; c = paramiko.SSHClient(); c.load_system_host_keys();"
        " c.set_missing_host_key_policy(paramiko.RejectPolicy()); c.connect('203.0.113.2', username='root');"
        " print(c.exec_command('hostname')[1].read().decode()); c.close()"
    )
    assert admin_says(twin, f'{sys.executable} -W ignore -c "{paramiko}"') == "n2"


def test_a_command_of_the_admin_keeps_what_surrounds_it(twin: Lab, tmp_path: Path) -> None:
    script = 'read word; echo "$word $PWD $COLOUR ${SSH_AUTH_SOCK-none}"; echo complaint >&2; exit 7'
    environment = {**os.environ, "COLOUR": "green", "SSH_AUTH_SOCK": "/nowhere"}
    result = twin.run(script, capture=True, text="hello\n", env=environment, cwd=tmp_path)
    assert (result.stdout, result.stderr, result.returncode) == (f"hello {tmp_path} green none\n", "complaint\n", 7)
    assert admin_says(twin, "ls ~/.ssh").split() == ["id_ed25519", "id_ed25519.pub", "known_hosts"]


def test_killing_a_command_of_the_admin_kills_the_command_itself(twin: Lab) -> None:
    with subprocess.Popen(twin.admin_command(["sleep", "1000"])) as process:
        name = Path(f"/proc/{process.pid}/comm")
        while name.read_text(encoding="ascii") != "sleep\n":
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL


# --- switching hosts on and off -----------------------------------------------------------------------------------


def boot_ids(lab: Lab) -> dict[str, str]:
    return {host: said(lab, host, "cat /proc/sys/kernel/random/boot_id") for host in lab.inventory.hosts}


CLUTTER = (
    "ip link add clutter type dummy; ip rule add priority 7 lookup 7; sysctl -qw net.ipv4.ip_forward=1;"
    " echo x >/root/kept"
)


def test_a_reboot_leaves_the_disk_and_nothing_in_the_kernel(twin: Lab) -> None:
    before = boot_ids(twin)
    mac = said(twin, "n2", "cat /sys/class/net/eth0/address")
    for host in ("n2", "s1"):
        said(twin, host, CLUTTER)
    twin.reboot("n2", "s1")
    after = boot_ids(twin)
    assert {host for host in before if before[host] != after[host]} == {"n2", "s1"}
    for host in ("n2", "s1"):
        assert said(twin, host, "ls /root") == "kept"
        assert "clutter" not in said(twin, host, "ip link")
        assert "lookup 7" not in said(twin, host, "ip rule")
        assert said(twin, host, "sysctl -n net.ipv4.ip_forward") == "0"
    assert said(twin, "n2", "cat /sys/class/net/eth0/address") == mac
    assert reaches(twin, "n1", "172.16.0.2")


def test_a_command_that_is_stopped_in_a_host_goes_on(twin: Lab) -> None:
    """As every process of a host that shuts down is stopped for a moment: nobody else would wake it."""
    ended = twin.host_run("n1", "kill -STOP $$; cat; exit 3", text="on", timeout=60)
    assert (ended.returncode, ended.stdout) == (3, "on")


def test_a_host_that_reboots_itself_comes_back_as_new(twin: Lab) -> None:
    before = boot_ids(twin)["n3"]
    said(twin, "n3", CLUTTER)
    twin.host_run("n3", "systemctl reboot")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if said(twin, "n3", "cat /proc/sys/kernel/random/boot_id") != before and reaches(twin, "n1", "172.16.0.3"):
                break
        except (LabError, AssertionError):
            pass
        time.sleep(0.1)
    assert "clutter" not in said(twin, "n3", "ip link")
    assert twin.status().hosts["n3"] is State.UP


def test_a_stopped_host_answers_nobody_and_starts_again(twin: Lab) -> None:
    twin.stop("n3", hard=True)
    status = twin.status()
    assert status.hosts == {"n1": State.UP, "n2": State.UP, "n3": State.OFF, "s1": State.UP}
    assert not status.up
    assert not reaches(twin, "n1", "172.16.0.3")
    with pytest.raises(LabError, match="n3 is off"):
        twin.host_run("n3", "true")
    twin.start("n3", "n1")
    assert twin.status().up


# --- building -----------------------------------------------------------------------------------------------------


def test_up_again_changes_nothing(twin: Lab) -> None:
    before = boot_ids(twin), twin.counters()["nanjing"].sent > 0
    twin.up()
    assert (boot_ids(twin), twin.counters()["nanjing"].sent > 0) == before


def test_up_with_another_inventory_touches_only_what_differs(lab: Any, article: Inventory) -> None:
    own = lab(key="changing")
    before = boot_ids(own)
    key = own.run("ssh -o BatchMode=yes n1 true", capture=True)
    assert key.returncode == 0
    hosts = {name: host for name, host in article.hosts.items() if name != "n2"}
    hosts["n1"] = replace(hosts["n1"], public=IPv4Address("203.0.113.77"))
    hosts["n4"] = Host("n4", "nanjing", IPv4Address("172.16.0.4"))
    changed = Lab(replace(article, hosts=hosts), own.names.name)
    changed.up()
    after = boot_ids(changed)
    assert {name: after[name] for name in ("n1", "n3", "s1")} == {name: before[name] for name in ("n1", "n3", "s1")}
    assert reaches(changed, "n1", "172.16.0.4")
    assert not reaches(changed, "n1", "172.16.0.2")
    assert reaches(changed, "s1", "203.0.113.77")
    assert not reaches(changed, "s1", "203.0.113.1")
    assert said(changed, "n1", "ip -4 -o address show eth0 | wc -l") == "1"
    assert admin_says(changed, "ssh -o BatchMode=yes n1 hostname") == "n1"


def test_two_labs_of_the_same_addresses_do_not_meet(twin: Lab, lab: Any) -> None:
    other = lab(options=HARSH, key="other")
    said(other, "n2", "touch /root/other")
    assert twin.host_run("n2", "ls /root/other").returncode != 0
    assert admin_says(twin, "ssh -o BatchMode=yes n2 'ls /root'") in ("", "kept")
    assert admin_says(other, "ssh -o BatchMode=yes n2 'ls /root'") == "other"


# --- what can vary ------------------------------------------------------------------------------------------------


def test_hosts_vary_as_asked(lab: Any, article: Inventory) -> None:
    hosts = dict(article.hosts)
    hosts["n2"] = replace(hosts["n2"], ssh=Ssh("debian", 2222))
    hosts["n3"] = replace(hosts["n3"], ssh=Ssh("debian"))
    options = LabOptions(
        default=HostOptions(suite="bullseye", docker=True, rp_filter=0),
        sites={"shanghai": HostOptions(nic="ens5", metric=100, mtu=8500, rp_filter=2, packages=True)},
        hosts={"n2": HostOptions(suite="trixie"), "n3": HostOptions(sudo_password="secret word")},
    )
    varied = lab(replace(article, hosts=hosts), options)

    assert said(varied, "n1", ". /etc/os-release; echo $VERSION_ID") == "11"
    assert "172.17.0.1/16" in said(varied, "n1", "ip -4 address show docker0")
    assert "-P FORWARD DROP" in said(varied, "n1", "iptables -S FORWARD")
    assert said(varied, "n1", "sysctl -n net.ipv4.conf.eth0.rp_filter net.ipv4.conf.all.rp_filter").split() == [
        "0",
        "0",
    ]

    assert said(varied, "n2", ". /etc/os-release; echo $VERSION_ID") == "13"
    assert said(varied, "n2", "sysctl -n net.ipv4.conf.eth0.rp_filter") == "1"
    assert admin_says(varied, "ssh -o BatchMode=yes -p 2222 debian@n2 'id -un; sudo -n id -un; pwd'").split() == [
        *("debian", "root", "/home/debian")
    ]
    assert varied.run("ssh -o BatchMode=yes -p 2222 root@n2 true", capture=True).returncode == 255

    jump = "ssh -o BatchMode=yes -J root@n1 debian@172.16.0.3"
    assert varied.run(f"{jump} sudo -n true", capture=True).returncode == 1
    assert admin_says(varied, f"{jump} 'sudo -S -p none id -un'", text="secret word\n") == "root"

    assert said(varied, "s1", "ip route") == (
        "default via 172.16.128.254 dev ens5 metric 100 \n"
        "172.16.128.0/24 dev ens5 proto kernel scope link src 172.16.128.1 metric 100"
    )
    assert said(varied, "s1", "cat /sys/class/net/ens5/mtu") == "8500"
    assert said(varied, "s1", "sysctl -n net.ipv4.conf.ens5.rp_filter") == "2"
    assert said(varied, "s1", "command -v wg iptables ping").split() != []
    # a packet too large for the uplink is answered with ICMP, not swallowed
    assert "mtu = 1500" in varied.host_run("s1", "ping -c 1 -M do -s 3000 203.0.113.1").stdout

    varied.reboot(*varied.inventory.hosts)
    assert "-P FORWARD DROP" in said(varied, "n1", "iptables -S FORWARD")
    assert "metric 100" in said(varied, "s1", "ip route")


@pytest.mark.parametrize("suite", ["bullseye", "bookworm", "trixie"])
def test_wireguard_runs_on_every_debian(lab: Any, suite: str) -> None:
    host = lab(options=LabOptions(
        HostOptions(packages=True),
        hosts={"n2": HostOptions(suite="trixie", packages=True), "n3": HostOptions(suite="bullseye", packages=True)},
    ))  # fmt: skip
    name = {"bookworm": "n1", "trixie": "n2", "bullseye": "n3"}[suite]
    said(host, name, "umask 077; printf '[Interface]\\nAddress = 10.9.9.9/32\\n' >/etc/wireguard/wg7.conf")
    said(host, name, "systemctl start wg-quick@wg7")
    assert said(host, name, "wg show interfaces") == "wg7"
    said(host, name, "systemctl stop wg-quick@wg7")
    assert said(host, name, "wg show interfaces") == ""


# --- taking down --------------------------------------------------------------------------------------------------


def remains(name: str) -> list[str]:
    """Return everything on this machine that bears the lab's name."""
    found = list(namespaces(f"isthmus.{name}."))
    found += [
        line for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines() if f"/{name}" in line
    ]
    found += [path for path, _, _ in os.walk("/sys/fs/cgroup") if f"/isthmus-lab/{name}" in path]
    found += [
        str(path) for path in (Path("/run/isthmus-lab", name), Path("/var/lib/isthmus-lab", name)) if path.exists()
    ]
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if f"/{name}/".encode() in words or f"={name}.".encode() in words or f"isthmus.{name}.".encode() in words:
                found.append(words.replace(b"\0", b" ").decode())
    return found


@pytest.fixture
def running(lab: Any) -> Iterator[Lab]:
    planned = lab.plan()
    planned.up()
    yield planned
    take_down(planned.names.name)


def test_down_leaves_nothing(running: Lab) -> None:
    name = running.names.name
    assert len(remains(name)) > 20
    with subprocess.Popen(running.admin_command(["sleep", "1000"])) as process:
        running.down()
        assert process.wait() == -signal.SIGKILL
    assert remains(name) == []
    assert name not in known_labs()
    running.down()
    with pytest.raises(LabError, match="is not up"):
        running.run("true")


def test_down_leaves_nothing_after_its_processes_were_killed(running: Lab) -> None:
    name = running.names.name
    for pid in cgroups.processes(name):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.down()
    assert remains(name) == []


@pytest.mark.parametrize("milliseconds", [150, 400, 700, 1000, 1500, 2200])
def test_a_lab_whose_building_was_killed_can_be_built_and_removed(lab: Any, milliseconds: int) -> None:
    planned = lab.plan()
    name = planned.names.name
    script = (
        "from isthmus.inventory import load_inventory; from isthmus.lab import Lab;"
        f" Lab(load_inventory('hosts.toml'), {name!r}).up()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    time.sleep(milliseconds / 1000)
    process.kill()
    process.wait()
    if milliseconds in (400, 1500):
        planned.up()
        assert planned.status().up
    planned.down()
    assert remains(name) == []
