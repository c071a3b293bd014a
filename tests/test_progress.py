"""What is told while it happens: plain lines off a terminal, one bar on it."""

from __future__ import annotations

import io
from contextlib import redirect_stderr

import pytest

from isthmus.progress import shown_progress, shown_steps


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def wide_and_colourful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_off_a_terminal_each_event_is_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress("mesh.up") as progress:
        progress("n1", "observed")
        progress("n2", "status 1: [#] no")
    assert capsys.readouterr() == ("", "n1: observed\nn2: status 1: [#] no\n")


def test_off_a_terminal_quiet_work_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress("observing", plain=False) as progress:
        progress("n1", "observed")
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_the_last_event_stands_beside_a_bar_and_is_gone_at_the_end() -> None:
    with redirect_stderr(Terminal()) as terminal, shown_progress("mesh.up") as progress:
        progress("n1", "")
        progress("n1", "status 1: [/red] [#] no\nsecond line")
    told = terminal.getvalue()
    assert "mesh.up: n1 status 1: [/red] [#] no" in told
    assert "second line" not in told
    assert told.endswith("\x1b[2K"), "the bar is taken away"


def test_an_error_inside_ends_the_bar_too() -> None:
    with redirect_stderr(Terminal()) as terminal, pytest.raises(KeyError), shown_progress("mesh.up"):
        raise KeyError
    assert "\x1b[?25h" in terminal.getvalue(), "the cursor is back"


def test_steps_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_steps() as step:
        step("made the image", 1, 3)
    assert capsys.readouterr() == ("", "[1/3] made the image\n")


def test_steps_on_a_terminal_are_no_markup() -> None:
    with redirect_stderr(Terminal()) as terminal, shown_steps() as step:
        step("made [/the] image", 1, 3)
    assert "made [/the] image" in terminal.getvalue()
