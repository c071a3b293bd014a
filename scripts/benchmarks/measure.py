"""One process timed from start to exit; several, interleaved round by round, so that a busy moment hits them all."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


class BenchError(Exception):
    """What was to be measured did not do its work; a number for it would be a lie."""


@dataclass(frozen=True)
class Ended:
    """A process that has ended. `peak_mb` is the largest resident memory of it or a child it waited for, in 10^6 B."""

    seconds: float
    peak_mb: float
    status: int
    output: str
    """stdout and stderr as they came."""


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ended:
    """Run a program to its end, its output into a file: a pipe would make it wait for us."""
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=cwd
        )
        _, wait_status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(wait_status)
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    return Ended(seconds, usage.ru_maxrss * 1024 / 1e6, process.returncode, text)


def must(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    status: int = 0,
    says: str = "",
    called: str = "",
) -> Ended:
    """Run a program that has to end with `status` and to print `says`; BenchError with its last lines if not.

    `called` stands for the command in the error.
    """
    ended = run(command, env=env, cwd=cwd)
    if ended.status != status or says not in ended.output:
        last = "\n".join(ended.output.strip().splitlines()[-25:])
        expected = f"status {status}" + (f" and {says!r}" if says else "")
        raise BenchError(
            f"{called or ' '.join(command)}: found status {ended.status}, expected {expected}; it said:\n{last}"
        )
    return ended


@dataclass
class Series:
    """The runs of one thing, in order; None in a round in which it was left out."""

    seconds: list[float | None] = field(default_factory=list)
    peaks_mb: list[float] = field(default_factory=list)

    @property
    def known(self) -> list[float]:
        """The seconds of the rounds it took part in."""
        return [value for value in self.seconds if value is not None]

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.known)

    @property
    def peak_mb(self) -> float:
        """The largest of its peaks."""
        return max(self.peaks_mb)

    def ratio(self, other: Series) -> float:
        """Return the median of self/other within the rounds both took part in."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs if mine is not None and theirs is not None)


def interleave(
    contenders: Mapping[str, Callable[[], Ended]],
    rounds: int,
    fewer: Mapping[str, int] | None = None,
    *,
    warm_up: bool = True,
) -> dict[str, Series]:
    """Run a warm-up of each, then `rounds` rounds of A B C …; those in `fewer` only in so many, evenly spread."""
    series = {name: Series() for name in contenders}
    for contender in contenders.values() if warm_up else ():
        contender()
    for number in range(rounds):
        for name, contender in contenders.items():
            if number in _rounds_of((fewer or {}).get(name, rounds), rounds):
                ended = contender()
                series[name].seconds.append(ended.seconds)
                series[name].peaks_mb.append(ended.peak_mb)
            else:
                series[name].seconds.append(None)
    return series


def _rounds_of(count: int, rounds: int) -> set[int]:
    """Return which of `rounds` rounds to take part in to be there in `count`, first and last included."""
    if count >= rounds:
        return set(range(rounds))
    return {round(place * (rounds - 1) / max(1, count - 1)) for place in range(count)}
