"""Reads one table of a TOML file key by key; notes what is missing, wrong or unknown instead of raising."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from isthmus.inventory.problems import Path, Problems, did_you_mean, key_text, one_of, toml_text
from isthmus.inventory.values import UnexpectedError, name

T = TypeVar("T")
Default = TypeVar("Default")


class Table:
    """One table. Read every key that it may have, then call `refuse_the_rest`."""

    def __init__(self, path: Path, content: Mapping[str, object], problems: Problems) -> None:
        self.path = path
        self.problems = problems
        self._content = content
        self._known: list[str] = []

    def has(self, key: str) -> bool:
        """Return whether the file gives the key."""
        return key in self._content

    def names(self) -> tuple[str, ...]:
        """Return every key that the file gives, in its order."""
        return tuple(self._content)

    def optional(self, key: str, read: Callable[[object], T], default: Default) -> T | Default:
        """Return a value; the default where it is missing or wrong."""
        self._known.append(key)
        if key not in self._content:
            return default
        value = self._content[key]
        try:
            return read(value)
        except UnexpectedError as error:
            found = value if error.found is None else error.found
            self._note(key, toml_text(found), error.expected)
            return default

    def required(self, key: str, read: Callable[[object], T], example: str) -> T | None:
        """Return a value; None where it is missing or wrong."""
        if key not in self._content and not self.problems.at(self.path):
            self._note(key, "nothing", f"a line such as {key} = {example}")
        return self.optional(key, read, None)

    def table(self, key: str, *, needed: bool = False) -> Table:
        """Return the table at a key, an empty one where it is missing or something else."""
        self._known.append(key)
        path = (*self.path, key)
        content = self._content.get(key, {})
        if not isinstance(content, dict):
            self._note(key, toml_text(content), f"a section [{key_text(path)}]")
            content = {}
        elif needed and key not in self._content:
            self._note(key, "nothing", f"a section [{key_text(path)}]")
        return Table(path, content, self.problems)

    def named_tables(self, key: str, example: str, *, needed: bool = False) -> Iterator[tuple[str, Table]]:
        """Yield each table `[KEY.NAME]` with its NAME, which is checked; with `needed` there must be one."""
        tables = self.table(key)
        if needed and not tables._content and not self.problems.at(tables.path):
            self._note(key, "nothing", f"a section such as [{key}.{example}]")
        for found in tables._content:
            try:
                name(found)
            except UnexpectedError as error:
                tables._note(found, f"the name {toml_text(found)}", error.expected)
            yield found, tables.table(found)

    def refuse_the_rest(self) -> None:
        """Note every key that nobody asked for."""
        for key in self._content.keys() - set(self._known):
            found = f"the unknown key {key_text((key,))} = {toml_text(self._content[key])}"
            expected = f"one of {one_of(self._known)}{did_you_mean(key, tuple(self._known))}"
            self._note(key, found, expected)

    def _note(self, key: str, found: str, expected: str) -> None:
        self.problems.note((*self.path, key), found, expected)
