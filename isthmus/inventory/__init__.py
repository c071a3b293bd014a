"""hosts.toml -> Inventory, or all its problems at once, each at its key with what was found and expected.

After this package nobody checks the input again. Reading the file is its only I/O. In reading order:
sections.py   which keys each section may have and what they become
values.py     what one value may be
agreement.py  what values must be to each other
tables.py     reads a table key by key
problems.py   collects what is wrong, in the order of the file and safe to print
"""

from __future__ import annotations

import os

import tomli

from isthmus.errors import InventoryError, Problem
from isthmus.inventory.problems import Problems, printable, shortened
from isthmus.inventory.sections import read_inventory
from isthmus.inventory.tables import Table
from isthmus.model import Inventory

__all__ = ["load_inventory", "parse_inventory", "parse_toml"]

MOST_BYTES = 8_000_000
"""Larger files are not an inventory; 10,000 hosts take less than 1 MB."""

THE_FILE = "the file"
"""Where a problem is that lies at no key and no line."""


def load_inventory(path: str | os.PathLike[str]) -> Inventory:
    """Read an inventory from a file of UTF-8 text.

    Raises InventoryError with every problem of the file, that it cannot be read included.
    """
    source = os.fspath(path)
    try:
        with open(source, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise _refusal(source, THE_FILE, "nothing there", "an inventory in TOML") from None
    except IsADirectoryError:
        raise _refusal(source, THE_FILE, "a directory", "an inventory in TOML") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise _refusal(source, THE_FILE, f"it unreadable ({reason})", "an inventory in TOML") from None
    if len(content) > MOST_BYTES:
        raise _refusal(source, THE_FILE, f"more than {MOST_BYTES:,} bytes", "a smaller inventory")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        where = f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"
        raise _refusal(source, where, f"the byte 0x{content[error.start]:02x}", "UTF-8 text") from None
    return parse_inventory(text, source)


def parse_inventory(text: str, source: str) -> Inventory:
    """Return the inventory that a text in TOML describes; `source` is the file's name in messages.

    Raises InventoryError with every problem of the text. Pure.
    """
    tables = parse_toml(text, source)
    problems = Problems()
    inventory = read_inventory(Table((), tables, problems), source)
    if problems or inventory is None:
        raise InventoryError(printable(source), problems.in_file_order(tables))
    return inventory


# --- TOML ---------------------------------------------------------------------------------------------------------

_SAID_PLAINLY = {
    "Cannot overwrite a value": "each key only once",
    "Cannot declare": "each section only once",
}
"""What tomli's messages for double keys mean to somebody who writes hosts.toml."""


def parse_toml(text: str, source: str) -> dict[str, object]:
    """Return the tables of a text in TOML; InventoryError, with line and column, for what is none."""
    if text.startswith("\ufeff"):
        raise _refusal(source, "line 1, column 1", "a byte order mark", "UTF-8 text without one")
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        line = printable(shortened(error.doc.split("\n")[error.lineno - 1].strip()))
        expected = f"valid TOML ({printable(error.msg)})"
        for message, plain in _SAID_PLAINLY.items():
            if error.msg.startswith(message):
                expected = plain
        raise _refusal(source, where, f"`{line}`" if line else "nothing more", expected) from None
    except RecursionError:
        raise _refusal(source, THE_FILE, "arrays or tables nested hundreds deep", "none so deep") from None
    except ValueError:  # Python's limit for decimal integers, 4300 digits
        raise _refusal(source, THE_FILE, "a number of thousands of digits", "none so long") from None


def _refusal(source: str, where: str, found: str, expected: str) -> InventoryError:
    return InventoryError(printable(source), (Problem(where, found, expected),))
