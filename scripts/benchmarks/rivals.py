"""The competitors' own virtualenv. They are no part of the project, so its lock does not know them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.measure import BenchError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VENV = ROOT / ".venv-bench"
REQUIREMENTS = HERE / "competitors.txt"


def installed() -> Path:
    """Return the folder of the competitors' programs, installed now if they are not; BenchError when they cannot be."""
    stamp, wanted = VENV / "competitors.txt", REQUIREMENTS.read_text(encoding="utf-8")
    programs = VENV / "bin"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"installing the competitors into {VENV.name}", file=sys.stderr)
        _run(sys.executable, "-m", "venv", "--clear", str(VENV))
        _run(str(programs / "pip"), "install", "--quiet", "--disable-pip-version-check", "-r", str(REQUIREMENTS))
        _run(str(programs / "python"), "-m", "compileall", "-q", str(_packages()))
        stamp.write_text(wanted, encoding="utf-8")
    return programs


def versions() -> dict[str, str]:
    """Return the installed competitors' versions by name."""
    found = {}
    for name in ("ansible_core", "pyinfra", "wg_meshconf"):
        info = next(_packages().glob(f"{name}-*.dist-info"), None)
        if info is not None:
            found[name] = info.name.removesuffix(".dist-info").rpartition("-")[2]
    return found


def _packages() -> Path:
    version = sysconfig.get_python_version()
    return VENV / "lib" / f"python{version}" / "site-packages"


def _run(*command: str) -> None:
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    if result.returncode:
        raise BenchError(f"{' '.join(command)}: {result.stderr.strip() or result.stdout.strip()}")
