"""`python -m isthmus.lab up|down|status|run|…`: the lab without Invoke, for developers."""

from __future__ import annotations

import argparse
import sys

from isthmus.errors import IsthmusError
from isthmus.inventory import load_inventory
from isthmus.lab import Lab, parse_options


def main() -> int:
    """Do what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(prog="isthmus.lab", description=__doc__)
    parser.add_argument("-n", "--name", default="lab")
    parser.add_argument("-f", "--hosts-file", default="hosts.toml")
    parser.add_argument("-o", "--option", action="append", default=[], metavar="[HOST:]KEY=VALUE,…", help="HostOptions")
    actions = parser.add_subparsers(dest="action", required=True)
    for action in ("up", "down", "status", "counters", "drops"):
        actions.add_parser(action)
    for action in ("reboot", "stop", "start", "cut", "heal", "peers"):
        actions.add_parser(action).add_argument("names", nargs="+")
    actions.add_parser("run").add_argument("command", nargs=argparse.REMAINDER)
    host_run = actions.add_parser("host-run")
    host_run.add_argument("host")
    host_run.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    inventory = load_inventory(arguments.hosts_file)
    return _act(Lab(inventory, arguments.name, parse_options(",".join(arguments.option), inventory)), arguments)


def _act(lab: Lab, arguments: argparse.Namespace) -> int:
    action = arguments.action
    if action == "up":
        lab.up(lambda what, done, total: _say(f"[{done}/{total}] {what}"))
    elif action == "run":
        return lab.run(" ".join(arguments.command)).returncode
    elif action == "host-run":
        result = lab.host_run(arguments.host, " ".join(arguments.command))
        sys.stdout.write(result.stdout)
        sys.stderr.write(result.stderr)
        return result.returncode
    elif action in ("cut", "heal", "peers"):
        for name in arguments.names:
            _say(getattr(lab, "resource_peers" if action == "peers" else action)(name) or "")
    elif action in ("reboot", "stop", "start"):
        getattr(lab, action)(*arguments.names)
    else:
        _say(getattr(lab, action)() or "")
    return 0


def _say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except IsthmusError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
