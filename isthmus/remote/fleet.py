"""The hosts of an inventory over SSH: what is asked of many at once, and what one of them is asked."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from isthmus.errors import CommandError, HostError
from isthmus.model import Inventory
from isthmus.remote import shell
from isthmus.remote.known_hosts import KnownHosts
from isthmus.remote.way import Way, find_way

if TYPE_CHECKING:  # Fabric and Paramiko take 0.1 s to import; a Fleet does it when made
    from isthmus.remote.connection import Link

T = TypeVar("T")

KNOWN_HOSTS = (Path("~/.ssh/known_hosts"), Path("~/.ssh/known_hosts2"), Path("/etc/ssh/ssh_known_hosts"))
"""Read beside the project's own."""
LAST_LINES = 3
"""So many lines of stderr go into an error."""


class Remote:
    """One host. `name` is the inventory's."""

    def __init__(self, name: str, link: Link, fleet: Fleet) -> None:
        self.name = name
        self._link = link
        self._fleet = fleet

    @property
    def way(self) -> Way:
        """How the host is reached."""
        return self._link.way

    def run(self, script: str, *, timeout: float = 60, stdin: bytes = b"") -> str:
        """Run a POSIX sh script as root and return its stdout; its stdin is `stdin`, then the end.

        The host runs nothing before it has the whole script, and ends it after `timeout` seconds. In errors and in
        debug lines a script is called by its first line if that is a comment; neither script nor output is shown, but
        for the last lines of stderr in errors. Processes it leaves behind must not hold its stdout.

        Raises CommandError for another status than 0 or none; HostError when the host cannot be reached.
        """
        channel = self._open_channel()
        password = self._fleet.sudo_password
        try:
            outcome = shell.run(
                channel, script, user=self._link.way.user, timeout=timeout, stdin=stdin, password=password
            )
        finally:
            channel.close()
        title = _title(script)
        end = "no end" if outcome.status is None else f"exit {outcome.status}"
        self._fleet.debug(f"[{self.name}] # {title} ({outcome.seconds:.2f} s, {end})")
        if outcome.status == 0 and outcome.begun:
            return outcome.stdout
        raise CommandError(self.name, self._complaint(title, outcome, timeout), outcome.status)

    def connect(self) -> None:
        """Open the connection now. Raises UnreachableError or HostKeyError."""
        self._link.open()

    def _open_channel(self) -> Any:
        from isthmus.remote.connection import open_session

        return open_session(self._link)

    def _complaint(self, title: str, outcome: shell.Outcome, timeout: float) -> str:
        user, password = self._link.way.user, self._fleet.sudo_password
        if outcome.timed_out:
            return f"{title}: not done within {timeout:g} s"
        if not outcome.begun and user != "root":
            if outcome.asked > 1 and password:
                return f"sudo does not take the password given for {user}"
            if "password is required" in outcome.stderr:
                return (
                    f"sudo asks for a password for {user}: give it with `inv --prompt-for-sudo-password …` "
                    "or in INVOKE_SUDO_PASSWORD"
                )
        lines = [line.strip() for line in outcome.stderr.splitlines() if line.strip()]
        said = "; ".join(lines[-LAST_LINES:]) or "it said nothing"
        if password:
            said = said.replace(password, "***")
        if outcome.status is None:
            return f"{title}: the connection broke after {outcome.seconds:.1f} s"
        begun = "" if outcome.begun else "not begun, "
        return f"{title}: {begun}status {outcome.status}: {said}"


def _title(script: str) -> str:
    first = script.lstrip().partition("\n")[0]
    return first.lstrip("#! ").strip() if first.startswith("#") else "a script"


class Fleet:
    """All hosts of an inventory. Connections are made when first needed and kept until `close`; a context manager.

    A host that could not be reached stays so until `reconnect`: every later call has the same answer at once.
    """

    def __init__(
        self,
        inventory: Inventory,
        *,
        parallel: int = 32,
        connect_timeout: float = 20,
        known_hosts: Path | None = None,
        sudo_password: str | None = None,
        debug: Callable[[str], None] | None = None,
        ssh_config: tuple[Path, ...] = (Path("~/.ssh/config"), Path("/etc/ssh/ssh_config")),
        system_known_hosts: tuple[Path, ...] = KNOWN_HOSTS,
    ) -> None:
        """Read the configuration; connect to nobody yet.

        `parallel` hosts are worked on at once; `connect_timeout` in seconds holds for TCP, handshake and login
        together; `known_hosts` is the project's file; `debug` is called with one line at a time, from several threads.
        """
        from isthmus.remote.connection import settings

        self.inventory = inventory
        self.sudo_password = sudo_password
        self._debug = debug
        self._parallel = parallel
        self.known_hosts_file = known_hosts
        self.known_hosts = KnownHosts([*([known_hosts] if known_hosts else []), *system_known_hosts])
        self._settings = settings(ssh_config, self.known_hosts, connect_timeout, self.debug)
        self._links: dict[str, Link] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def link(self, name: str) -> Link:
        """Return the way to a host of the inventory or to a jump host, not connected yet."""
        from isthmus.remote.connection import Link

        with self._lock:
            if name not in self._links:
                way = find_way(name, self.inventory, self._settings.ssh_config)
                self._links[name] = Link(way, [self.link(carrier) for carrier in way.via], self._settings)
            return self._links[name]

    def connect(self, hosts: Iterable[str]) -> None:
        """Begin to connect in the background and return at once; `each` waits for what it needs."""
        self._start(list(hosts), Remote.connect)

    def each(
        self,
        hosts: Iterable[str],
        function: Callable[[Remote], T],
        on_done: Callable[[str, T | HostError], None] | None = None,
    ) -> dict[str, T | HostError]:
        """Call `function` for every host, several at once, and return by name, in the order given, what came of it.

        A HostError is a result; any other error is raised when all hosts are done. `on_done` is called in this thread
        as hosts finish. When this thread is interrupted all connections are closed.
        """
        names = list(dict.fromkeys(hosts))
        results: dict[str, T | HostError] = {}
        crash: BaseException | None = None
        try:
            finished = self._start(names, function)
            for _ in names:
                name, result = finished.get()
                if isinstance(result, BaseException) and not isinstance(result, HostError):
                    crash = crash or result
                    continue
                results[name] = result
                if on_done is not None:
                    on_done(name, result)
        except BaseException:
            self.close()
            raise
        if crash is not None:
            raise crash
        return {name: results[name] for name in names}

    def reconnect(self, hosts: Iterable[str]) -> None:
        """Drop the connections to these hosts, and those that lead through them: the next use makes a fresh one.

        A host that could not be reached may be tried again after this, and so may its gateway.
        """
        names = set(hosts)
        for link in self._innermost_first():
            path = _path(link)
            if link.way.name in names or any(step.way.name in names for step in path):
                link.drop()
        for name in names:
            for step in _path(self.link(name)):
                step.forgive()

    def close(self) -> None:
        """Close every connection, for good. What other threads do over them ends with an error."""
        self._settings.closed.set()
        for link in self._innermost_first():
            with contextlib.suppress(Exception):  # a broken connection may refuse even to close
                link.close()

    def debug(self, line: str) -> None:
        """Hand a line to the debug hook, one at a time."""
        if self._debug is not None:
            with self._lock:
                self._debug(line)

    def _innermost_first(self) -> list[Link]:
        with self._lock:
            return sorted(self._links.values(), key=lambda link: -len(_path(link)))

    def _start(self, names: list[str], function: Callable[[Remote], T]) -> queue.SimpleQueue[tuple[str, T | HostError]]:
        """Work on the hosts in daemon threads (a hanging one must not hold up the end of the program)."""
        waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        finished: queue.SimpleQueue[tuple[str, T | HostError]] = queue.SimpleQueue()
        # Hosts that others lead through come first, so that no worker waits for a gateway nobody has begun with.
        for name in sorted(names, key=lambda name: len(_path(self.link(self.inventory.hosts[name].name)))):
            waiting.put(name)

        def work() -> None:
            while True:
                try:
                    name = waiting.get_nowait()
                except queue.Empty:
                    return
                result: T | HostError
                try:
                    result = function(Remote(name, self.link(name), self))
                except BaseException as error:
                    result = error  # type: ignore[assignment]  # `each` raises what is no HostError
                finished.put((name, result))

        for _ in range(min(self._parallel, len(names))):
            threading.Thread(target=work, daemon=True).start()
        return finished


def _path(link: Link) -> list[Link]:
    """Return the links that carry this one, or may, each before those that carry it."""
    return [step for carrier in link.carriers for step in (carrier, *_path(carrier))]
