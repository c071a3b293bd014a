"""Files of ours on their way to a host, and its load balancer: lines of the scripts that put them there."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping

from isthmus.host_scripts import host_script
from isthmus.kubernetes.configs import BALANCER, BALANCER_UNIT
from isthmus.kubernetes.facts import NodeFacts
from isthmus.kubernetes.plan import Wanted, balancing, differing_files
from isthmus.render import File

APT_WAIT_S = 300


def balance_script(wanted: Wanted, facts: NodeFacts) -> str:
    """Return the script that sets up or takes off a host's load balancer; nothing where it is as wanted."""
    if not any(balancing(wanted, facts)):
        return ""
    if not wanted.balancer:
        return unbalance_script()
    return f"{_balance()}{staged(wanted.balancer, facts)}balance\n"


def unbalance_script() -> str:
    """Return the script that takes a host's load balancer off."""
    return f"{_balance()}unbalance\n"


def _balance() -> str:
    return host_script("k8s-balance", config=BALANCER, unit_file=BALANCER_UNIT, apt_wait=APT_WAIT_S)


def staged(files: Mapping[str, File], facts: NodeFacts) -> str:
    """Return the lines that write the files that differ."""
    lines = []
    for path in differing_files(files, facts):
        file = files[path]
        content = base64.encodebytes(file.text.encode()).decode()
        lines.append(f"stage {shlex.quote(path)} {file.mode:o} <<'.'\n{content}.\n")
    return "".join(lines)
