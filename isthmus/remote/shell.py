"""One script on one SSH channel: sent on stdin, begun only when all of it has arrived, never outliving its deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BEGUN = b"isthmus: the script begins\n"
"""Printed on the host before the script, so that what a login shell says first is not taken for its output."""
END = "#isthmus: the script ends"
PROMPT = "[isthmus] password: "
CUT_OFF = 97
"""Status when less than the whole script arrived."""
GRACE_S = 2.0
"""The host ends the script at its deadline; we wait so much longer for its word before we hang up."""
BLOCK = 1 << 18
"""Bytes handed to the channel at a time."""
KILL_AFTER_S = 5
"""SIGTERM first, SIGKILL so much later."""

# Runs as root on the host. It holds no quote ' since it stands between two. `head -c` leaves what follows the script
# on stdin for the script itself; sh's own reading of a script would swallow it (dash reads blocks).
_READ = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin;export PATH LC_ALL=C;"
    'echo "isthmus: the script begins";s=$(head -c "$1");set --;'
    f'case $s in *"{END}") eval "$s";; *) echo "the script was cut off on its way" >&2;exit {CUT_OFF};; esac'
)


@dataclass(frozen=True)
class Outcome:
    """What became of a script. `status` is None when its deadline passed or the connection broke."""

    status: int | None
    stdout: str
    stderr: str
    begun: bool
    timed_out: bool
    seconds: float
    asked: int
    """How often sudo asked for the password."""


def wrapped(script: str) -> bytes:
    """Return the script as sent. Braces make the shell read all of it before it runs any of it."""
    return f"{{ :; {script}\n}}\n{END}".encode()


def command(size: int, timeout: float, elevate: str) -> str:
    """Return the command line for a script of `size` bytes: the same for every script, and nothing of it in argv."""
    return f"{elevate}timeout -k {KILL_AFTER_S} {timeout:g} sh -c '{_READ}' sh {size}"


def elevation(user: str, password: str | None) -> str:
    """Return what makes the command run as root; `env` because a login shell may not know `NAME=value command`."""
    if user == "root":
        return ""
    return "env LC_ALL=C sudo -n " if password is None else f'env LC_ALL=C sudo -S -p "{PROMPT}" '


class _Reader(threading.Thread):
    """Collects one stream. stdout and stderr share a window: reading one while the other fills it would hang."""

    def __init__(self, receive: Callable[[int], bytes], changed: threading.Condition) -> None:
        super().__init__(daemon=True)
        self.data = bytearray()
        self.ended = False
        self._receive = receive
        self._changed = changed
        self.start()

    def run(self) -> None:
        try:
            while chunk := self._receive(1 << 16):
                with self._changed:
                    self.data += chunk
                    self._changed.notify_all()
        finally:
            with self._changed:
                self.ended = True
                self._changed.notify_all()


def run(channel: Any, script: str, *, user: str, timeout: float, stdin: bytes, password: str | None) -> Outcome:
    """Run the script on an open session channel (`paramiko.Channel`); `timeout` in seconds counts from now."""
    started = time.monotonic()
    payload = wrapped(script)
    timer = threading.Timer(timeout + GRACE_S, channel.close)  # wakes every wait below
    timer.daemon = True
    timer.start()
    from paramiko import SSHException

    changed = threading.Condition()
    readers: tuple[_Reader, ...] = ()
    try:
        channel.exec_command(command(len(payload), timeout, elevation(user, password)))
        readers = (out, err) = _Reader(channel.recv, changed), _Reader(channel.recv_stderr, changed)
        if user == "root" or password is None or _give_password(channel, out, err, changed, password):
            channel.sendall(payload)
            # Not all at once: sendall() copies all that is left for every packet of 32 kB.
            for start in range(0, len(stdin), BLOCK):
                channel.sendall(stdin[start : start + BLOCK])
        channel.shutdown_write()
    except (SSHException, OSError, EOFError):
        pass  # the host has hung up: what it said, and its status, tell why
    for reader in readers:
        reader.join()
    status = channel.recv_exit_status()
    timer.cancel()
    seconds = time.monotonic() - started
    stdout, stderr = (bytes(reader.data) for reader in readers) if readers else (b"", b"")
    before, begun, output = stdout.partition(BEGUN)
    timed_out = status in (-1, 124, 137) and seconds >= timeout
    return Outcome(
        status=None if status == -1 or timed_out else status,
        stdout=output.decode("utf-8", "replace"),
        stderr=(stderr.replace(PROMPT.encode(), b"") or (b"" if begun else before)).decode("utf-8", "replace"),
        begun=bool(begun),
        timed_out=timed_out,
        seconds=seconds,
        asked=stderr.count(PROMPT.encode()),
    )


def _give_password(channel: Any, out: _Reader, err: _Reader, changed: threading.Condition, password: str) -> bool:
    """Give sudo the password if it asks; return whether it is content.

    The script must wait for that: sudo would take its lines for guesses.
    """
    prompt = PROMPT.encode()
    with changed:
        changed.wait_for(lambda: BEGUN in out.data or prompt in err.data or out.ended)
    if BEGUN in out.data or prompt not in err.data:
        return BEGUN in out.data
    channel.sendall(password.encode() + b"\n")
    with changed:
        changed.wait_for(lambda: BEGUN in out.data or err.data.count(prompt) > 1 or out.ended)
    return BEGUN in out.data
