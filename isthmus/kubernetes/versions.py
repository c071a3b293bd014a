"""Versions of Kubernetes as numbers, to tell which is newer and by how many minors."""

from __future__ import annotations


def numbers(version: str) -> tuple[int, ...]:
    """Return (1, 36, 2) for 1.36.2, v1.36.2 or a package's 1.36.2-1.1; what is no number counts as 0."""
    parts = version.removeprefix("v").partition("-")[0].partition("+")[0].split(".")
    return tuple(int(part) if part.isdecimal() else 0 for part in parts)


def upstream(version: str) -> str:
    """Return 1.36.2 for a package's 1.36.2-1.1."""
    return version.partition("-")[0]


def minors_between(older: str, newer: str) -> int:
    """Return by how many minors one version is newer than another: 1 from 1.35.6 to 1.36.2, less than 0 for older."""
    (major, minor), (new_major, new_minor) = numbers(older)[:2], numbers(newer)[:2]
    return new_minor - minor if major == new_major else (new_major - major) * 1000


def next_minor(version: str) -> str:
    """Return 1.36 for 1.35.6."""
    major, minor = numbers(version)[:2]
    return f"{major}.{minor + 1}"
