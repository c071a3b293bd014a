"""The design's rules about which module may do what, read from the source; and proof that breaking one is seen."""

from __future__ import annotations

import ast
import os
from collections.abc import Container, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

LAYERS = [
    {"tasks"},
    {"commands"},
    {"report", "progress"},
    {"checkup"},
    {"mtu", "open_ports"},
    {"check", "paths", "lab", "prune", "drain", "rotate", "cluster"},
    {"apply", "export", "trust", "packets", "sources"},
    {"presharing"},
    {"survey"},
    {"remote"},
    # Everything below has no I/O, no clock and no randomness.
    {"host_scripts", "moment", "rotation", "ports"},
    {"plan", "moves", "prove", "charge", "preshared", "kubernetes"},
    {"compile", "observe"},
    {"watching"},
    {"inventory", "network", "firewall", "iproute", "iptables", "render", "verify"},
    {"model"},
    {"errors", "garbage"},
]
"""A module, or all of a folder, may import from lines below its own, and nothing else of ours."""

PURE = {module for layer in LAYERS[LAYERS.index({"remote"}) + 1 :] for module in layer}

ONLY_IN = {
    "fabric": {"remote"},
    "paramiko": {"remote"},
    "invoke": {"tasks", "commands", "remote"},
    "subprocess": {"lab", "remote.sockets"},  # ~/.ssh/config may name a ProxyCommand
    "tomli": {"inventory"},
    "pysequoia": {"sources"},
    "jinja2": {"render"},
    "rich": {"report", "progress", "commands"},
}

OUTSIDE_WORLD = {
    *("asyncio", "fcntl", "getpass", "glob", "http", "io", "logging", "multiprocessing", "os", "pathlib", "platform"),
    *("queue", "random", "secrets", "select", "shutil", "signal", "socket", "sys", "tempfile", "threading", "time"),
    *("urllib", "uuid"),
}
"""What no pure module imports."""

READS = {
    "inventory": {"os", "open"},  # hosts.toml
    "render": {"pathlib"},  # the templates that come with us
    "host_scripts": {"pathlib"},  # the shell programs that come with us
}
"""The pure modules that read a file, and what they need for it."""

CLOCK = {"now", "today", "utcnow"}


def sources() -> dict[str, str]:
    """Return the text of every file that the rules are about, by its path below the checkout."""
    files = [*REPOSITORY.glob("isthmus/**/*.py"), REPOSITORY / "tasks.py"]
    return {str(file.relative_to(REPOSITORY)): file.read_text(encoding="utf-8") for file in sorted(files)}


def faults(texts: Mapping[str, str]) -> set[str]:
    """Return every broken rule, as `module:line: what`."""
    modules = {module_name(path): text for path, text in texts.items()}
    found = {fault for module, text in modules.items() for fault in module_faults(module, text)}
    graph = {
        module: {longest_known(name, modules.keys()) for name in imported(text)} - {module, ""}
        for module, text in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.add(f"imports in a circle: {' → '.join(error.args[1])}")
    return found


def module_name(path: str) -> str:
    """Return `verify.walk` for isthmus/verify/walk.py and `verify` for isthmus/verify/__init__.py."""
    parts = Path(path).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__").removeprefix("isthmus.")


@cache
def module_faults(module: str, text: str) -> list[str]:
    tree = ast.parse(text)
    rules = (import_faults, purity_faults, speech_faults)
    return [f"{module}:{line}: {what}" for rule in rules for line, what in rule(module, tree)]


@cache
def imported(text: str) -> list[str]:
    return [name for _, name in imports(ast.parse(text))]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield every import, wherever it stands, as the dotted name of what it makes available."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{prefix}.{alias.name}") for alias in node.names)


def longest_known(name: str, known: Container[str]) -> str:
    """Return the module of ours that an import's dotted name lies in; nothing for a module of others."""
    parts = name.removeprefix("isthmus.").split(".") if name.startswith("isthmus.") else []
    return next((module for n in range(len(parts), 0, -1) if (module := ".".join(parts[:n])) in known), "")


def within(module: str, places: set[str]) -> bool:
    """Return whether the module is one of the places or lies in one."""
    return any(module == place or module.startswith(f"{place}.") for place in places)


def import_faults(module: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    own = module.partition(".")[0]
    line_of = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    if own not in line_of and own != "isthmus":
        yield 1, "is in none of LAYERS: say where it belongs"
        return
    for line, name in imports(tree):
        top, _, rest = name.partition(".")
        if top in ONLY_IN and not within(module, ONLY_IN[top]):
            yield line, f"only {' and '.join(sorted(ONLY_IN[top]))} may import {top}"
        elif top in {"", "importlib"} or name == "isthmus":
            yield line, f"imports by another way than its full name: {name}"
        elif top in {"isthmus", "tasks"}:
            other = rest.partition(".")[0] if top == "isthmus" else top
            if other not in line_of:
                yield line, f"imports {name}, which is in none of LAYERS"
            elif own == "isthmus" or (other != own and line_of[other] <= line_of[own]):
                yield line, f"may not import {other}: only what lies below it"


def purity_faults(module: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """A pure module is a function of its arguments."""
    if not within(module, PURE):
        return
    allowed = READS.get(module, set())
    for line, name in imports(tree):
        if (top := name.partition(".")[0]) in OUTSIDE_WORLD - allowed:
            yield line, f"is pure and may not import {top}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in {"open", "input"} - allowed:
                yield node.lineno, f"is pure and may not call {node.func.id}"
            if isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK:
                yield node.lineno, f"is pure and may not ask the clock by {node.func.attr}"


def speech_faults(module: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What is public says what it promises; nothing but the commands print."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "print" and not within(module, {"commands"}):
                yield node.lineno, "prints"
            if node.func.id in {"__import__", "eval", "exec"}:
                yield node.lineno, f"calls {node.func.id}"
    yield from undocumented(tree, "the module")


def undocumented(node: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[int, str]]:
    if not ast.get_docstring(node):
        yield getattr(node, "lineno", 1), f"{name} has no docstring"
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not child.name.startswith("_"):
            if isinstance(child, ast.ClassDef):
                yield from undocumented(child, child.name)
            elif not ast.get_docstring(child):
                yield child.lineno, f"{child.name} has no docstring"


def test_the_source_keeps_the_designs_rules() -> None:
    assert faults(sources()) == set()


def test_the_rules_speak_of_modules_that_exist() -> None:
    """A rule about a module that was renamed would guard nothing."""
    exist = {file.stem for file in (REPOSITORY / "isthmus").iterdir()} | {"tasks"}
    named = {module for layer in LAYERS for module in layer} | set(READS)
    assert named <= exist


PLANTED = [
    ("model.py", "from isthmus.inventory import load_inventory", "model:LINE: may not import inventory"),
    ("network.py", "from isthmus import firewall", "network:LINE: may not import firewall"),
    ("network.py", "import isthmus.render", "network:LINE: may not import render"),
    ("verify/walk.py", "from isthmus.network import compile_network", "verify.walk:LINE: may not import network"),
    ("verify/new.py", '"""."""\nimport isthmus.plan', "verify.new:LINE: may not import plan"),
    (
        "remote/fleet.py",
        "def _f() -> None:\n    from isthmus.apply import mesh_up",
        "remote.fleet:LINE: may not import apply",
    ),
    ("apply.py", "if TYPE_CHECKING:\n    from isthmus.check import ping", "apply:LINE: may not import check"),
    ("errors.py", "import tasks", "errors:LINE: may not import tasks"),
    ("__init__.py", "from isthmus.apply import mesh_up", "isthmus:LINE: may not import apply"),
    ("errors.py", "from . import model", "errors:LINE: imports by another way than its full name: ..model"),
    ("errors.py", "import importlib", "errors:LINE: imports by another way"),
    ("errors.py", "import isthmus", "errors:LINE: imports by another way"),
    ("helpers.py", '"""."""', "helpers:1: is in none of LAYERS"),
    ("verify/walk.py", "from isthmus.verify.kernel import Kernel", "imports in a circle: "),
    ("verify/walk.py", "from isthmus.verify import verify", "imports in a circle: "),
    ("apply.py", "import fabric", "apply:LINE: only remote may import fabric"),
    (
        "lab/twin.py",
        "def _f() -> None:\n    from paramiko.client import SSHClient",
        "lab.twin:LINE: only remote may import paramiko",
    ),
    ("apply.py", "from subprocess import run", "apply:LINE: only lab and remote.sockets may import subprocess"),
    ("remote/fleet.py", "import subprocess", "remote.fleet:LINE: only lab and remote.sockets may import subprocess"),
    ("apply.py", "from invoke import task", "apply:LINE: only commands and remote and tasks may import invoke"),
    ("plan.py", "import time", "plan:LINE: is pure and may not import time"),
    ("verify/walk.py", "from os import path", "verify.walk:LINE: is pure and may not import os"),
    ("inventory/values.py", "import os", "inventory.values:LINE: is pure and may not import os"),
    ("network.py", 'open("/etc/hosts")', "network:LINE: is pure and may not call open"),
    ("network.py", "datetime.now()", "network:LINE: is pure and may not ask the clock by now"),
    ("apply.py", 'print("done")', "apply:LINE: prints"),
    ("apply.py", 'eval("1")', "apply:LINE: calls eval"),
    ("apply.py", "def new() -> None: ...", "apply:LINE: new has no docstring"),
    (
        "lab/twin.py",
        'class New:\n    """."""\n    def method(self) -> None: ...',
        "lab.twin:LINE: method has no docstring",
    ),
    ("verify/new.py", "pass", "verify.new:1: the module has no docstring"),
    ("../tasks.py", "import subprocess", "tasks:LINE: only lab and remote.sockets may import subprocess"),
]


@pytest.mark.parametrize(("file", "planted", "expected"), PLANTED, ids=[f"{file}: {text}" for file, text, _ in PLANTED])
def test_a_planted_fault_is_seen(file: str, planted: str, expected: str) -> None:
    texts = sources()
    already = faults(texts)
    path = os.path.normpath(f"isthmus/{file}")
    texts[path] = texts.get(path, "") + planted + "\n"
    found = faults(texts) - already
    where = expected.replace("LINE", str(texts[path].count("\n")))
    assert [fault for fault in found if fault.startswith(where)]
    # An import upwards also closes a circle; nothing else is blamed.
    assert all(fault.startswith((where, "imports in a circle: ")) for fault in found)
