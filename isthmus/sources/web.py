"""HTTP for bad lines: tries again, waits when told to, and goes on with a file where the line broke.

Proxies are the environment's (https_proxy, no_proxy), and so are certificates (SSL_CERT_FILE).
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote

from isthmus.errors import SourceError

T = TypeVar("T")
Place = TypeVar("Place")

SILENCE_S = 30
"""So long may nothing come."""
TRIES = 4
MOST_BYTES = 64_000_000
"""For what is kept in memory: an index."""
LONGEST_WAIT_S = 60
BLOCK = 1 << 18
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Statuses that may be others in a moment."""

OF_THE_LINE = (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError)
NO_WAY = (errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH)
"""What the line is called, too, when it goes in the middle of an answer."""


class StatusError(SourceError):
    """A server has answered, but not with what was asked for."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = headers
        super().__init__(f"answered {status} {http.client.responses.get(status, '')}".rstrip())


class NoAnswerError(SourceError):
    """A server was not reached, or said nothing to the end."""


@dataclass(frozen=True)
class Answer:
    """What a server has sent."""

    body: bytes
    headers: Mapping[str, str]


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows as usual, but never out of TLS."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise SourceError(f"wants to lead from HTTPS to {newurl.partition(':')[0]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def first_that_works(places: Iterable[Place], attempt: Callable[[Place], T]) -> T:
    """Return what the first place gives that does not fail; SourceError with what each has said."""
    said = []
    for place in places:
        outcome = _outcome(attempt, place)
        if not isinstance(outcome, SourceError):
            return outcome
        said.append(f"{place}: {outcome}")
    raise SourceError("; ".join(said))


def _outcome(attempt: Callable[[Place], T], place: Place) -> T | SourceError:
    try:
        return attempt(place)
    except SourceError as error:
        return error


def get(url: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return what is at a URL; StatusError for an answer that says no, SourceError when there is none.

    `headers` go to this server only, not to where it may lead.
    """

    def ask(_: int) -> Answer:
        with _open(url, headers or {}) as answer:
            body = answer.read(MOST_BYTES + 1)
            if len(body) > MOST_BYTES:
                raise SourceError(f"sends more than {MOST_BYTES // 1_000_000} MB")
            found = _lower(answer.headers)
            length = found.get("content-length", "")
            if length.isdecimal() and len(body) != int(length):  # read() with a limit does not tell
                raise ConnectionError(f"the line broke after {len(body)} bytes")
            return Answer(body, found)

    return _persistently(ask)


def download(url: str, target: Path, sha256: str, size: int, headers: Callable[[], Mapping[str, str]] = dict) -> None:
    """Have a file with this sum at `target`: one that is there is not fetched again, a part of one is gone on with."""
    if target.is_file() and sum_of(target) == sha256:
        return
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)

    def ask(_: int) -> None:
        _fetch(url, part, size, headers())

    resumed = part.exists()
    _persistently(ask, progress=lambda: part.stat().st_size if part.exists() else 0)
    if resumed and sum_of(part) != sha256:  # the part was of another file
        part.unlink()
        _persistently(ask, progress=lambda: part.stat().st_size if part.exists() else 0)
    found = sum_of(part)
    if found != sha256:
        part.unlink()
        raise SourceError(f"{url} arrived with the sum {found}, expected {sha256}")
    part.replace(target)


def sum_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _fetch(url: str, part: Path, size: int, headers: Mapping[str, str]) -> None:
    """Fetch what is missing of a file."""
    have = part.stat().st_size if part.exists() else 0
    if have == size:
        return
    if have > size:
        part.unlink()
        have = 0
    wanted = {**headers, **({"Range": f"bytes={have}-"} if have else {})}
    try:
        answer = _open(url, wanted)
    except StatusError as error:
        if error.status == 416:  # it was of another file
            part.unlink()
            raise ConnectionError("the part of it that is here does not fit") from None
        raise
    with answer:
        goes_on = answer.status == 206 and _lower(answer.headers).get("content-range", "").startswith(f"bytes {have}-")
        with part.open("ab" if goes_on else "wb") as file:
            arrived = have if goes_on else 0
            while block := answer.read(BLOCK):
                arrived += len(block)
                if arrived > size:
                    raise SourceError(f"{url} is longer than the {size} bytes expected")
                file.write(block)
        if arrived < size:
            raise ConnectionError(f"the line broke after {arrived} of {size} bytes")


def _open(url: str, headers: Mapping[str, str]) -> Any:
    request = urllib.request.Request(quote(url, safe="%/:=&?~+,;@()!$'*#[]"))
    request.add_header("User-Agent", "isthmus")
    for name, value in headers.items():
        # A server may lead to another one, which has no business with our token.
        (request.add_header if name in ("Range", "Accept") else request.add_unredirected_header)(name, value)
    opener = urllib.request.build_opener(_SafeRedirects)
    try:
        return opener.open(request, timeout=SILENCE_S)
    except urllib.error.HTTPError as error:
        with error:
            raise StatusError(error.code, _lower(error.headers)) from None


def _persistently(ask: Callable[[int], T], progress: Callable[[], int] = lambda: 0) -> T:
    """Ask until there is an answer or it is hopeless. As long as something arrives it is not."""
    failed, before = 0, progress()
    while True:
        wait = 0.0
        try:
            return ask(failed)
        except StatusError as error:
            if error.status not in PASSING:
                raise
            last: SourceError = error
            with suppress(ValueError):
                wait = float(error.headers.get("retry-after", ""))
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and not isinstance(error, OF_THE_LINE) and error.errno not in NO_WAY:
                raise  # a full disk
            last = NoAnswerError(_plainly(error))
            if _hopeless(error):
                raise last from None
        now = progress()
        failed = 0 if now > before else failed + 1
        before = now
        if failed >= TRIES or wait > LONGEST_WAIT_S:
            raise last
        time.sleep(max(wait, 2**failed - 1))


def _hopeless(error: Exception) -> bool:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    unknown = isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME
    return unknown or isinstance(reason, ssl.SSLCertVerificationError)


def _plainly(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return f"nothing came for {SILENCE_S} s"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {reason.verify_message}"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    if isinstance(reason, http.client.IncompleteRead):
        return "the line broke"
    return str(reason) or type(reason).__name__


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
