"""Work on many things at once: how far it is, and what became of all of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from isthmus.errors import LabError

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[str, int, int], None]
"""Called with what happens now and how many of how many steps are done; from several threads, never two at a time."""


class Steps:
    """Counts steps for the caller's progress display; any thread may."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def say(self, what: str) -> None:
        """Say what happens now."""
        with self._lock:
            if self._progress:
                self._progress(what, self._done, self._total)

    def done(self, what: str) -> None:
        """Say what is finished and count it."""
        with self._lock:
            self._done += 1
        self.say(what)


def each(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Do the work for all items at once; when some fail, raise one LabError that says all there is to say."""
    futures = [pool.submit(work, item) for item in items]
    errors = [error for future in futures if (error := future.exception())]
    for error in errors:
        if not isinstance(error, LabError):
            raise error
    if errors:
        raise LabError("\n".join(str(error) for error in errors))
    return [future.result() for future in futures]
