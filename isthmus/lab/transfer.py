"""Sends bytes from host to host and reads what each cloud counted meanwhile: the bill, before it comes."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isthmus.errors import LabError
from isthmus.lab.cloud import Traffic

if TYPE_CHECKING:
    from isthmus.lab.twin import Lab

TIMEOUT_S = 300

_RECEIVER = """
import socket, sys
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
connection, _ = server.accept()
count = 0
while data := connection.recv(1 << 16):
    count += len(data)
print(count)
"""

_SENDER = """
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
connection.settimeout(None)
left = int(sys.argv[3])
while left:
    left -= connection.send(bytes(min(left, 1 << 16)))
"""


@dataclass(frozen=True)
class Sent:
    """A finished transfer; `uplinks` are the bytes each site's uplink carried from its start to its end."""

    source: str
    destination: str
    bytes: int
    uplinks: Mapping[str, Traffic]


def send(lab: Lab, source: str, destination: str, count: int) -> Sent:
    """Send `count` bytes over TCP from one host to another's private address.

    Raises LabError when not all of them arrive.
    """
    address = str(lab.inventory.hosts[destination].address)
    before = lab.counters()
    receiver = subprocess.Popen(
        lab.host_command(destination, ["python3", "-c", _RECEIVER, address]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert receiver.stdout is not None
    try:
        port = receiver.stdout.readline().strip()
        sender = lab.host_run(source, ["python3", "-c", _SENDER, address, port, str(count)])
        if sender.returncode != 0:
            words = sender.stderr.strip().splitlines() or ["no reason given"]
            raise LabError(f"{source} could not send to {destination} ({address}): {words[-1]}")
        arrived, _ = receiver.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise LabError(f"{destination} did not get everything within {TIMEOUT_S} s") from None
    finally:
        receiver.kill()
        receiver.wait()
    if int(arrived or 0) != count:
        raise LabError(f"{destination} got {arrived.strip() or 0} of {count} bytes")
    after = lab.counters()
    uplinks = {
        site: Traffic(after[site].sent - before[site].sent, after[site].received - before[site].received)
        for site in before
    }
    return Sent(source, destination, count, uplinks)
