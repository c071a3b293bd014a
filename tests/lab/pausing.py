"""`inv`, but it stops itself (SIGSTOP) at the moment when every host is changed and nothing is confirmed yet."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from invoke.main import program

from isthmus.remote import Fleet

_reconnect = Fleet.reconnect


def _pause_and_reconnect(self: Fleet, hosts: Iterable[str]) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    _reconnect(self, hosts)


Fleet.reconnect = _pause_and_reconnect  # type: ignore[method-assign]
program.run(["inv", *sys.argv[1:]])
