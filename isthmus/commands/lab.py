"""`inv lab.…`: the twin of the inventory on this machine."""

from __future__ import annotations

from typing import Any

from invoke import Collection, task

from isthmus.commands.shared import FAILED, FILE, JSON, OK, command, console, number, print_json, read_inventory
from isthmus.errors import UsageError

LAB = {"name": "the lab's name; several can stand side by side (default lab)"}


def _lab(file: str | None, name: str, options: str | None = None) -> Any:
    from isthmus.lab import Lab, parse_options

    inventory = read_inventory(file)
    return Lab(inventory, name, parse_options(options or "", inventory))


@task(
    help={
        **FILE,
        **LAB,
        "options": "what hosts and clouds are like: `suite=trixie,metric=100`, for one host `n2:nic=ens5`",
    },
)
@command
def up(c: Any, file: str | None = None, name: str = "lab", options: str | None = None) -> int:
    """Build the twin of the inventory on this machine: clouds, hosts, an admin workstation. Needs root."""
    from isthmus.progress import shown_steps

    lab = _lab(file, name, options)
    with shown_steps() as progress:
        lab.up(progress)
    print(f"the lab {name!r} is up; inv lab.run CMD runs a command on its admin workstation")
    return OK


@task(help=LAB)
@command
def down(c: Any, name: str = "lab") -> int:
    """Take the lab down; nothing of it stays but the cached image."""
    from isthmus.lab import take_down

    take_down(name)
    print(f"lab {name} is down")
    return OK


@task(help={**FILE, **LAB, **JSON})
@command
def status(c: Any, file: str | None = None, name: str = "lab", json: bool = False) -> int:
    """Show the lab's hosts and what each cloud has counted on its uplink."""
    from isthmus.report import lab_json, lab_table

    lab = _lab(file, name)
    status = lab.status()
    traffic = lab.counters() if status.up else {}
    if json:
        print_json(lab_json(status, traffic))
    else:
        console().print(lab_table(status, traffic))
    return OK if status.up else FAILED


@task(positional=["cmd"], help={**FILE, **LAB, "cmd": "a shell command line"})
@command
def run(c: Any, cmd: str, file: str | None = None, name: str = "lab") -> int:
    """Run a command line on the lab's admin workstation, where public addresses are reachable."""
    return int(_lab(file, name).run(cmd).returncode)


@task(
    help={**FILE, **LAB, **JSON, "source": "host", "destination": "host", "megabytes": "how much (default 5)"},
)
@command
def send(
    c: Any,
    source: str,
    destination: str,
    megabytes: str = "5",
    file: str | None = None,
    name: str = "lab",
    json: bool = False,
) -> int:
    """Send bytes from host to host over TCP and show what each cloud counted on its uplink meanwhile."""
    from isthmus.lab import send
    from isthmus.report import sent_json, sent_text

    lab = _lab(file, name)
    for flag, end in (("source", source), ("destination", destination)):
        if end not in lab.inventory.hosts:
            hosts = ", ".join(lab.inventory.hosts)
            raise UsageError(f"--{flag}: found {end or 'nothing'}, expected a host of the inventory: {hosts}")
    if source == destination:
        raise UsageError(f"--destination: found {destination}, expected another host than the source")
    sent = send(lab, source, destination, number("megabytes", megabytes, 1, 1000) * 1_000_000)
    if json:
        print_json(sent_json(sent))
    else:
        print(sent_text(sent))
    return OK


lab = Collection("lab")
for item in (up, down, status, run, send):
    lab.add_task(item)
