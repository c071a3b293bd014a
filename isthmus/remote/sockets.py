"""What SSH runs over: TCP that does not dawdle, or the two ends of a ProxyCommand."""

from __future__ import annotations

import socket
import subprocess

DEAD_AFTER_S = 30
"""A peer that acknowledges nothing for so long is gone (Linux's TCP_USER_TIMEOUT)."""


class _PromptSocket(socket.socket):
    """A TCP socket that neither waits to send (Nagle) nor to acknowledge (delayed ACK).

    Paramiko sets neither option. Measured on loopback: 42 ms less at the login and 40 ms at the first channel, where
    sshd's second small packet waits for our acknowledgement. Linux forgets TCP_QUICKACK, hence at every read.
    """

    def recv(self, size: int, flags: int = 0) -> bytes:
        if hasattr(socket, "TCP_QUICKACK"):
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return super().recv(size, flags)


class CommandSocket(socket.socket):
    """Our end of a ProxyCommand's stdin and stdout. (Paramiko's own waits 0.1 s at every read, and never reaps.)"""

    def __init__(self, command: str) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(fileno=ours.detach())
        with theirs:
            self._process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"], stdin=theirs.fileno(), stdout=theirs.fileno()
            )

    def close(self) -> None:
        """Close it and end the command."""
        super().close()
        self._process.terminate()
        self._process.wait()


def connect_tcp(address: str, port: int, timeout: float) -> socket.socket:
    """Return a connected socket; `timeout` in seconds. Raises OSError."""
    plain = socket.create_connection((address, port), timeout=timeout)
    connected = _PromptSocket(fileno=plain.detach())
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_S * 1000)
    return connected
