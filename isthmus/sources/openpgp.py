"""Verifies an OpenPGP signature of apt's kind: a detached one, by an RSA key of version 4, over SHA-2.

What RFC 4880 leaves to choice and apt's repositories do not use is refused: other keys, other hashes, version 3. There
is no gpgv on every workstation, and no library for this that is kept up; the arithmetic is cryptography's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from isthmus.errors import SourceError

SIGNATURE, PUBLIC_KEY, USER_ID, SUBKEY = 2, 6, 13, 14
"""Packets."""
OF_DOCUMENT, OF_USER_IDS, OF_SUBKEY, OF_PRIMARY, OF_KEY = 0x00, range(0x10, 0x14), 0x18, 0x19, 0x1F
REVOKED, SUBKEY_REVOKED = 0x20, 0x28
"""What a signature is about."""
CREATED, KEY_EXPIRES, ISSUER, FLAGS, EMBEDDED = 2, 9, 16, 27, 32
"""Subpackets."""
MAY_SIGN = 0x02
RSA = (1, 3)
HASHES: dict[int, hashes.HashAlgorithm] = {8: hashes.SHA256(), 9: hashes.SHA384(), 10: hashes.SHA512()}

_ARMOR = re.compile(
    r"-----BEGIN PGP [A-Z ]+-----\r?\n(?:[^\r\n]+: .*\r?\n)*\r?\n(.*?)(?:\r?\n=[^\r\n]*)?\r?\n-----END", re.S
)


@dataclass(frozen=True)
class PublicKey:
    """One key of a certificate; the primary one or a subkey."""

    body: bytes
    created: datetime
    numbers: rsa.RSAPublicNumbers

    @property
    def hashed(self) -> bytes:
        """Return the form in which it is signed and known."""
        return b"\x99" + len(self.body).to_bytes(2, "big") + self.body

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint in capitals."""
        return hashlib.sha1(self.hashed, usedforsecurity=False).hexdigest().upper()


@dataclass(frozen=True)
class Signature:
    """One signature of version 4."""

    kind: int
    algorithm: int
    hash: int
    hashed: bytes
    """What of itself it signs."""
    subpackets: dict[int, bytes]
    """Only those that are signed, and the issuer."""
    value: int

    @property
    def created(self) -> datetime:
        """When it was made; long ago where it does not say so."""
        return _time(self.subpackets.get(CREATED, bytes(4)))

    def is_by(self, key: PublicKey, data: bytes) -> bool:
        """Return whether a key has made it over this data."""
        if self.algorithm not in RSA or self.hash not in HASHES:
            return False
        algorithm = HASHES[self.hash]
        digest = hashes.Hash(algorithm)
        digest.update(data + self.hashed + b"\x04\xff" + len(self.hashed).to_bytes(4, "big"))
        try:
            public = key.numbers.public_key()
            value = self.value.to_bytes((key.numbers.n.bit_length() + 7) // 8, "big")
            public.verify(value, digest.finalize(), padding.PKCS1v15(), utils.Prehashed(algorithm))
        except (InvalidSignature, ValueError, OverflowError):
            return False
        return True


@dataclass(frozen=True)
class Certificate:
    """A primary key with what it says of itself, and its subkeys."""

    primary: PublicKey
    ends: datetime | None
    """When the primary key ends by its own newest word; None for never."""
    revoked: bool
    signers: tuple[tuple[PublicKey, datetime | None], ...]
    """(Key that may sign documents, when it ends)."""

    def verify(self, data: bytes, detached: bytes, now: datetime) -> None:
        """Raise SourceError unless a key of this certificate that is valid now has signed the data."""
        name = self.primary.fingerprint
        if self.revoked:
            raise SourceError(f"the key {name} was revoked")
        if self.ends is not None and self.ends <= now:
            raise SourceError(f"the key {name} ended on {self.ends:%Y-%m-%d}")
        found = [signature for signature in _signatures(detached) if signature.kind == OF_DOCUMENT]
        for key, ends in self.signers:
            if any(signature.is_by(key, data) for signature in found):
                if ends is not None and ends <= now:
                    raise SourceError(f"the signing key {key.fingerprint} of {name} ended on {ends:%Y-%m-%d}")
                return
        raise SourceError(f"no good signature of the key {name}")


def read_certificate(content: bytes, fingerprint: str) -> Certificate:
    """Return the certificate with this fingerprint out of a file of keys; SourceError when it is not there."""
    packets = list(_packets(_binary(content)))
    starts = [index for index, (tag, _) in enumerate(packets) if tag == PUBLIC_KEY]
    found = []
    for start, end in zip(starts, [*starts[1:], len(packets)], strict=False):
        primary = _key(packets[start][1])
        if primary and primary.fingerprint == fingerprint:
            return _certificate(primary, packets[start + 1 : end])
        found.append(primary.fingerprint if primary else "one of a kind that is not known")
    raise SourceError(f"found the key {', '.join(found) or 'nothing'}, expected {fingerprint}")


def _certificate(primary: PublicKey, packets: list[tuple[int, bytes]]) -> Certificate:
    said = list(_said_by(primary, packets))
    own = [signature for signature, _ in said if signature.kind in OF_USER_IDS or signature.kind == OF_KEY]
    if not own:
        raise SourceError(f"the key {primary.fingerprint} says nothing of itself that it has signed")
    newest = max(own, key=_created)
    ends = _ends(primary, newest)
    signers = [(primary, ends)] if _may_sign(newest, default=True) else []
    for key in dict.fromkeys(subkey for _, subkey in said if subkey):
        about = [signature for signature, subkey in said if subkey == key]
        bindings = [signature for signature in about if signature.kind == OF_SUBKEY]
        if len(bindings) == len(about) and _binds(max(bindings, key=_created), primary, key):  # none takes it back
            signers.append((key, _ends(key, max(bindings, key=_created))))
    revoked = any(signature.kind == REVOKED for signature, _ in said)
    return Certificate(primary, ends, revoked, tuple(signers))


def _said_by(primary: PublicKey, packets: list[tuple[int, bytes]]) -> Iterator[tuple[Signature, PublicKey | None]]:
    """Yield every signature that the primary key has really made in its certificate, with the subkey it is about."""
    about, subkey = primary.hashed, None  # type: bytes, PublicKey | None
    for tag, body in packets:
        if tag == USER_ID:
            about, subkey = primary.hashed + b"\xb4" + len(body).to_bytes(4, "big") + body, None
        elif tag == SUBKEY:
            subkey = _key(body)
            about = primary.hashed + (subkey.hashed if subkey else b"")
        elif tag == SIGNATURE and (signature := _signature(body)):
            of_key = signature.kind in (OF_KEY, REVOKED)
            of_subkey = signature.kind in (OF_SUBKEY, SUBKEY_REVOKED)
            if signature.is_by(primary, primary.hashed if of_key else about):
                yield signature, subkey if of_subkey else None


def _binds(binding: Signature, primary: PublicKey, key: PublicKey) -> bool:
    """Return whether a subkey may sign, and has agreed to be one."""
    back = _signature(binding.subpackets.get(EMBEDDED, b""))
    agreed = back is not None and back.kind == OF_PRIMARY and back.is_by(key, primary.hashed + key.hashed)
    return agreed and _may_sign(binding, default=False)


def _created(signature: Signature) -> datetime:
    return signature.created


def _ends(key: PublicKey, signature: Signature) -> datetime | None:
    seconds = int.from_bytes(signature.subpackets.get(KEY_EXPIRES, b""), "big")
    return key.created + timedelta(seconds=seconds) if seconds else None


def _may_sign(signature: Signature, *, default: bool) -> bool:
    flags = signature.subpackets.get(FLAGS)
    return default if not flags else bool(flags[0] & MAY_SIGN)


# --- reading packets ----------------------------------------------------------------------------------------------


def _binary(content: bytes) -> bytes:
    if b"-----BEGIN PGP" not in content:
        return content
    blocks = _ARMOR.findall(content.decode("ascii", "replace"))
    try:
        return b"".join(base64.b64decode("".join(block.split()), validate=True) for block in blocks)
    except binascii.Error:
        raise SourceError("what should be OpenPGP in ASCII armor is damaged") from None


def _packets(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (tag, body) of each packet; SourceError when they are not whole."""
    position = 0
    try:
        while position < len(content):
            head, position = content[position], position + 1
            if not head & 0x80:
                raise SourceError("what should be OpenPGP is something else")
            if head & 0x40:
                tag = head & 0x3F
                length, position = _length(content, position)
            else:
                tag, size = (head >> 2) & 0x0F, 1 << (head & 3)
                if size > 4:
                    raise SourceError("an OpenPGP packet has no length")
                length, position = int.from_bytes(content[position : position + size], "big"), position + size
            if position + length > len(content):
                raise SourceError("an OpenPGP packet is cut off")
            yield tag, content[position : position + length]
            position += length
    except IndexError:
        raise SourceError("an OpenPGP packet is cut off") from None


def _length(content: bytes, position: int) -> tuple[int, int]:
    """Return a length of the new format, and where it ends."""
    first = content[position]
    if first < 192:
        return first, position + 1
    if first < 224:
        return ((first - 192) << 8) + content[position + 1] + 192, position + 2
    if first == 255:
        return int.from_bytes(content[position + 1 : position + 5], "big"), position + 5
    raise SourceError("an OpenPGP packet comes in parts")


def _key(body: bytes) -> PublicKey | None:
    """Return an RSA key of version 4; None for others."""
    if len(body) < 6 or body[0] != 4 or body[5] not in RSA:
        return None
    n, rest = _integer(body[6:])
    e, _ = _integer(rest)
    return PublicKey(body, _time(body[1:5]), rsa.RSAPublicNumbers(e, n))


def _signatures(content: bytes) -> list[Signature]:
    found = (_signature(body) for tag, body in _packets(_binary(content)) if tag == SIGNATURE)
    return [signature for signature in found if signature]


def _signature(body: bytes) -> Signature | None:
    """Return a signature of version 4; None for others."""
    if len(body) < 10 or body[0] != 4:
        return None
    end = 6 + int.from_bytes(body[4:6], "big")
    unhashed = end + 2 + int.from_bytes(body[end : end + 2], "big")
    if unhashed + 4 > len(body):
        return None
    subpackets = dict(_subpackets(body[end + 2 : unhashed]))
    # Whatever is not signed counts for nothing, but for what proves itself: a signature inside, and who to look for.
    subpackets = {kind: value for kind, value in subpackets.items() if kind in (EMBEDDED, ISSUER)}
    subpackets.update(_subpackets(body[6:end]))
    value, _ = _integer(body[unhashed + 2 :])
    return Signature(body[1], body[2], body[3], body[:end], subpackets, value)


def _subpackets(content: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(content):
        first = content[position]
        if first < 192:
            length, position = first, position + 1
        elif first < 255:
            length, position = (
                ((first - 192) << 8) + int.from_bytes(content[position + 1 : position + 2], "big") + 192,
                position + 2,
            )
        else:
            length, position = int.from_bytes(content[position + 1 : position + 5], "big"), position + 5
        if length < 1 or position + length > len(content):
            return
        yield content[position] & 0x7F, content[position + 1 : position + length]
        position += length


def _integer(content: bytes) -> tuple[int, bytes]:
    """Return a number with its length in bits before it, and what follows."""
    size = (int.from_bytes(content[:2], "big") + 7) // 8
    return int.from_bytes(content[2 : 2 + size], "big"), content[2 + size :]


def _time(content: bytes) -> datetime:
    return datetime.fromtimestamp(int.from_bytes(content, "big"), timezone.utc)
