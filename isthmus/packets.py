"""Which packets arrive, and how large: asked between the hosts themselves, with or without a mesh.

WireGuard is silent towards strangers, security groups are stateful, and ICMP is often dropped; so neither a handshake,
which may use a flow opened from the other end, nor a ping tells what a port lets in. Here the asked host answers beside
WireGuard, on a copy of what its firewall let in, and each question comes from a port of its own: a fresh flow.
"""

from __future__ import annotations

import math
import secrets
import shlex
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from isthmus.errors import HostError
from isthmus.host_scripts import host_script
from isthmus.remote import Fleet, Remote
from isthmus.survey import Progress, silent

TRIES = 3
"""So often is a packet sent until one is answered: a lossy line is no closed port."""
WAIT_S = 1
"""Seconds to wait for an answer."""
IDLE_S = 120
"""Seconds after its last question when a host stops answering: longer than a question whose packets are all lost."""
ANSWER_TIMEOUT_S = 30
SPARE_S = 60
"""What starting hundreds of questions on a host may take."""
LEAST = 576
"""Bytes of the smallest packet asked for: what every IPv4 host must accept (RFC 791). Less is called lost."""


@dataclass(frozen=True)
class Question:
    """The largest packet, of `least` to `most` bytes with its IP header, that arrives at `address` in one piece.

    With a port: a UDP datagram answered by `answer`; without: an echo request.
    """

    name: str
    """No spaces; a host's questions have different ones."""
    address: IPv4Address | str
    port: int | None
    least: int
    most: int

    @property
    def seconds(self) -> int:
        """How long an answer may take: bisecting, with every packet lost."""
        steps = 2 + math.ceil(math.log2(max(1, self.most - self.least)))
        return steps * TRIES * WAIT_S


def new_token() -> str:
    """Return what this run's datagrams begin with. Its first byte is none that WireGuard's messages begin with."""
    return secrets.token_hex(8)


@contextmanager
def answering(
    fleet: Fleet, hosts: Collection[str], port: int, token: str, failures: dict[str, HostError]
) -> Iterator[None]:
    """While inside, these hosts answer datagrams with this token at UDP `port`; those that cannot go into `failures`.

    If this program dies meanwhile they end by themselves, IDLE_S after the last question.
    """
    script = host_script("answer", port=port, token=token, idle_s=IDLE_S)
    processes: dict[str, str] = {}
    for name, result in fleet.each(hosts, lambda remote: remote.run(script, timeout=ANSWER_TIMEOUT_S)).items():
        if isinstance(result, HostError):
            failures[name] = result
        else:
            processes[name] = result.strip()
    yield
    fleet.each(processes, lambda remote: remote.run(host_script("hush", pid=processes[remote.name], token=token)))


def ask(
    fleet: Fleet, questions: Mapping[str, Collection[Question]], token: str, progress: Progress = silent
) -> dict[str, Mapping[str, int | None] | HostError]:
    """Let every host ask its questions, one round trip each; return by host and name the sizes, None for nothing."""

    def measure(remote: Remote) -> Mapping[str, int | None]:
        own = questions[remote.name]
        lines = (f"to {shlex.quote(one.name)} {one.address} {one.port or '-'} {one.least} {one.most}\n" for one in own)
        script = f"{host_script('largest', token=token, tries=TRIES, wait_s=WAIT_S)}{''.join(lines)}wait\n"
        told = remote.run(script, timeout=max((one.seconds for one in own), default=0) + SPARE_S)
        try:
            return _sizes(told)
        except ValueError as error:
            raise HostError(remote.name, f"largest: the answer makes no sense: {error}") from None

    return fleet.each(questions, measure, on_done=lambda host, _result: progress(host, "measured"))


def _sizes(told: str) -> dict[str, int | None]:
    """Read what largest.sh prints: `NAME SIZE`, or `NAME -`."""
    answers = [line.split() for line in told.splitlines()]
    return {name: None if size == "-" else int(size) for name, size in answers}
