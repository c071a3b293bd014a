"""`inv`, with everything that goes over its SSH channels, decrypted, appended to the file $WIRETAP."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import paramiko
from invoke.main import program

_tape = Path(os.environ["WIRETAP"]).open("ab")  # noqa: SIM115  # open as long as the program runs
_lock = threading.Lock()


def _record(data: bytes) -> bytes:
    with _lock:
        _tape.write(data)
        _tape.flush()
    return data


def _received(receive: Callable[..., bytes]) -> Callable[..., bytes]:
    return lambda channel, size: _record(receive(channel, size))


def _sent(send: Callable[..., int]) -> Callable[..., int]:
    return lambda channel, data: send(channel, _record(bytes(data)))


paramiko.Channel.recv = _received(paramiko.Channel.recv)
paramiko.Channel.recv_stderr = _received(paramiko.Channel.recv_stderr)
paramiko.Channel.send = _sent(paramiko.Channel.send)
program.run(["inv", *sys.argv[1:]])
