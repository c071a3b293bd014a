"""Proving who we are: the agent's keys and the key files, in OpenSSH's order, each file read once per fleet."""

from __future__ import annotations

import base64
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

with warnings.catch_warnings():  # see connection.py
    warnings.simplefilter("ignore")
    import paramiko

DEFAULT_FILES = ("~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519")
"""What ssh(1) tries when no IdentityFile is set, in its order."""


class LoginRefusedError(Exception):
    """The host did not let us in; the text says what was tried."""


class Keyring:
    """The key files of a fleet. Safe between threads.

    A file is read once, not once per host: checking a 4096-bit RSA key takes a tenth of a second.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, paramiko.PKey | str] = {}

    def login(self, ssh_config: Mapping[str, Any], fabric_config: object, username: str) -> Login:
        """Return one login; the signature is that of Fabric's `authentication.strategy_class`."""
        del fabric_config
        return Login(self, ssh_config, username)

    def file(self, path: str) -> paramiko.PKey | str:
        """Return the private key in a file, or in words why it cannot be used."""
        with self._lock:
            if path not in self._files:
                self._files[path] = _read_key(path)
            return self._files[path]


def _read_key(path: str) -> paramiko.PKey | str:
    try:
        return paramiko.PKey.from_path(path)
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (TypeError, paramiko.PasswordRequiredException):  # TypeError: cryptography's, when no password is given
        return "is encrypted: add it to ssh-agent"
    except Exception as error:  # many kinds, by format: cryptography's, Paramiko's, ValueError
        return f"is not a private key we understand: {error}"


def _public_half(path: str) -> bytes | None:
    """Return the wire form of the public key beside a private key file, which tells which of the agent's keys it is."""
    try:
        text = Path(f"{path.removesuffix('.pub')}.pub").expanduser().read_text()
        return base64.b64decode(text.split()[1], validate=True)
    except (OSError, ValueError, IndexError):
        return None


class Login:
    """One login at one host, for Paramiko's `auth_strategy`."""

    def __init__(self, keyring: Keyring, ssh_config: Mapping[str, Any], username: str) -> None:
        self._keyring = keyring
        self._options = ssh_config
        self._user = username
        self._unusable: list[str] = []

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Log in with the first key the host takes. Raises LoginRefusedError with all that was tried."""
        refused = []
        for label, key in self._candidates():
            try:
                further = transport.auth_publickey(self._user, key)
            except paramiko.BadAuthenticationType as error:
                offered = ", ".join(error.allowed_types)
                raise LoginRefusedError(f"the host takes no keys, only {offered}") from None
            except (paramiko.SSHException, EOFError, OSError) as error:
                refused.append(label)
                if not transport.is_active():
                    raise LoginRefusedError(f"the host hung up after {', '.join(refused)}") from None
                if "timeout" in str(error).lower():
                    raise LoginRefusedError(f"no answer to {label} in time") from None
                continue
            if transport.is_authenticated():
                return
            raise LoginRefusedError(f"{label} was taken, but the host also asks for {', '.join(further)}")
        tried = f"refused {', '.join(refused)}" if refused else "there is no key to try"
        raise LoginRefusedError("; ".join([tried, *self._unusable]))

    def _candidates(self) -> Iterator[tuple[str, paramiko.PKey]]:
        """Yield keys as ssh(1) orders them: the agent's that are in the files, its others, the files'."""
        chosen = self._options.get("identityfile")
        files: Iterable[str] = chosen or DEFAULT_FILES
        wanted = {half: path for path in files if (half := _public_half(path))}
        agent = paramiko.Agent() if self._options.get("identityagent") != "none" else None
        try:
            held = {key.asbytes(): key for key in (agent.get_keys() if agent else ())}
            for blob in sorted(held, key=lambda blob: blob not in wanted):
                if blob in wanted or self._options.get("identitiesonly") != "yes":
                    yield (
                        f"the agent's key {wanted.get(blob) or held[blob].comment or held[blob].get_name()}",
                        held[blob],
                    )
            for path in files:
                if _public_half(path) not in held:
                    key = self._keyring.file(path)
                    if isinstance(key, str):
                        if chosen or key != "does not exist":
                            self._unusable.append(f"{path} {key}")
                    else:
                        yield path, key
        finally:
            if agent is not None:
                agent.close()
