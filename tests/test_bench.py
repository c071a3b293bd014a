"""scripts/bench: what it refuses, what its numbers are called. No time is asserted: that is what it is run for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.inventory import parse_inventory

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/bench without its first line, which installs what is missing."""
    command = (sys.executable, "-m", "benchmarks", *arguments)
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT}"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--only", "noop,fast"), "--only: found fast, expected some of compile, noop, first, fleet, kubernetes"),
        (("--only", ","), "--only: found nothing, expected some of compile, noop, first, fleet, kubernetes"),
        (
            ("--json", "/nonexistent/x.json"),
            "--json: found no folder /nonexistent, expected one that exists",
        ),
        (("--fast",), "unrecognized arguments: --fast"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_measured(arguments: tuple[str, ...], expected: str) -> None:
    result = bench(*arguments)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == f"scripts/bench: error: {expected}"
    assert result.stdout == ""


def test_the_compile_part_has_its_keys_and_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.compiling import measure_compile
    from benchmarks.table import Results

    results = Results()
    measure_compile(results, tmp_path, sizes=((4, 2), (40, 2)))
    of_size = ["s", "mb", "output_mb", "load_s", "compile_s", "verify_s", "render_s"]
    of_size += ["process_s", "process_min_s", "process_max_s", "process_runs"]
    expected = {f"compile_{hosts}_{key}" for hosts in (4, 40) for key in of_size} | {"compile_growth_10x"}
    assert set(results.values) == expected
    assert results.values["compile_40_process_runs"] == 5
    assert "40 hosts in 2 sites" in capsys.readouterr().out


def test_the_same_host_has_the_same_address_in_larger_inventories() -> None:
    # The fleet's hosts are built once, for the largest inventory.
    from benchmarks.inventories import inventory_text

    small = parse_inventory(inventory_text(10, 2, all_public=True), "small")
    large = parse_inventory(inventory_text(100, 2, all_public=True), "large")
    assert [str(host.public) for host in small.hosts.values()] == [f"203.0.113.{number}" for number in range(1, 11)]
    assert all(large.hosts[name] == host for name, host in small.hosts.items())


def test_ten_thousand_hosts_are_a_legal_inventory() -> None:
    from benchmarks.inventories import inventory_text

    inventory = parse_inventory(inventory_text(10_000, 100), "large")
    assert len(inventory.hosts) == 10_000
    assert str(inventory.hosts["s100-100"].address) == "10.100.0.100"


def test_a_ratio_is_the_median_of_the_rounds_both_took_part_in() -> None:
    from benchmarks.measure import Series

    ours = Series([1.0, 2.0, 4.0, None])
    theirs = Series([10.0, None, 10.0, 1.0])
    assert ours.ratio(theirs) == pytest.approx(0.25)  # of 0.1 and 0.4


def test_contenders_take_turns_and_the_slow_one_is_in_the_first_and_the_last_round() -> None:
    from benchmarks.measure import Ended, interleave

    turns: list[str] = []

    def contender(name: str) -> Ended:
        turns.append(name)
        return Ended(seconds=1.0, peak_mb=1.0, status=0, output="")

    ways = {"a": lambda: contender("a"), "b": lambda: contender("b")}
    series = interleave(ways, 3, {"b": 2})
    assert turns == ["a", "b", "a", "b", "a", "a", "b"]
    assert series["b"].seconds == [1.0, None, 1.0]


def test_a_program_that_does_not_do_its_work_has_no_time() -> None:
    from benchmarks.measure import BenchError, must

    with pytest.raises(BenchError, match="found status 3, expected status 0 and 'done'; it said:\nno"):
        must(("sh", "-c", "echo no; exit 3"), says="done", called="it")
    with pytest.raises(BenchError, match="found status 0, expected status 0 and 'done'"):
        must(("sh", "-c", "echo no"), says="done", called="it")
    assert must(("sh", "-c", "echo done"), says="done").output == "done\n"


def test_kubernetes_without_a_bundle_is_told_and_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.kubernetes import measure_kubernetes
    from benchmarks.table import Results

    monkeypatch.delenv("ISTHMUS_BUNDLE", raising=False)
    results = Results()
    measure_kubernetes(results, tmp_path)
    assert results.values == {}
    assert capsys.readouterr().out == "\nkubernetes: skipped: ISTHMUS_BUNDLE names no Kubernetes bundle\n"
