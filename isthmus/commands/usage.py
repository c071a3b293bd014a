"""What Invoke finds wrong with a command line, told as we tell it: one line, exit 2. By itself it ends with 1."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from invoke import Exit, ParseError, Program

from isthmus.commands.shared import FAILED, USAGE, settle_stdout


def tell_wrong_command_lines() -> None:
    """Change the steps that Invoke's running program takes after it has loaded us; it reads tasks.py before flags."""
    for step in ("parse_tasks", "parse_cleanup", "update_config"):
        setattr(Program, step, _telling(getattr(Program, step)))


def _telling(step: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(step)
    def told(program: Any, *args: Any, **kwargs: Any) -> None:
        try:
            try:
                step(program, *args, **kwargs)
            finally:
                sys.stdout.flush()
        except ParseError as error:
            raise Exit(str(error), USAGE) from None
        except BrokenPipeError:  # `inv --list | head`
            settle_stdout()
            raise Exit(code=FAILED) from None
        except OSError as error:
            settle_stdout()
            raise Exit(error.strerror, FAILED) from None
        except Exit as end:
            raise Exit(end.message, USAGE) if end.message else end from None
        except EOFError:
            wish = "expected one on a terminal, or in INVOKE_SUDO_PASSWORD"
            raise Exit(f"--prompt-for-sudo-password: found no password, {wish}", USAGE) from None
        except Exception:
            file = program.args.config.value
            if file is None:
                raise
            wish = "where it is Invoke's configuration; expected behind it: inv COMMAND -f FILE"
            raise Exit(f"-f {file}: found in front of the command, {wish}", USAGE) from None

    return told
