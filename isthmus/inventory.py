"""hosts.toml -> Inventory, or all its problems at once, each at its key with what was found and expected.

After this module nobody checks the input again. Reading the file is the only I/O.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address
from typing import TypeVar

import tomli

from isthmus import values
from isthmus.agreement import Draft, check_agreement
from isthmus.errors import InventoryError, Problem
from isthmus.model import Host, Inventory, Kubernetes, Mesh, Resource, Site, Ssh
from isthmus.problems import Path, Problems, did_you_mean, one_of, printable, toml_text

MOST_BYTES = 16_000_000
"""Larger files are refused unread; 10,000 hosts take less than 1 MB."""

THE_FILE = "the file"
"""Where a problem is that lies at no key and no line."""

T = TypeVar("T")
Default = TypeVar("Default")


def load_inventory(path: str | os.PathLike[str]) -> Inventory:
    """Read an inventory from a file of UTF-8 text.

    Raises InventoryError with every problem of the file, its missing or unreadable included.
    """
    source = os.fspath(path)
    try:
        with open(source, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise _refusal(source, Problem(THE_FILE, "nothing there", "an inventory")) from None
    except IsADirectoryError:
        raise _refusal(source, Problem(THE_FILE, "a directory", "an inventory")) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise _refusal(source, Problem(THE_FILE, f"it unreadable ({reason})", "an inventory")) from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{content[error.start]:02x}"
        raise _refusal(source, Problem(f"line {line}", found, "UTF-8 text")) from None
    return parse_inventory(text, source)


def parse_inventory(text: str, source: str) -> Inventory:
    """Return the inventory that a text in TOML describes; `source` is the file's name in messages.

    Raises InventoryError with every problem of the text. Pure.
    """
    tables = _parse_toml(text, source)
    problems = Problems()
    inventory = _read_inventory(_Table((), tables, problems), source)
    if problems or inventory is None:
        raise InventoryError(printable(source), problems.in_file_order(tables))
    return inventory


# --- TOML ---------------------------------------------------------------------------------------------------------

_SAID_PLAINLY = {
    "Cannot overwrite a value": "each key only once",
    "Cannot declare": "each section only once",
}
"""What tomli's messages for double keys mean to somebody who writes hosts.toml."""


def _parse_toml(text: str, source: str) -> dict[str, object]:
    if len(text) > MOST_BYTES:
        raise _refusal(source, Problem(THE_FILE, f"more than {MOST_BYTES:,} bytes", "a smaller inventory"))
    if text.startswith("\ufeff"):
        raise _refusal(source, Problem("line 1, column 1", "a byte order mark", "UTF-8 text without one"))
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise _refusal(source, _syntax_problem(error)) from None
    except RecursionError:
        raise _refusal(source, Problem(THE_FILE, "arrays or tables nested too deep", "no deeper ones")) from None
    except ValueError:  # Python's limit for decimal integers, 4300 digits
        raise _refusal(source, Problem(THE_FILE, "a number of thousands of digits", "no such number")) from None


def _syntax_problem(error: tomli.TOMLDecodeError) -> Problem:
    lines = error.doc.split("\n")
    line = lines[error.lineno - 1].strip()
    expected = f"valid TOML ({printable(error.msg)})"
    for message, plain in _SAID_PLAINLY.items():
        if error.msg.startswith(message):
            expected = plain
    return Problem(f"line {error.lineno}, column {error.colno}", toml_text(line) if line else "its end", expected)


def _refusal(source: str, problem: Problem) -> InventoryError:
    return InventoryError(printable(source), (problem,))


# --- tables -------------------------------------------------------------------------------------------------------


class _Table:
    """One table of the file, read key by key; what is wrong is noted, and so, at the end, is what nobody read."""

    def __init__(self, path: Path, content: Mapping[str, object], problems: Problems) -> None:
        self.path = path
        self.problems = problems
        self._content = content
        self._known: list[str] = []

    def has(self, key: str) -> bool:
        """Return whether the file gives the key."""
        self._known.append(key)
        return key in self._content

    def optional(self, key: str, read: Callable[[object], T], default: Default) -> T | Default:
        """Return a value; the default where it is missing or wrong."""
        self._known.append(key)
        if key not in self._content:
            return default
        value = self._content[key]
        try:
            return read(value)
        except values.UnexpectedError as error:
            found = value if error.found is None else error.found
            self.problems.note((*self.path, key), toml_text(found), error.expected)
            return default

    def required(self, key: str, read: Callable[[object], T], example: str) -> T | None:
        """Return a value; None where it is missing or wrong."""
        if key not in self._content and not self.problems.at(self.path):
            self.problems.note((*self.path, key), "nothing", f"{key} = {example}")
        return self.optional(key, read, None)

    def table(self, key: str, header: str = "") -> _Table:
        """Return the table at a key, empty where it is missing; a header makes it required."""
        self._known.append(key)
        path = (*self.path, key)
        content = self._content.get(key, {})
        if not isinstance(content, dict):
            self.problems.note(path, toml_text(content), f"a section such as {header}" if header else "a table")
        elif not content and header:
            self.problems.note(path, "nothing", f"a section such as {header}")
        return _Table(path, content if isinstance(content, dict) else {}, self.problems)

    def named_tables(self) -> Iterator[tuple[str, _Table]]:
        """Yield every table inside this one with its name, which is checked."""
        for name in self._content:
            try:
                values.name(name)
            except values.UnexpectedError as error:
                self.problems.note((*self.path, name), f"the name {toml_text(name)}", error.expected)
            yield name, self.table(name)

    def refuse_the_rest(self) -> None:
        """Note every key that nobody asked for."""
        for key in self._content.keys() - set(self._known):
            found = f"an unknown key with {toml_text(self._content[key])}"
            expected = f"one of {one_of(self._known)}{did_you_mean(key, self._known)}"
            self.problems.note((*self.path, key), found, expected)


# --- sections -----------------------------------------------------------------------------------------------------


def _read_inventory(top: _Table, source: str) -> Inventory | None:
    draft = Draft()
    mesh = _read_mesh(top.table("mesh", "[mesh]"), draft)
    ssh = _read_ssh(top.table("ssh"), Ssh())
    sites = [_read_site(name, table, draft) for name, table in top.table("sites", "[sites.nanjing]").named_tables()]
    hosts = [_read_host(name, table, ssh, draft) for name, table in top.table("hosts", "[hosts.n1]").named_tables()]
    resources = [_read_resource(name, table, draft) for name, table in top.table("resources").named_tables()]
    kubernetes = _read_kubernetes(top.table("kubernetes"), draft) if top.has("kubernetes") else None
    top.refuse_the_rest()
    check_agreement(draft, top.problems)
    if mesh is None:
        return None
    return Inventory(
        source=source,
        mesh=mesh,
        ssh=ssh,
        sites={site.name: site for site in sites if site},
        hosts={host.name: host for host in hosts if host},
        resources={resource.name: resource for resource in resources if resource},
        kubernetes=kubernetes,
    )


def _read_mesh(table: _Table, draft: Draft) -> Mesh | None:
    supernet = draft.supernet = table.required("supernet", values.supernet, '"172.16.0.0/12"')
    interface = table.optional("interface", values.interface, Mesh.interface)
    listen_port = table.optional("listen_port", values.port, Mesh.listen_port)
    mtu = table.optional("mtu", values.mtu, Mesh.mtu)
    table.refuse_the_rest()
    return None if supernet is None else Mesh(supernet, interface, listen_port, mtu)


def _read_ssh(table: _Table, default: Ssh) -> Ssh:
    user = table.optional("user", values.user, default.user)
    port = table.optional("port", values.port, default.port)
    table.refuse_the_rest()
    return Ssh(user, port)


def _read_site(name: str, table: _Table, draft: Draft) -> Site | None:
    subnet = table.required("subnet", values.subnet, '"172.16.0.0/24"')
    gateways = table.required("gateways", values.gateways, '["n1"]')
    provider = table.optional("provider", values.provider, None)
    table.refuse_the_rest()
    draft.sites.append(name)
    if subnet is not None:
        draft.subnets[name] = subnet
    if gateways is not None:
        draft.gateways[name] = gateways[0]
    return None if subnet is None or gateways is None else Site(name, subnet, gateways, provider)


def _read_host(name: str, table: _Table, defaults: Ssh, draft: Draft) -> Host | None:
    site, address = _read_place(table, draft)
    public = table.optional("public", values.public_address, None)
    roles = table.optional("roles", values.roles, ())
    taints = table.optional("taints", values.taints, ())
    labels = table.optional("labels", values.labels, ())
    ssh = _read_ssh(table.table("ssh"), defaults)
    table.refuse_the_rest()
    draft.hosts.append(name)
    if public is not None:
        draft.public[name] = public
    if site is None or address is None:
        return None
    return Host(name, site, address, public, roles, taints, labels, ssh)


def _read_resource(name: str, table: _Table, draft: Draft) -> Resource | None:
    site, address = _read_place(table, draft)
    port = table.optional("port", values.port, None)
    table.refuse_the_rest()
    return None if site is None or address is None else Resource(name, site, address, port)


def _read_place(table: _Table, draft: Draft) -> tuple[str | None, IPv4Address | None]:
    site = table.required("site", values.text, '"nanjing"')
    address = table.required("address", values.private_address, '"172.16.0.1"')
    if site is not None:
        draft.site_of[table.path] = site
    if address is not None:
        draft.addresses[table.path] = address
    return site, address


def _read_kubernetes(table: _Table, draft: Draft) -> Kubernetes | None:
    version = table.required("version", values.version, '"1.36"')
    pods = draft.pod_subnet = table.required("pod_subnet", values.pod_subnet, '"10.244.0.0/16"')
    services = draft.service_subnet = table.required("service_subnet", values.service_subnet, '"10.96.0.0/12"')
    table.refuse_the_rest()
    if version is None or pods is None or services is None:
        return None
    return Kubernetes(version, pods, services)
