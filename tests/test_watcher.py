"""files/usr/local/sbin/isthmus-watch for real, on hosts in namespaces, fed with answers that the test makes up."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from namespace_host import NamespaceHost
from test_host_program import public_key

from isthmus.compile import compile_mesh
from isthmus.inventory import parse_inventory
from isthmus.observe import parse_probe
from isthmus.plan import plan_host
from isthmus.render import WATCHER, File, render_host

TWO = (Path(__file__).parent / "golden" / "two_gateways" / "hosts.toml").read_text(encoding="utf-8")
THIRD = """
[sites.beijing]
subnet   = "172.17.0.0/24"
gateways = ["b1"]

[hosts.b1]
site    = "beijing"
address = "172.17.0.1"
public  = "203.0.113.65"
"""
MANUAL = TWO.replace('gateways = ["n1", "n2"]', 'gateways = ["n1", "n2"]\nfailback = "manual"')
PRIVATE = {
    name: letter * 42 + "A=" for name, letter in zip(("n1", "n2", "n3", "s1", "s2", "b1"), "abcdef", strict=True)
}
PUBLIC_OF = {name: public_key(private) for name, private in PRIVATE.items()}

S1_BY_N1, S1_BY_N2 = "64 bytes from 244.16.128.1", "64 bytes from 172.16.128.1"
B1_BY_N1, B1_BY_N2 = "64 bytes from 244.17.0.1", "64 bytes from 172.17.0.1"
N3 = "64 bytes from 172.16.0.3"
FIRST, SECOND = "191 bytes from 172.16.0.2", "193 bytes from 172.16.0.2"
"""What n2 answers while n1 is in charge, and while it is itself."""
TICK = "64 bytes from 127.0.0.1"
SECONDS = 4
"""Ticks in one."""

TAKEN = "nanjing: n2 is in charge: n1 does not reach shanghai, n2 does"
GIVEN_BACK = "nanjing: n1 is in charge: it has been well for 60 s"


def ticks(seconds: float, *answers: str) -> str:
    """Return what ping prints in so many seconds in which these answer: `64 bytes from 172.16.0.3: icmp_seq=1 …`."""
    lines = [f"{answer}: icmp_seq=1 ttl=64 time=0.1 ms\n" for answer in (*answers, TICK)]
    return "".join(lines) * int(seconds * SECONDS)


def lossy(seconds: float, seed: int, share: float, *answers: str) -> str:
    """Return the same with this share of the answers lost."""
    chance = random.Random(seed)
    return "".join(
        ticks(1 / SECONDS, *(a for a in answers if chance.random() >= share)) for _ in range(seconds * SECONDS)
    )


@cache
def files(name: str, text: str) -> dict[str, File]:
    return render_host(compile_mesh(parse_inventory(text, "hosts.toml"))[name], PUBLIC_OF)


class Watching:
    """A host in namespaces with its mesh up, and its watcher as the test drives it."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.host = NamespaceHost(f"{address}/24")
        self.host.put(
            {"/usr/bin/logger": File('#!/bin/sh\n[ "$1 $2" = "-t isthmus" ] && echo "$3" >>/run/logged\n', 0o755)}
        )
        self.host.put_key(PRIVATE[name])
        self.become(TWO)

    def become(self, text: str) -> None:
        """Begin anew with this inventory, n1 in charge."""
        self.host.put(files(self.name, text))
        self.host.run(
            "rm -rf /run/isthmus/wg0/* /run/isthmus/wg0.back; isthmus sync wg0; : >/run/logged; rm -f /run/wg.log"
        )

    def judge(self, *lines: str) -> list[str]:
        """Let the watcher see this from its start to its end; return what it has logged since."""
        self.host.run(": >/run/logged; isthmus-watch wg0 judge", "".join(lines))
        return self.host.run("cat /run/logged").splitlines()

    def answers(self) -> str:
        """Return to whom an echo request of which length gets no answer."""
        return self.host.run(
            "iptables -t mangle -S ISTHMUS-WATCH | sed -n 's/.*--length \\([0-9]*\\) -j DROP/\\1/p'"
        ).strip()


@pytest.fixture(scope="module")
def _n2() -> Iterator[Watching]:
    watching = Watching("n2", "172.16.0.2")
    yield watching
    watching.host.close()


@pytest.fixture
def n2(_n2: Watching) -> Watching:
    _n2.become(TWO)
    return _n2


@pytest.fixture(scope="module")
def _s1() -> Iterator[Watching]:
    watching = Watching("s1", "172.16.128.1")
    yield watching
    watching.host.close()


@pytest.fixture
def s1(_s1: Watching) -> Watching:
    _s1.become(TWO)
    return _s1


# --- the second gateway decides -----------------------------------------------------------------------------------

ALL = (S1_BY_N1, S1_BY_N2, N3)
N1_SILENT = (S1_BY_N2, N3)
LENGTH_OF_FIRST, LENGTH_OF_SECOND = "211", "213"


def test_while_all_is_well_the_second_says_that_the_first_is_in_charge(n2: Watching) -> None:
    assert n2.judge(ticks(120, *ALL)) == []
    assert n2.answers() == LENGTH_OF_SECOND


def test_five_seconds_of_silence_put_the_second_in_charge_and_less_does_not(n2: Watching) -> None:
    assert n2.judge(ticks(20, *ALL), ticks(4.5, *N1_SILENT), ticks(20, *ALL)) == []
    assert n2.judge(ticks(20, *ALL), ticks(5.25, *N1_SILENT)) == [TAKEN]
    assert n2.answers() == LENGTH_OF_FIRST
    note = n2.host.run("cat /run/isthmus/wg0/nanjing").split()
    assert note[:2] == ["nanjing", "n2"]
    assert " ".join(note[3:]) == "n1 does not reach shanghai, n2 does"


@pytest.mark.parametrize("seed", range(3))
def test_a_third_of_all_packets_lost_each_way_moves_nobody(n2: Watching, seed: int) -> None:
    assert n2.judge(ticks(20, *ALL), lossy(600, seed, 0.51, *ALL)) == []


def test_a_site_that_neither_reaches_moves_nobody_and_may_come_back_by_the_second_first(n2: Watching) -> None:
    assert n2.judge(ticks(20, *ALL), ticks(60, N3), ticks(9, *N1_SILENT), ticks(60, *ALL)) == []
    assert n2.judge(ticks(20, *ALL), ticks(60, N3), ticks(11, *N1_SILENT)) == [TAKEN]


@pytest.mark.parametrize(
    "trouble",
    [ticks(60, S1_BY_N2), ticks(60, N3), ticks(60)],
    ids=["its leaves are silent", "nobody answers", "silence"],
)
def test_trouble_of_its_own_does_not_put_the_second_in_charge(n2: Watching, trouble: str) -> None:
    assert n2.judge(ticks(20, *ALL), trouble) == []


def test_who_does_not_forward_takes_nothing(n2: Watching) -> None:
    n2.host.run("echo 0 >/proc/sys/net/ipv4/ip_forward")
    assert n2.judge(ticks(20, *ALL), ticks(60, *N1_SILENT)) == []


def test_a_second_that_reaches_less_elsewhere_takes_nothing(n2: Watching) -> None:
    n2.become(TWO + THIRD)
    both = (S1_BY_N1, S1_BY_N2, B1_BY_N1, B1_BY_N2, N3)
    assert n2.judge(ticks(20, *both), ticks(60, S1_BY_N2, B1_BY_N1, N3)) == []
    assert n2.judge(ticks(20, *both), ticks(60, S1_BY_N2, B1_BY_N1, B1_BY_N2, N3)) == [TAKEN]


TAKING = ticks(20, *ALL) + ticks(6, *N1_SILENT)


def test_after_a_minute_without_a_gap_the_first_is_in_charge_again(n2: Watching) -> None:
    assert n2.judge(TAKING, ticks(59, *ALL)) == [TAKEN]
    assert n2.judge(ticks(50, *ALL), ticks(6, *N1_SILENT), ticks(50, *ALL)) == []  # begun anew, it goes on where it was
    assert n2.answers() == LENGTH_OF_FIRST
    assert n2.judge(ticks(61, *ALL)) == [GIVEN_BACK]
    assert n2.answers() == LENGTH_OF_SECOND


def test_where_failback_is_manual_it_is_asked_for(n2: Watching) -> None:
    n2.become(MANUAL)
    assert n2.judge(TAKING, ticks(300, *ALL)) == [TAKEN]
    n2.host.run("touch /run/isthmus/wg0.back")
    assert n2.judge(ticks(20, *N1_SILENT)) == []  # not well: the wish is forgotten
    assert n2.judge(ticks(20, *ALL)) == []
    n2.host.run("touch /run/isthmus/wg0.back")
    assert n2.judge(ticks(20, *ALL)) == ["nanjing: n1 is in charge: as was asked for"]


def test_a_second_that_fails_itself_gives_back_at_once(n2: Watching) -> None:
    by_first = "nanjing: n1 is in charge: n2 does not reach shanghai, n1 does"
    assert n2.judge(TAKING, ticks(6, *ALL), ticks(6, S1_BY_N1, N3)) == [TAKEN, by_first]
    n2.become(TWO)
    assert n2.judge(TAKING, ticks(60, N3)) == [TAKEN]  # nobody is reached by either: there is nothing to gain
    assert n2.judge(ticks(6)) == ["nanjing: n1 is in charge: n2 reaches nobody"]
    n2.become(TWO)
    assert n2.judge(TAKING) == [TAKEN]
    n2.host.run("ip link set down dev wg0")
    assert n2.judge(ticks(1, *N1_SILENT)) == ["nanjing: n1 is in charge: n2 does not forward, or its wg0 is down"]


def test_what_ping_says_besides_is_not_an_answer(n2: Watching) -> None:
    noise = "PING 244.16.128.1 (244.16.128.1) from 252.16.0.2 : 56(84) bytes of data.\n"
    noise += "From 172.16.0.1 icmp_seq=1 Destination Host Unreachable\n64 bytes from $(reboot): icmp_seq=1\n\n"
    silent = (noise + ticks(1 / SECONDS, *N1_SILENT)) * 6 * SECONDS
    assert n2.judge(ticks(20, *ALL), silent) == [TAKEN]


# --- the others follow --------------------------------------------------------------------------------------------


def subnet_owner(watching: Watching) -> str:
    """Return whose peer has all of Nanjing, as wg says."""
    shown = watching.host.run("wg show wg0 allowed-ips").splitlines()
    (owner,) = (line.split("\t")[0] for line in shown if "172.16.0.0/24" in line)
    return {key: name for name, key in PUBLIC_OF.items()}[owner]


SAYS_SO = ["nanjing: n2 is in charge: n2 says so"]


def test_a_follower_moves_when_it_is_told_and_back(s1: Watching) -> None:
    assert s1.judge(ticks(20, FIRST)) == []
    assert subnet_owner(s1) == "n1"
    assert s1.judge(ticks(20, FIRST), ticks(1.25, SECOND)) == SAYS_SO
    assert subnet_owner(s1) == "n2"
    assert "172.16.0.1/32 252.16.0.2/32" in s1.host.run("wg show wg0 allowed-ips")
    assert s1.judge(ticks(20, SECOND), ticks(1.25, FIRST)) == ["nanjing: n1 is in charge: n2 says so"]
    assert subnet_owner(s1) == "n1"


def test_a_follower_that_hears_nothing_for_five_seconds_goes_back_to_the_first(s1: Watching) -> None:
    assert s1.judge(ticks(5, SECOND), ticks(4.5), ticks(5, SECOND)) == SAYS_SO
    assert s1.judge(ticks(5, SECOND), ticks(6)) == ["nanjing: n1 is in charge: n2 has not said for 5 s that it is"]
    assert subnet_owner(s1) == "n1"


def test_a_follower_believes_nobody_who_says_both(s1: Watching) -> None:
    assert s1.judge(ticks(20, SECOND, FIRST), ticks(0.25, SECOND), ticks(20, FIRST, SECOND)) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_follower_is_not_moved_by_losses(s1: Watching, seed: int) -> None:
    assert s1.judge(lossy(300, seed, 0.51, FIRST)) == []
    assert s1.judge(ticks(2, SECOND), lossy(300, seed, 0.51, SECOND)) == SAYS_SO


def test_what_has_moved_is_kept_by_sync_and_is_no_drift(s1: Watching) -> None:
    assert s1.judge(ticks(5, SECOND)) == SAYS_SO
    s1.host.run("isthmus sync wg0; isthmus up wg0; isthmus sync wg0")
    assert subnet_owner(s1) == "n2"
    facts = parse_probe("s1", "wg0", s1.host.probe())
    assert facts.watching
    assert facts.charges["nanjing"].gateway == "n2"
    config = compile_mesh(parse_inventory(TWO, "hosts.toml"))["s1"]
    assert plan_host(config, files("s1", TWO), PUBLIC_OF, facts).changes == ()
    # where n2 is first in hosts.toml what was noted means nothing new
    s1.become(TWO.replace('["n1", "n2"]', '["n2", "n1"]'))
    assert subnet_owner(s1) == "n2"


def test_the_watcher_comes_and_goes_with_its_file_and_leaves_nothing(n2: Watching) -> None:
    unit = "systemctl -q is-active isthmus-watch-wg0.service"
    assert n2.judge(TAKING) == [TAKEN]
    n2.host.run(unit)
    log = "grep -c 'systemd-run.*isthmus-watch-wg0' /run/systemd.log"
    before = n2.host.run(log)
    n2.host.run("isthmus sync wg0")
    assert n2.host.run(log) == before, "one that runs is left alone"
    n2.become(MANUAL)
    assert n2.host.run(log) != before, "one that watched something else is not"
    n2.host.run(f"rm /etc/isthmus/wg0.watch {WATCHER}; isthmus sync wg0")
    assert n2.host.attempt(unit).returncode != 0
    assert "ISTHMUS-WATCH" not in n2.host.run("iptables-save")
    assert "No such file" in n2.host.attempt("ls /run/isthmus").stderr
    n2.become(TWO)
    n2.host.run("mkdir -p /var/lib/isthmus; rm -rf /var/lib/isthmus/*")
    n2.host.run("isthmus down wg0")
    assert n2.host.attempt(unit).returncode != 0
    assert "No such file" in n2.host.attempt("ls /run/isthmus").stderr
