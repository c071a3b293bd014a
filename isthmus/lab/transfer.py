"""Bytes from one host to another over TCP, and what each cloud counted on its uplink meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from isthmus.errors import LabError
from isthmus.lab.cloud import Traffic
from isthmus.lab.twin import Lab

_PORT = 5182
_SECONDS = 600
"""5 MB a second are usual; an emulated machine is far slower."""

_RECEIVE = """
import socket, sys
with socket.create_server(("", int(sys.argv[1]))) as server:
    server.settimeout(60)
    print("ready", flush=True)
    connection, _ = server.accept()
    connection.settimeout(60)
    count = 0
    while data := connection.recv(1 << 20):
        count += len(data)
    print(count, flush=True)
"""
_SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60) as connection:
    left = int(sys.argv[3])
    while left:
        left -= connection.send(bytes(min(left, 1 << 16)))
"""


@dataclass(frozen=True)
class Sent:
    """A transfer between two hosts."""

    source: str
    destination: str
    bytes: int
    """What arrived: TCP's payload."""
    uplinks: Mapping[str, Traffic]
    """What each site's uplink carried meanwhile, other traffic included."""


def send(lab: Lab, source: str, destination: str, count: int) -> Sent:
    """Send `count` bytes to the destination's private address and return what was counted. Raises LabError."""
    lab.require()
    receiver = lab.host_command(destination, ["python3", "-c", _RECEIVE, str(_PORT)])
    address = str(lab.inventory.hosts[destination].address)
    with subprocess.Popen(receiver, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            if process.stdout.readline() != "ready\n":
                raise LabError(f"{destination} cannot receive on port {_PORT}/tcp")
            before = lab.counters()
            ended = lab.host_run(source, ["python3", "-c", _SEND, address, str(_PORT), str(count)], timeout=_SECONDS)
            if ended.returncode:
                reason = (ended.stderr.splitlines() or ["?"])[-1]
                raise LabError(f"{source} cannot send to {destination} at {address}: {reason}")
            arrived = int(process.stdout.readline())
        except subprocess.TimeoutExpired:
            raise LabError(f"{source} did not get {count} bytes to {destination} in {_SECONDS} s") from None
        finally:
            process.kill()
    return Sent(source, destination, arrived, {site: now - before[site] for site, now in lab.counters().items()})
