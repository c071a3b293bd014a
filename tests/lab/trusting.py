"""`inv`, but the key whose fingerprint LAB_KEY names is taken for upstream's, with whose own only upstream can sign."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from invoke.main import program

from isthmus.kubernetes import sources

sources.KUBERNETES_KEY = sources.DOCKER_KEY = os.environ["LAB_KEY"]
program.run(["inv", *sys.argv[1:]])
