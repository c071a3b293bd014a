"""The command line: what every command tells of itself, the exit codes, and bad input that ends in one clear line."""

from __future__ import annotations

import inspect
import json
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_host import FakeFleet
from invoke import Exit

import tasks
from isthmus.apply import mesh_up
from isthmus.commands.shared import command
from isthmus.errors import InventoryError
from isthmus.inventory import load_inventory

ROOT = Path(__file__).resolve().parent.parent
OURS = str(ROOT / "hosts.toml")
COMMANDS = {
    f"{folder}.{name}": task
    for folder in tasks.ns.collections
    for name, task in tasks.ns.collections[folder].tasks.items()
}


CONTEXT = SimpleNamespace(config=SimpleNamespace(sudo=SimpleNamespace(password=None)))
"""What Invoke gives every command."""


def inv(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does, in the checkout."""
    outside = {name: value for name, value in os.environ.items() if name not in ("ISTHMUS_HOSTS", "NO_COLOR")}
    return subprocess.run(
        (sys.executable, "-m", "invoke", *arguments),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**outside, **environment},
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    """Put hosts in memory where the commands would connect to real ones."""
    made = FakeFleet(load_inventory(OURS))
    monkeypatch.setattr("isthmus.remote.Fleet", lambda *_, **__: made)
    return made


def run(command: str, **flags: Any) -> int:
    """Call a command in this process; return its exit code."""
    try:
        COMMANDS[command].body(CONTEXT, file=OURS, **flags)
    except Exit as end:
        return end.code
    return 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_flag_is_explained(name: str) -> None:
    command = COMMANDS[name]
    first = (command.__doc__ or "").splitlines()[0]
    assert first.endswith(".")
    assert len(first) > 20
    flags = {flag.replace("_", "-") for flag in inspect.signature(command.body).parameters} - {"c"}
    assert {flag.replace("_", "-") for flag in command.help} == flags


# --- bad input: one line, the right exit code, nothing touched ------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mesh.up", "--undo-after", "abc"), "--undo-after: found abc, expected 5 to 3600 seconds"),
        (("mesh.up", "--undo-after", "4"), "--undo-after: found 4, expected 5 to 3600 seconds"),
        (("mesh.up", "--undo-after", "٦٠"), "--undo-after: found ٦٠, expected 5 to 3600 seconds"),
        (("mesh.up", "--prune", ""), "--prune: found nothing, expected the path of an older inventory"),
        (("mesh.up", "--prune", OURS, "--only", "n1"), "--prune: found --only too, expected one of them"),
        (("check.ping", "--count", "0"), "--count: found 0, expected 1 to 100"),
        (("check.ping", "--count", "3.5"), "--count: found 3.5, expected 1 to 100"),
        (
            ("lab.send", "--source", "n1", "--destination", "n2", "--megabytes", "x"),
            "--megabytes: found x, expected 1 to 1000",
        ),
        (
            ("lab.send", "--source", "n1", "--destination", "n1"),
            "--destination: found n1, expected another host than the source",
        ),
        (("mesh.plan", "--only", "n9"), "--only: found n9, expected hosts of the inventory: n1, n2, n3, s1"),
        (("mesh.plan", "--only", ","), "--only: found nothing, expected hosts of the inventory: n1, n2, n3, s1"),
        (("mesh.render", "--file", ""), "--file: found nothing, expected the path of an inventory"),
        (("mesh.render", "--out", ""), "--out: found nothing, expected the path of a folder"),
        (("mesh.render", "--out", "README.md"), "--out: cannot write README.md/n1/etc/wireguard: Not a directory"),
        (
            ("lab.status", "--name", "A b"),
            "name of the lab: found 'A b', expected up to 24 of a-z, 0-9 and -, such as lab",
        ),
        (
            ("check.ports", "--format", "aws"),
            "--format: found aws, expected one of text, json, aliyun, tencent, terraform",
        ),
        (
            ("check.ports", "--format", "text", "--workstation", "here"),
            "--workstation: found here, expected a network such as 198.51.100.7/32",
        ),
        (
            ("check.ports", "--format", "tencent", "--only", "s1"),
            '--format tencent: found no host in a site with provider = "tencent"',
        ),
        (("check.ports", "--format", ""), "--format: found nothing, expected one of text, json,"),
        (("check.ports", "--workstation", ""), "--workstation: found nothing, expected a network such as"),
        (("check.all", "--junit", ""), "--junit: found nothing, expected the path of a file"),
        (("check.all", "--junit", "tests"), "--junit: cannot write tests: Is a directory"),
        (("check.all", "--junit", "none/a.xml"), "--junit: cannot write none/a.xml: No such file or directory"),
        (
            ("lab.send", "--source", "n9", "--destination", "n1"),
            "--source: found n9, expected a host of the inventory: n1, n2, n3, s1",
        ),
        (("lab.up", "--options", "suite"), "options of the lab: found 'suite', expected KEY=VALUE"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(arguments: tuple[str, ...], said: str) -> None:
    result = inv(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(said)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mesh.plan", "--bogus"), "No idea what '--bogus' is!"),
        (("mesh.plan", "bogus"), "No idea what 'bogus' is!"),
        (("--bogus", "mesh.plan"), "No idea what '--bogus' is!"),
        (("bogus",), "No idea what 'bogus' is!"),
        (("--help", "mesh.bogus"), "No idea what 'mesh.bogus' is!"),
        (("--list", "bogus"), "Sub-collection 'bogus' not found!"),
        (("mesh.plan", "--only"), "needed value and was not given one!"),
        (("mesh.drain",), "did not receive required positional arguments: 'gateway'"),
        (("-f", "hosts.toml", "mesh.plan"), "-f hosts.toml: found in front of the command"),
        (("-f", "none.toml", "mesh.plan"), "-f none.toml: found in front of the command"),
        (("--prompt-for-sudo-password", "mesh.plan"), "--prompt-for-sudo-password: found no password"),
    ],
)
def test_what_invoke_finds_wrong_is_exit_code_2_too(arguments: tuple[str, ...], said: str) -> None:
    result = inv(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_help_and_the_list_of_commands_are_no_errors() -> None:
    for arguments in (("--list",), ("--list", "mesh"), ("--help", "mesh.up"), ("--help",), ()):
        result = inv(*arguments)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout


def test_a_wrong_inventory_is_exit_code_2_and_a_missing_one_too(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[mesh]\n", encoding="utf-8")
    for path in (wrong, tmp_path, tmp_path / "none.toml"):
        result = inv("mesh.render", "--file", str(path), "--out", str(tmp_path / "out"))
        assert (result.returncode, result.stdout) == (2, "")
        assert str(path) in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_flag_goes_before_the_environment_and_the_environment_before_hosts_toml(tmp_path: Path) -> None:
    paths = {}
    for name in ("first", "second"):
        paths[name] = tmp_path / f"{name}.toml"
        paths[name].write_text(Path(OURS).read_text(encoding="utf-8").replace("n3", name), encoding="utf-8")
    out = tmp_path / "out"
    assert inv("mesh.render", "--out", str(out / "a"), ISTHMUS_HOSTS=str(paths["first"])).returncode == 0
    flag = ("--file", str(paths["second"]))
    assert inv("mesh.render", "--out", str(out / "b"), *flag, ISTHMUS_HOSTS=str(paths["first"])).returncode == 0
    assert inv("mesh.render", "--out", str(out / "c")).returncode == 0
    written = [{path.name for path in (out / name).iterdir()} - {"n1", "n2", "s1"} for name in "abc"]
    assert written == [{"first"}, {"second"}, {"n3"}]


def test_a_broken_promise_is_exit_code_3_and_nothing_is_touched(
    fleet: FakeFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet["n2"].addresses.append(("docker0", "172.16.128.129/25"))
    before = str(fleet)
    with pytest.raises(Exit) as end:
        COMMANDS["mesh.up"].body(CONTEXT, file=OURS)
    assert end.value.code == 3
    assert "172.16.128.0/24 dev wg0 collides with 172.16.128.128/25" in str(end.value.message)
    assert str(fleet) == before


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (PermissionError(13, "Permission denied", "/run/x"), "/run/x: Permission denied", 1),
        (OSError("something else"), "something else", 1),
        (InventoryError("hosts.toml", ()), "", 2),
    ],
)
def test_no_error_of_the_machine_is_a_traceback(error: Exception, said: str, code: int) -> None:
    def body() -> int:
        raise error

    with pytest.raises(Exit) as end:
        command(body)()
    assert (end.value.code, end.value.message) == (code, said)


def test_ctrl_c_speaks_of_undo_timers_only_where_there_are_any(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fleet, "each", interrupted)
    said = {}
    for name in ("mesh.up", "mesh.down", "check.ping"):
        with pytest.raises(Exit) as end:
            COMMANDS[name].body(CONTEXT, file=OURS)
        assert end.value.code == 130
        said[name] = end.value.message
    assert said["mesh.up"] == "interrupted; a host that was being changed puts its old network back by itself"
    assert said["mesh.down"] == said["check.ping"] == "interrupted"


# --- exit codes -----------------------------------------------------------------------------------------------------


def make(fleet: FakeFleet, *what: str) -> None:
    """Bring the mesh up, then let things happen to it."""
    for name in fleet.inventory.hosts:  # check.path walks to the internet too
        fleet[name].foreign_routes.append("unicast default via 172.16.0.254 dev eth0 table main")
    assert mesh_up(fleet.inventory, fleet).failures == {}  # type: ignore[arg-type]
    if "drift" in what:
        fleet["n2"].state.routes.clear()
    if "dead" in what:
        fleet["n3"].unreachable = "no answer"
        fleet.reconnect(["n3"])
    if "lost" in what:
        fleet["n2"].lost = {"s1"}


EXIT_CODES = {
    "mesh.plan": {"": 0, "drift": 4, "dead": 1, "drift dead": 1, "lost": 0},
    "mesh.status": {"": 0, "drift": 1, "dead": 1, "drift dead": 1, "lost": 0},
    "mesh.up": {"": 0, "drift": 0, "dead": 1, "drift dead": 1, "lost": 0, "drift lost": 1},
    "mesh.down": {"": 0, "drift": 0, "dead": 1},
    "check.ping": {"": 0, "dead": 1, "lost": 1},
    "check.path": {"": 0, "drift": 1, "dead": 1, "lost": 0},
    "check.mtu": {"": 0, "dead": 1},
    "check.ports": {"": 0, "dead": 1},
    "check.all": {"": 0, "drift": 1, "dead": 1, "lost": 1},
}


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(
    ("command", "what", "code"),
    [(command, what, code) for command, codes in EXIT_CODES.items() for what, code in codes.items()],
)
def test_what_a_command_finds_decides_its_exit_code(
    fleet: FakeFleet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    what: str,
    code: int,
    as_json: bool,
) -> None:
    monkeypatch.setattr("isthmus.open_ports.connect_tcp", lambda *_: SimpleNamespace(close=lambda: None))
    make(fleet, *what.split())
    capsys.readouterr()
    assert run(command, json=as_json) == code
    told = capsys.readouterr()
    if as_json:
        assert isinstance(json.loads(told.out), dict)
    if command != "check.all":  # which says it among the rest
        assert ("n3: no answer" in told.err) == ("dead" in what)


def test_bare_hosts_are_changes_that_wait(fleet: FakeFleet) -> None:
    assert [run(name) for name in ("mesh.plan", "mesh.status", "check.path")] == [4, 1, 1]


def test_only_limits_whose_paths_are_told(fleet: FakeFleet, capsys: pytest.CaptureFixture[str]) -> None:
    make(fleet)
    for name in ("check.path", "check.ping"):
        assert run(name, only="n2,s1", json=True) == 0
        pairs = json.loads(capsys.readouterr().out)["pairs"]
        assert {pair["source"] for pair in pairs} == {"n2", "s1"}


def test_the_inventory_is_found_from_a_folder_below(tmp_path: Path) -> None:
    below = subprocess.run(
        (sys.executable, "-m", "invoke", "mesh.render", "--out", str(tmp_path / "out")),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT / "tests",
        env={name: value for name, value in os.environ.items() if name != "ISTHMUS_HOSTS"},
        timeout=60,
    )
    assert (below.returncode, below.stderr) == (0, "")
    assert (tmp_path / "out" / "n1").is_dir()


# --- standard output that is closed, full, or read by nobody --------------------------------------------------------

SAYS_MUCH = (("check.ports", "--format", "json"), ("--list",))


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("where", "code"), [("| true", 1), (">/dev/full", 1), (">&-", 0)])
def test_output_that_nobody_gets_is_no_traceback(where: str, code: int, unbuffered: str) -> None:
    for arguments in SAYS_MUCH:
        line = shlex.join((sys.executable, "-m", "invoke", *arguments))
        ended = subprocess.run(
            ("bash", "-c", f"{line} {where}; exit ${{PIPESTATUS[0]}}"),
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            timeout=60,
        )
        said = "No space left on device\n" if "full" in where else ""
        assert (ended.returncode, ended.stderr) == (code, said), arguments


def test_an_error_is_told_by_its_code_where_standard_error_is_closed() -> None:
    line = shlex.join((sys.executable, "-m", "invoke", "mesh.plan", "--only", "nobody"))
    assert subprocess.run(("bash", "-c", f"{line} 2>&-"), check=False, cwd=ROOT, timeout=60).returncode == 2


# --- on a terminal --------------------------------------------------------------------------------------------------


def on_a_terminal(*arguments: str, typed: bytes = b"", **environment: str) -> tuple[int, str]:
    """Run the program with a terminal as its standard input and output; return its exit code and what it showed."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        (sys.executable, *arguments),
        stdin=slave,
        stdout=slave,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm", **environment},
    )
    os.close(slave)
    os.write(master, typed)
    shown = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    return process.wait(timeout=60), shown.decode()


DIFF = """
from isthmus.commands.shared import console
from isthmus.report import coloured_diff
console().print(coloured_diff("file /x\\n    -old\\n    +new"))
"""


def test_colour_on_a_terminal_and_none_where_the_user_wants_none() -> None:
    _, coloured = on_a_terminal("-c", DIFF)
    _, plain = on_a_terminal("-c", DIFF, NO_COLOR="1")
    colours = ("\x1b[31m", "\x1b[32m")
    assert all(colour in coloured for colour in colours)
    assert not any(colour in plain for colour in colours)
    assert "new" in plain


def test_the_program_looks_for_garbage_rarely() -> None:
    asked = subprocess.run(
        (sys.executable, "-c", "import gc, tasks; print(gc.get_threshold()[0])"),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert int(asked.stdout) >= 100_000


def test_leaving_a_question_by_ctrl_d_is_no() -> None:
    ask = "from isthmus.commands.ssh import _answer; print(repr(_answer('Record? ')))"
    code, shown = on_a_terminal("-c", ask, typed=b"\x04")
    assert (code, shown.splitlines()[-1]) == (0, "''")
    assert on_a_terminal("-c", ask, typed=b" Yes\n")[1].endswith("'yes'\r\n")


def test_a_terminal_that_knows_no_dash_gets_another_sign() -> None:
    result = inv("lab.status", "--name", "never-built", PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert "Traceback" not in result.stderr
    script = "import tasks; print('up – …')"
    told = subprocess.run(
        (sys.executable, "-c", script),
        capture_output=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert told.stdout == b"up ? ?\n"


# --- --only ---------------------------------------------------------------------------------------------------------


def test_up_with_only_does_not_ask_hosts_that_have_no_mesh_yet(
    fleet: FakeFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("mesh.up", only="n1,n2") == 0
    assert fleet.ran("reach")
    assert set(fleet.ran("reach")) <= {"n1", "n2"}
    assert "2 hosts: the mesh is up" in capsys.readouterr().out


def test_up_with_only_checks_the_way_to_hosts_that_have_the_mesh(
    fleet: FakeFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("mesh.up") == 0
    running = fleet["n2"].state.running
    assert running is not None
    running.mtu = "1300"
    fleet["n2"].lost = {"s1"}
    assert run("mesh.up", only="n2") == 1
    assert "n2 does not reach s1" in capsys.readouterr().err
    assert fleet.ran("reach")[-1] == "n2"


def test_status_with_only_shows_only_those(fleet: FakeFleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("mesh.up") == 0
    capsys.readouterr()
    assert run("mesh.status", only="n1,s1", json=True) == 0
    told: Mapping[str, Any] = json.loads(capsys.readouterr().out)
    assert list(told["hosts"]) == ["n1", "s1"]
    assert run("mesh.status", only="n3") == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[1:]] == ["n3"]


# --- the checks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "json", "aliyun", "tencent", "terraform"])
def test_rules_are_printed_without_connecting_anywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    monkeypatch.setattr("isthmus.remote.Fleet", lambda *_, **__: pytest.fail("connects"))
    assert run("check.ports", format=form, workstation="198.51.100.7/32") == 0
    shown = capsys.readouterr().out
    assert "51820" in shown
    assert ("198.51.100.7/32" in shown) == (form not in ("text", "json"))


@pytest.mark.parametrize(("command", "code"), [("check.mtu", 1), ("check.ports", 0), ("check.all", 1)])
def test_a_narrow_path_is_exit_code_1(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, code: int
) -> None:
    monkeypatch.setattr("isthmus.open_ports.connect_tcp", lambda *_: SimpleNamespace(close=lambda: None))
    fleet["n1"].carries = {"tunnel:s1": 1492}
    assert run(command) == code
    assert ("set mtu = 1412 in [mesh] and run inv mesh.up" in capsys.readouterr().out) == bool(code)


def test_a_closed_port_is_exit_code_1_and_junit_is_written(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("isthmus.open_ports.connect_tcp", lambda *_: SimpleNamespace(close=lambda: None))
    fleet["n1"].carries = {"s1:51820/udp": None}
    assert run("check.ports") == 1
    assert "s1 (203.0.113.129): 51820/udp is closed to n1" in capsys.readouterr().out
    assert run("check.all", junit=str(tmp_path / "checks.xml"), json=True) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False
    assert (tmp_path / "checks.xml").read_bytes().startswith(b"<?xml version='1.0' encoding='utf-8'?>\n<testsuites ")


# --- --prune --------------------------------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    """The mesh of an older inventory with one host more, up; the commands connect to its hosts."""
    path = tmp_path / "old.toml"
    n4 = '\n[hosts.n4]\nsite = "nanjing"\naddress = "172.16.0.4"\n'
    path.write_text(Path(OURS).read_text(encoding="utf-8") + n4, encoding="utf-8")
    made = FakeFleet(load_inventory(path))
    assert mesh_up(made.inventory, made).failures == {}  # type: ignore[arg-type]
    monkeypatch.setattr("isthmus.remote.Fleet", lambda inventory, *_, **__: FakeFleet(inventory, made))
    return made


def test_who_has_left_is_cleaned_after_the_mesh_that_stays_was_changed(
    old: FakeFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("mesh.up", prune=old.inventory.source) == 0
    told = capsys.readouterr()
    assert "n4: has left; everything of ours was taken off" in told.out
    assert told.err.index("n1: confirmed") < told.err.index("n4: observed")
    assert old["n4"].state.files == {}
    assert run("mesh.up", prune=old.inventory.source, json=True) == 0
    assert json.loads(capsys.readouterr().out)["left"]["bare"] == ["n4"]


def test_a_leaver_that_cannot_be_reached_is_no_failure_and_one_that_fails_is(
    old: FakeFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    old["n4"].unreachable = "no answer"
    assert run("mesh.up", prune=old.inventory.source) == 0
    assert "n4: has left and cannot be reached (no answer)" in capsys.readouterr().out
    old["n4"].unreachable = None
    old["n4"].addresses.pop()
    assert run("mesh.up", prune=old.inventory.source) == 1
    assert "n4: has left, not cleaned: has no network interface with 172.16.0.4" in capsys.readouterr().err


def test_nobody_is_cleaned_when_a_pair_is_broken(old: FakeFleet, capsys: pytest.CaptureFixture[str]) -> None:
    old["n2"].lost = {"s1"}
    assert run("mesh.up", prune=old.inventory.source) == 1
    assert "who has left is not cleaned" in capsys.readouterr().err
    assert old["n4"].state.files
