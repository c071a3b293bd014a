"""`inv ssh.…`: whom we trust."""

from __future__ import annotations

import sys
from typing import Any

from invoke import Collection, task

from isthmus.commands.shared import (
    FAILED,
    FILE,
    JSON,
    OK,
    ONLY,
    chosen_hosts,
    command,
    open_fleet,
    print_json,
    read_inventory,
    say_failures,
)


def _answer(question: str) -> str:
    """Ask a person; who leaves by Ctrl-D has said nothing."""
    try:
        return input(question).strip().lower()
    except EOFError:
        print()
        return ""


@task(
    help={
        **FILE,
        **ONLY,
        **JSON,
        "yes": "record unknown keys without asking (with --json nobody is asked)",
        "replace": "record changed keys too; only after you know why they changed",
    }
)
@command
def trust(
    c: Any,
    file: str | None = None,
    only: str | None = None,
    json: bool = False,
    yes: bool = False,
    replace: bool = False,
) -> int:
    """Fetch the hosts' SSH host keys, show their fingerprints, record them in the project's known_hosts."""
    from isthmus.report import trust_json, trust_text
    from isthmus.trust import trust_hosts

    inventory = read_inventory(file)
    interactive = sys.stdin.isatty() and sys.stdout.isatty() and not json

    def agree(keys: Any) -> bool:
        """Let a person compare the fingerprints with what the cloud's console shows."""
        if not json:
            print(trust_text(keys))
        return yes or (interactive and _answer("Record these keys? [y/N] ") in ("y", "yes"))

    with open_fleet(c, inventory, debug=False) as fleet:
        result = trust_hosts(fleet, chosen_hosts(inventory, only) or list(inventory.hosts), agree, replace=replace)
    if json:
        print_json(trust_json(result))
    else:
        print(f"recorded: {', '.join(result.recorded) or 'nothing'}; known before: {', '.join(result.known) or 'none'}")
    say_failures(result.failures)
    return FAILED if result.failures else OK


ssh = Collection("ssh")
ssh.add_task(trust)
