"""100 packets a second between two hosts while something changes, and which of them did not come back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from workstation import Admin

_ECHO = """
import socket
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("", 9999))
print("echoing", flush=True)
while True:
    data, sender = server.recvfrom(100)
    server.sendto(data, sender)
"""

_STREAM = """
import contextlib, json, select, socket, sys, time
peer = socket.socket(type=socket.SOCK_DGRAM)
peer.connect((sys.argv[1], 9999))
missing, sent, due, last = {}, 0, time.monotonic(), None
print("streaming", flush=True)
while True:
    listened = [peer, sys.stdin] if last is None else [peer]
    ready, _, _ = select.select(listened, [], [], max(0, due - time.monotonic()))
    if peer in ready:
        with contextlib.suppress(OSError):  # what ICMP says of packets that did not arrive
            missing.pop(int(peer.recv(100)), None)
    if sys.stdin in ready:
        last = time.monotonic()  # nothing more is sent; what is on its way may still come
    if last is None and time.monotonic() >= due:
        missing[sent] = True
        with contextlib.suppress(OSError):
            peer.send(str(sent).encode())
        sent, due = sent + 1, max(due + 0.01, time.monotonic() - 0.05)
    elif last is not None:
        due = time.monotonic() + 0.05
        if not missing or time.monotonic() > last + 10:
            break
print(json.dumps({"sent": sent, "missing": list(missing)}))
"""
"""Sends 100 numbered packets a second until its input ends, and says which did not come back."""


@dataclass
class Report:
    """What became of a stream's packets, filled when it has ended."""

    sent: int = 0
    missing: list[int] = field(default_factory=list)

    @property
    def outage_ms(self) -> int:
        """The longest time in which nothing came back."""
        longest = run = 0
        lost = set(self.missing)
        for number in range(self.sent):
            run = run + 1 if number in lost else 0
            longest = max(longest, run)
        return longest * 10


@contextmanager
def echoing(admin: Admin, host: str) -> Iterator[None]:
    """While inside, a host sends back what it gets on port 9999."""
    command = admin.lab.host_command(host, ["python3", "-c", _ECHO])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as echo:
        try:
            assert echo.stdout is not None
            assert echo.stdout.readline() == "echoing\n"
            yield
        finally:
            admin.said(host, "pkill -f '[s]erver.sendto'")
            echo.wait()


@contextmanager
def streaming(admin: Admin, host: str, address: str) -> Iterator[Report]:
    """While inside, 100 packets a second go from a host to an address that echoes, and back."""
    report = Report()
    command = admin.lab.host_command(host, ["python3", "-c", _STREAM, address])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stream:
        assert stream.stdout is not None
        assert stream.stdout.readline() == "streaming\n"
        yield report
        found = json.loads(stream.communicate()[0])
    report.sent, report.missing = found["sent"], found["missing"]


_TALK_SERVER = """
import socket
server = socket.create_server(("", 9998))
print("listening", flush=True)
while True:
    peer, _ = server.accept()
    while data := peer.recv(65536):
        peer.sendall(data)
"""

_TALK = """
import json, select, socket, sys, time
peer = socket.create_connection((sys.argv[1], 9998), timeout=60)
said, heard, due = 0, 0, time.monotonic()
print("talking", flush=True)
while not (sys.stdin in select.select([sys.stdin, peer], [], [], max(0, due - time.monotonic()))[0]):
    if peer in select.select([peer], [], [], 0)[0]:
        heard += len(peer.recv(65536))
    if time.monotonic() >= due:
        said, due = said + peer.send(b"x" * 100), time.monotonic() + 0.05
while heard < said:
    heard += len(peer.recv(65536)) or sys.exit("the other end closed")
print(json.dumps({"said": said, "heard": heard}))
"""
"""A TCP connection that says something twenty times a second; ends when all has come back, or when it broke."""


@contextmanager
def listening(admin: Admin, host: str) -> Iterator[None]:
    """While inside, a host sends back what it is told on TCP port 9998, one connection after the other."""
    command = admin.lab.host_command(host, ["python3", "-c", _TALK_SERVER])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "listening\n"
            yield
        finally:
            admin.said(host, "pkill -f '[s]ocket.create_server'")
            server.wait()


@contextmanager
def talking(admin: Admin, host: str, address: str) -> Iterator[None]:
    """While inside, one TCP connection is used; it must be the same one and whole at the end."""
    command = admin.lab.host_command(host, ["python3", "-c", _TALK, address])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as talk:  # type: ignore[call-overload]
        assert talk.stdout.readline() == "talking\n"
        yield
        out, err = talk.communicate()
        assert talk.returncode == 0, err
        found = json.loads(out)
        assert found["said"] == found["heard"] > 0, found
