"""Verifies the signature of an apt repository with Sequoia, as apt itself does since Debian 13.

There is no gpgv on every workstation. What Sequoia's policy no longer counts, such as SHA-1 and signatures of version
3, does not count here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from isthmus.errors import SourceError

if TYPE_CHECKING:
    from pysequoia import Cert


@dataclass(frozen=True)
class Certificate:
    """A primary key with its subkeys and what it says of itself."""

    cert: Cert
    fingerprint: str
    """Of the primary key, in capitals."""
    ends: datetime | None
    """None for never."""

    def verify(self, data: bytes, detached: bytes, now: datetime) -> None:
        """Raise SourceError unless a key of this certificate that is valid now has signed the data."""
        from pysequoia import Sig, verify

        if self.cert.is_revoked:
            raise SourceError(f"the key {self.fingerprint} was revoked")
        if self.ends is not None and self.ends <= now:
            raise SourceError(f"the key {self.fingerprint} ended on {self.ends:%Y-%m-%d}")
        try:
            signature = Sig.from_bytes(detached)
        except Exception as error:  # its errors have no class of their own
            raise SourceError(f"what should be an OpenPGP signature is something else: {_reason(error)}") from None
        try:
            verify(bytes=data, store=lambda _: [self.cert], signature=signature)
        except Exception as error:
            raise SourceError(f"no good signature of the key {self.fingerprint}: {_reason(error)}") from None


def read_certificate(content: bytes, fingerprint: str) -> Certificate:
    """Return the certificate with this fingerprint out of a file of keys; SourceError when it is not there."""
    from pysequoia import Cert

    try:
        certificates = {cert.fingerprint.upper(): cert for cert in Cert.split_bytes(content)}
        found = certificates.get(fingerprint)
        ends = found.expiration if found else None
    except Exception as error:
        raise SourceError(f"what should be an OpenPGP key is something else: {_reason(error)}") from None
    if found is None:
        raise SourceError(f"found the key {', '.join(certificates) or 'nothing'}, expected {fingerprint}")
    return Certificate(found, fingerprint, ends)


def _reason(error: Exception) -> str:
    """Return the first line of what Sequoia says."""
    return next(iter(str(error).splitlines()), type(error).__name__)
