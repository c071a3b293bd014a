"""The commands behind `inv`, a module each collection: arguments, one call, printing, exit code."""

from __future__ import annotations

from isthmus.commands.check import check
from isthmus.commands.k8s import k8s
from isthmus.commands.lab import lab
from isthmus.commands.mesh import mesh
from isthmus.commands.ssh import ssh

__all__ = ["check", "k8s", "lab", "mesh", "ssh"]
