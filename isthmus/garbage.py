"""How often Python looks for garbage."""

from __future__ import annotations

import gc

MANY_OBJECTS = 100_000


def collect_rarely() -> None:
    """Have Python look for garbage after 100,000 new objects, not 700: for programs that compile and end.

    A large mesh is a million small values that live to the end; looking through them again and again took a third of
    the time of 10,000 hosts.
    """
    gc.set_threshold(MANY_OBJECTS)
