"""What `inv` finds here: the commands of `isthmus/commands/`. `inv --list`, `inv --help mesh.up`."""

from __future__ import annotations

import io
import logging
import os
import re
import sys

from invoke import Collection

from isthmus.commands import check, k8s, lab, mesh, ssh
from isthmus.commands.usage import tell_wrong_command_lines
from isthmus.garbage import collect_rarely

_PASSWORD = re.compile(r"""('password': )('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")


def _hide_password(record: logging.LogRecord) -> bool:
    """Mask the sudo password in Invoke's own debug log (`inv --debug …`), which shows its whole configuration."""
    record.msg, record.args = _PASSWORD.sub(r"\1'***'", record.getMessage()), ()
    return True


logging.getLogger("invoke").addFilter(_hide_password)
collect_rarely()
tell_wrong_command_lines()
for stream in ("stdout", "stderr"):  # one that is closed (`inv … >&-`) is None
    setattr(sys, stream, getattr(sys, stream) or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="replace")  # a terminal that knows no – gets a ?

ns = Collection(mesh, check, k8s, ssh, lab)
