"""One authenticated SSH connection to one host: the socket or tunnel, the host key, the login.

Fabric's Connection reads the configuration and drives Paramiko; what Fabric leaves open is set here: host keys are
verified (Fabric accepts any), everything has a deadline (Fabric's gateways have none), and connections behind one
gateway share its connection (Fabric makes a jump connection for every target).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from isthmus.errors import HostError, HostKeyError, UnreachableError
from isthmus.remote.known_hosts import Key, KnownHosts
from isthmus.remote.login import Keyring, LoginRefusedError
from isthmus.remote.sockets import CommandSocket, connect_tcp
from isthmus.remote.ssh_config import read_ssh_config
from isthmus.remote.way import Way

with warnings.catch_warnings():  # Paramiko 4 uses what cryptography has moved to its "decrepit" module
    warnings.simplefilter("ignore")
    import fabric
    import paramiko

# Paramiko's threads log tracebacks of every broken connection; what a user should know is in our errors.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)

T = TypeVar("T")

ATTEMPTS = 3
"""A refused or reset connection is tried again twice: an sshd that restarts, or one at its MaxStartups."""
BACKOFF_S = 0.25
"""Before the second attempt; twice as long before the third."""
KEEPALIVE_S = 15
NOT_ALLOWED, CONNECT_FAILED = 1, 2
"""Reasons of a refused channel (RFC 4254, 5.1)."""


@dataclass(frozen=True)
class Settings:
    """What every connection of a fleet shares."""

    ssh_config: paramiko.SSHConfig
    config: fabric.Config
    known_hosts: KnownHosts
    connect_timeout: float
    debug: Callable[[str], None]
    closed: threading.Event
    """Set when the fleet is closed: nobody connects any more."""


def settings(
    ssh_config: Iterable[Path], known_hosts: KnownHosts, connect_timeout: float, debug: Callable[[str], None]
) -> Settings:
    """Read the files of ~/.ssh/config's format and return what the connections of a fleet share."""
    parsed = read_ssh_config(ssh_config)
    # lazy: Fabric's own configuration files are not ours to follow
    config = fabric.Config(
        lazy=True, ssh_config=parsed, overrides={"authentication": {"strategy_class": Keyring().login}}
    )
    return Settings(parsed, config, known_hosts, connect_timeout, debug, threading.Event())


class _TransientError(Exception):
    """An attempt failed in a way that the next one may not."""


class _HostKeyPolicy(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    """Asked by Paramiko after the key exchange, before anything is sent to the host."""

    def __init__(self, check: Callable[[Key], None]) -> None:
        self._check = check

    def missing_host_key(self, _client: object, _hostname: str, key: paramiko.PKey) -> None:
        self._check(Key(key.get_name(), key.asbytes()))


class Link:
    """The way to one host and the connection on it, made when it is first asked for. Safe between threads.

    A host that could not be reached stays so until `drop`: whoever asks gets the same answer at once.
    """

    def __init__(self, way: Way, carriers: Sequence[Link], settings: Settings) -> None:
        self.way = way
        self.carriers = carriers
        self._settings = settings
        self._lock = threading.Lock()
        self._connection: fabric.Connection | None = None
        self._failure: HostError | None = None

    def open(self) -> fabric.Connection:
        """Return the connection, made now if there is none. Raises UnreachableError or HostKeyError."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._connection is None or not self._connection.is_connected:
                try:
                    self._connection = self._retry(self._log_in)
                except HostError as error:
                    self._failure = error
                    raise
            return self._connection

    def failure(self) -> HostError | None:
        """Return why there is no connection, None when there is one, made now if there was none."""
        try:
            self.open()
        except HostError as error:
            return error
        return None

    def host_key(self) -> Key:
        """Return the key the host shows now, without logging in to it. Raises UnreachableError."""
        return self._retry(self._shown_key)

    def drop(self) -> None:
        """Close the connection and forget a failure: the next `open` starts anew."""
        with self._lock:
            self.close()
            self._connection = self._failure = None

    def forgive(self) -> None:
        """Forget a failure, if there is one; leave a connection alone."""
        with self._lock:
            self._failure = None

    def close(self) -> None:
        """Close the connection, also while another thread uses it."""
        if (connection := self._connection) is not None:
            connection.client.close()

    def _retry(self, attempt: Callable[[float], T]) -> T:
        if self.carriers:
            with contextlib.suppress(HostError):  # said by `_tunnel`, which asks again
                self._carrier()  # how long the gateway takes is no time of ours
        deadline = time.monotonic() + self._settings.connect_timeout
        for count in range(1, ATTEMPTS + 1):
            if self._settings.closed.is_set():
                raise self._unreachable("no connection: the run was ended")
            try:
                return attempt(deadline)
            except _TransientError as error:
                pause = BACKOFF_S * count
                if count == ATTEMPTS or time.monotonic() + pause >= deadline:
                    raise self._unreachable(f"{error} (tried {count} times)") from None
            self._settings.closed.wait(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _unreachable(self, message: str) -> UnreachableError:
        return UnreachableError(self.way.name, message)

    @property
    def _place(self) -> str:
        return f"{self.way.address}:{self.way.port}"

    def _log_in(self, deadline: float) -> fabric.Connection:
        started = time.monotonic()
        way, settings = self.way, self._settings
        sock = self._socket(deadline)
        connection = fabric.Connection(
            way.looked_up,
            user=way.user,
            port=way.port,
            config=settings.config.clone(),  # Fabric writes into it, and while it does nobody else can read it
            gateway=False,  # jumps are made by us: Fabric's would believe any host key
            connect_kwargs={
                "sock": sock,
                "transport_factory": self._transport,
                "timeout": deadline - time.monotonic(),
                "auth_timeout": settings.connect_timeout,
                "channel_timeout": settings.connect_timeout,
            },
        )
        connection.client.set_missing_host_key_policy(_HostKeyPolicy(self._check_key))
        self._connection = connection  # from here on `close` interrupts it
        try:
            connection.open()
        except Exception as error:
            connection.client.close()
            sock.close()  # Paramiko leaves it open when the transport had not begun
            raise self._explained(error, deadline) from None
        connection.transport.set_keepalive(KEEPALIVE_S)
        elapsed = time.monotonic() - started
        settings.debug(f"[{way.name}] connected to {way.user}@{self._place} ({elapsed:.2f} s)")
        return connection

    def _shown_key(self, deadline: float) -> Key:
        transport = self._transport(self._socket(deadline))
        try:
            transport.start_client(timeout=deadline - time.monotonic())
            key = transport.get_remote_server_key()
        except Exception as error:
            raise self._explained(error, deadline) from None
        finally:
            transport.close()
        return Key(key.get_name(), key.asbytes())

    def _socket(self, deadline: float) -> Any:
        """Return what carries the connection: TCP, a channel of the carrier's connection, or a ProxyCommand."""
        if self.carriers:
            return self._tunnel(deadline)
        if self.way.command is not None:
            return CommandSocket(self.way.command)
        try:
            return connect_tcp(self.way.address, self.way.port, deadline - time.monotonic())
        except socket.gaierror:
            raise self._unreachable(f"no address is known for the name {self.way.address}") from None
        except TimeoutError:
            waited = f"{self._settings.connect_timeout:g} s"
            raise self._unreachable(f"no answer from {self._place} within {waited}") from None
        except (ConnectionRefusedError, ConnectionResetError) as error:
            raise _TransientError(f"{self._place} refuses the connection: {error.strerror}") from None
        except OSError as error:
            raise self._unreachable(f"{self._place} cannot be reached: {error.strerror or error}") from None

    def _carrier(self) -> Link:
        """Return the first carrier that can be reached, connected; a carrier that could not be stays so."""
        failures: list[HostError] = []
        for carrier in self.carriers:
            failure = carrier.failure()
            if failure is None:
                return carrier
            failures.append(failure)
        reasons = "; ".join(f"its {self.way.via_role} {error.host}: {error.message}" for error in failures)
        raise UnreachableError(self.way.name, f"not reached: {reasons}", gateway=failures[0].host)

    def _tunnel(self, deadline: float) -> Any:
        carrier = self._carrier()
        name, transport = carrier.way.name, carrier.open().transport
        try:
            return transport.open_channel(
                "direct-tcpip",
                (self.way.address, self.way.port),
                ("127.0.0.1", 0),
                timeout=max(0.1, deadline - time.monotonic()),
            )
        except paramiko.ChannelException as error:
            if error.code == NOT_ALLOWED:
                raise UnreachableError(
                    self.way.name,
                    f"not reached: its {self.way.via_role} {name} does not forward connections "
                    "(AllowTcpForwarding in its sshd_config)",
                    gateway=name,
                ) from None
            raise _TransientError(f"{name} answers, {self._place} behind it does not: {error.text}") from None
        except (paramiko.SSHException, EOFError, OSError) as error:
            if transport.is_active():
                waited = f"{self._settings.connect_timeout:g} s"
                text = f"{name} answers, {self._place} behind it does not within {waited}"
                raise self._unreachable(text) from None
            text = f"not reached: the connection to its {self.way.via_role} {name} broke ({error or 'closed'})"
            raise UnreachableError(self.way.name, text, gateway=name) from None

    def _transport(self, sock: Any, **paramikos: Any) -> paramiko.Transport:
        """Return a transport that asks for the kinds of host key we know first, as ssh(1) does."""
        transport = paramiko.Transport(sock, **paramikos)  # version 4 gives more of them than 5
        transport.handshake_timeout = self._settings.connect_timeout
        transport.banner_timeout = self._settings.connect_timeout
        known = {key.type for key in self._settings.known_hosts.keys(self.way.key_name)}
        if "ssh-rsa" in known:  # the name of the key; those below are names of its signatures
            known |= {"rsa-sha2-512", "rsa-sha2-256"}
        options = transport.get_security_options()
        options.key_types = tuple(sorted(options.key_types, key=lambda type_: type_ not in known))
        return transport

    def _check_key(self, found: Key) -> None:
        """Raise HostKeyError unless `found` is recorded for the host."""
        name, known = self.way.key_name, self._settings.known_hosts.keys(self.way.key_name)
        if found in self._settings.known_hosts.revoked(name):
            text = f"the host key of {name} is revoked in known_hosts: {found.fingerprint} ({found.type})"
            raise HostKeyError(self.way.name, text, None, found.fingerprint)
        if found in known:
            return
        if not known:
            text = (
                f"the host key of {name} is not known: {found.fingerprint} ({found.type}); "
                "compare it with the host's console, then record it with `inv ssh.trust`"
            )
            raise HostKeyError(self.way.name, text, None, found.fingerprint)
        recorded = next((key for key in known if key.type == found.type), known[0])
        text = (
            f"the host key of {name} HAS CHANGED: recorded {recorded.fingerprint} ({recorded.type}), "
            f"found {found.fingerprint} ({found.type}); the host was reinstalled, or somebody stands between: "
            "compare it with the host's console, then record it with `inv ssh.trust`"
        )
        raise HostKeyError(self.way.name, text, recorded.fingerprint, found.fingerprint)

    def _explained(self, error: Exception, deadline: float) -> Exception:
        """Return what a failed attempt means to the user."""
        if isinstance(error, HostError):
            return error
        if isinstance(error, LoginRefusedError):
            return self._unreachable(f"login as {self.way.user} at {self._place} failed: {error}")
        if time.monotonic() >= deadline - 0.1:
            waited = f"{self._settings.connect_timeout:g} s"
            return self._unreachable(f"{self._place} takes connections, but no SSH server answers within {waited}")
        if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
            return self._unreachable(f"{self._place} and we have no algorithm in common: {error}")
        if isinstance(error, (EOFError, OSError)) or "protocol banner" in str(error):
            return _TransientError(f"{self._place} takes connections and closes them at once")
        return self._unreachable(f"no SSH connection to {self._place}: {error}")


def open_session(link: Link) -> Any:
    """Return a new session channel on the link's connection (`paramiko.Channel`), made first where there is none."""
    connection = link.open()
    try:
        return connection.create_session()
    except (paramiko.SSHException, EOFError, OSError) as error:
        link.drop()  # it may be half dead: the next use makes a fresh one
        text = f"the connection to {link.way.address} takes no further command: {error or 'closed'}"
        raise UnreachableError(link.way.name, text) from None
