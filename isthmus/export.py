"""Every file of every host, written below a folder of the workstation: for review and version control."""

from __future__ import annotations

from pathlib import Path

from isthmus.compile import compile_mesh
from isthmus.errors import UsageError
from isthmus.model import Inventory
from isthmus.prove import prove
from isthmus.render import HEADER, PROGRAM, render_mesh


def export(inventory: Inventory, folder: Path) -> int:
    """Compile, verify and write FOLDER/HOST/PATH for all hosts; return the number of files.

    Public keys are on the hosts, so `KEY-<host>` stands where one belongs. Files of ours from an earlier export that no
    host has any more are removed; nothing else in the folder is touched. Raises BrokenPromiseError before writing.
    """
    configs = compile_mesh(inventory)
    prove(inventory, configs)
    files = {
        folder / host / path.lstrip("/"): file
        for host, rendered in render_mesh(configs, {}, placeholders=True).items()
        for path, file in rendered.items()
    }
    try:
        for path in [*folder.glob("*/etc/**/*"), *folder.glob(f"*{PROGRAM}")]:
            if path.is_file() and path not in files and _is_ours(path):
                path.unlink()
        for path, file in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text, encoding="utf-8")
            path.chmod(file.mode)
    except OSError as error:
        raise UsageError(f"--out: cannot write {error.filename}: {error.strerror}") from None
    return len(files)


def _is_ours(path: Path) -> bool:
    """The program says so in its second line: the first is the shell's."""
    first, _, rest = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    return first == HEADER or (first.startswith("#!") and "Written by Isthmus" in rest.partition("\n")[0])
