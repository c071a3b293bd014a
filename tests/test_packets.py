"""Which packets arrive: the scripts for real, on a host whose loopback is the path; and hosts in memory."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from fake_host import FakeFleet
from namespace_host import NamespaceHost

from isthmus.errors import HostError
from isthmus.host_scripts import host_script
from isthmus.inventory import load_inventory
from isthmus.packets import IDLE_S, Question, answering, ask, new_token

TOKEN = "0123456789abcdef"
ADDRESS = "172.16.0.1"


@pytest.fixture(scope="module")
def host() -> Iterator[NamespaceHost]:
    """A host that answers at 51820/udp, where WireGuard's interface is too, and whose loopback carries 1492 bytes."""
    with NamespaceHost(f"{ADDRESS}/24") as host:
        host.run("ip link set lo mtu 1492")
        host.run(host_script("answer", port=51820, token=TOKEN, idle_s=60))
        yield host


def found(host: NamespaceHost, *lines: str, token: str = TOKEN) -> dict[str, str]:
    script = host_script("largest", token=token, tries=1, wait_s=1)
    told = host.run(f"{script}{''.join(f'to {line}{chr(10)}' for line in lines)}wait\n")
    return dict(line.split() for line in told.splitlines())


# --- the scripts --------------------------------------------------------------------------------------------------


def test_the_largest_packet_is_found_to_the_byte_by_datagram_and_by_ping(host: NamespaceHost) -> None:
    asked = [f"{most} {ADDRESS} {port} 576 {most}" for port in ("-", "51820") for most in (1493, 1494, 1495, 1600)]
    assert set(found(host, *asked[:4]).values()) == {"1492"}
    assert set(found(host, *asked[4:]).values()) == {"1492"}


def test_no_more_is_claimed_than_was_asked_for(host: NamespaceHost) -> None:
    asked = (f"udp {ADDRESS} 51820 576 1420", f"ping {ADDRESS} - 576 1420", f"over {ADDRESS} - 1493 1493")
    assert found(host, *asked) == {"udp": "1420", "ping": "1420", "over": "-"}


def test_another_port_and_another_runs_token_have_no_answer(host: NamespaceHost) -> None:
    assert found(host, f"port {ADDRESS} 51821 100 100") == {"port": "-"}
    assert found(host, f"token {ADDRESS} 51820 100 100", token="0123456789abcdee") == {"token": "-"}


def test_what_the_hosts_firewall_drops_has_no_answer_though_a_flow_is_open(host: NamespaceHost) -> None:
    host.run("iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT")
    host.run("iptables -A INPUT -p udp --dport 51820 -j DROP")
    try:
        assert found(host, f"udp {ADDRESS} 51820 100 100") == {"udp": "-"}
    finally:
        host.run("iptables -F INPUT")
    assert found(host, f"udp {ADDRESS} 51820 100 100") == {"udp": "100"}


def test_a_program_at_the_port_is_not_disturbed_and_answering_ends_by_itself_or_when_told(host: NamespaceHost) -> None:
    """As WireGuard's, its socket gets what it would get anyway; nothing keeps the port from being bound."""
    host.run(
        "perl -MSocket -e 'socket S, PF_INET, SOCK_DGRAM, 0; bind S, sockaddr_in(51830, INADDR_ANY) or die;"
        ' fork and exit; close STDOUT; close STDERR; alarm 20; recv S, $_, 99, 0; open F, ">/run/heard"; print F $_\''
    )
    pids = [host.run(host_script("answer", port=51830, token=TOKEN, idle_s=idle_s)).strip() for idle_s in (1, 60)]
    assert found(host, f"udp {ADDRESS} 51830 100 100") == {"udp": "100"}
    assert host.run("cat /run/heard").startswith(TOKEN)
    deadline = time.monotonic() + 20
    while host.attempt(f"grep -q {TOKEN} /proc/{pids[0]}/cmdline").returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    host.run(host_script("hush", pid=pids[1], token="another"))
    assert host.attempt(f"grep -q {TOKEN} /proc/{pids[1]}/cmdline").returncode == 0
    host.run(host_script("hush", pid=pids[1], token=TOKEN))
    assert found(host, f"udp {ADDRESS} 51830 100 100") == {"udp": "-"}


# --- hosts in memory ----------------------------------------------------------------------------------------------


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet(load_inventory(Path(__file__).parent.parent / "hosts.toml"))


QUESTION = Question("tunnel:s1", IPv4Address("203.0.113.129"), 51820, 576, 1500)


def test_all_of_a_hosts_questions_are_one_round_trip(fleet: FakeFleet) -> None:
    ping = Question("pair:n2", IPv4Address("172.16.0.2"), None, 576, 1420)
    fleet["n1"].carries = {"tunnel:s1": 1492, "pair:n2": None}
    assert ask(fleet, {"n1": [QUESTION, ping]}, TOKEN) == {"n1": {"tunnel:s1": 1492, "pair:n2": None}}  # type: ignore[arg-type]
    (script,) = fleet.scripts
    assert script.endswith("to tunnel:s1 203.0.113.129 51820 576 1500\nto pair:n2 172.16.0.2 - 576 1420\nwait\n")
    assert fleet.timeouts[0] > QUESTION.seconds >= 33


def test_hosts_answer_longer_than_any_question_takes() -> None:
    assert QUESTION.seconds < IDLE_S / 2


def test_hosts_answer_while_they_are_asked_and_who_cannot_is_told(fleet: FakeFleet) -> None:
    fleet["n2"].answers_not = "sh: 1: perl: not found"
    failures: dict[str, HostError] = {}
    with answering(fleet, ["n1", "n2"], 51820, TOKEN, failures):  # type: ignore[arg-type]
        assert (fleet["n1"].answering, fleet["n2"].answering) == ({("4751820", TOKEN)}, set())
    assert fleet["n1"].answering == set()
    assert {name: error.message for name, error in failures.items()} == {
        "n2": "answer: status 1: sh: 1: perl: not found"
    }


def test_nonsense_is_a_failure_of_its_host(fleet: FakeFleet) -> None:
    fleet["n1"]._largest = lambda inputs, tail: "tunnel:s1 much\n"  # type: ignore[method-assign]
    error = ask(fleet, {"n1": [QUESTION]}, TOKEN)["n1"]  # type: ignore[arg-type]
    assert isinstance(error, HostError)
    assert error.message.startswith("largest: the answer makes no sense: ")


def test_a_token_is_new_and_looks_like_no_message_of_wireguard() -> None:
    assert re.fullmatch("[0-9a-f]{16}", new_token())
    assert new_token() != new_token()
