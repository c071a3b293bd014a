"""What a user sees, to the letter: plans, failures, status and matrices at a fixed width."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_host import FakeFleet
from rich.console import Console

from isthmus.apply import Report, known_keys, mesh_plan, mesh_up
from isthmus.check import Pair, PingReport
from isthmus.errors import CommandError, HostError, HostKeyError, UnreachableError
from isthmus.inventory import load_inventory
from isthmus.plan import Change, HostPlan, Kind
from isthmus.report import (
    charges_text,
    coloured_diff,
    counted,
    data_size,
    failures_json,
    failures_text,
    ping_json,
    ping_table,
    plan_json,
    plan_text,
    status_json,
    status_table,
)

INVENTORY = load_inventory(Path(__file__).parent.parent / "hosts.toml")


def shown(printable: Any, width: int = 100) -> str:
    """Return what stands on a page of that width, without colours, and without spaces at the ends of lines."""
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(printable)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def plan_of(host: str, *changes: Change) -> HostPlan:
    return HostPlan(host, changes, (), False, {}, ())


ROUTE = Change(Kind.ROUTE, "172.16.128.0/24 dev wg0 proto 182 src 172.16.0.1", after=("present",))
MTU = Change(Kind.INTERFACE, "wg0 mtu", ("1300",), ("1420",))


# --- plans --------------------------------------------------------------------------------------------------------


def test_a_plan_is_a_diff_host_by_host_and_the_unchanged_ones_in_a_line() -> None:
    plans = {"n1": plan_of("n1", ROUTE, MTU), "n2": plan_of("n2"), "n3": plan_of("n3", MTU), "s1": plan_of("s1")}
    assert plan_text(plans) == (
        "n1: 2 changes\n"
        "  route 172.16.128.0/24 dev wg0 proto 182 src 172.16.0.1\n"
        "      +present\n"
        "  interface wg0 mtu\n"
        "      -1300\n"
        "      +1420\n"
        "n3: 1 change\n"
        "  interface wg0 mtu\n"
        "      -1300\n"
        "      +1420\n"
        "n2, s1: nothing to do"
    )
    assert plan_text({}) == ""


def test_colours_change_no_letter_and_nothing_in_a_plan_is_markup() -> None:
    text = "file /etc/x\n    -[Interface]\n    +[/red] [Peer] \\[x]\n     [#] kept"
    assert shown(coloured_diff(text)) == text
    file = io.StringIO()
    Console(file=file, force_terminal=True, width=100).print(coloured_diff(text))
    assert "\x1b[31m    -" in file.getvalue()
    assert "\x1b[32m    +" in file.getvalue()


def test_a_plan_as_json() -> None:
    report = Report(
        INVENTORY, plans={"n1": plan_of("n1", MTU), "n2": plan_of("n2")}, changed=("n1",), notes=("a note",)
    )
    report.failures["n3"] = HostError("n3", "no")
    assert json.loads(json.dumps(plan_json(report))) == {
        "hosts": {
            "n1": [{"kind": "interface", "name": "wg0 mtu", "before": ["1300"], "after": ["1420"]}],
            "n2": [],
        },
        "changed": ["n1"],
        "failures": {"n3": {"error": "HostError", "message": "no"}},
        "notes": ["a note"],
    }


# --- failures -----------------------------------------------------------------------------------------------------

FAILURES: dict[str, HostError] = {
    "n1": CommandError("n1", "prepare: status 100: E: no", 100),
    "n3": UnreachableError("n3", "its gateway n1 cannot be reached", "n1"),
    "s1": HostKeyError("s1", "changed", "SHA256:old", "SHA256:new"),
}


def test_failures_are_a_line_a_host() -> None:
    assert failures_text(FAILURES) == (
        "n1: prepare: status 100: E: no\nn3: its gateway n1 cannot be reached\ns1: changed"
    )


def test_failures_as_json_have_what_the_errors_carry() -> None:
    assert failures_json(FAILURES) == {
        "n1": {"error": "CommandError", "message": "prepare: status 100: E: no"},
        "n3": {"error": "UnreachableError", "message": "its gateway n1 cannot be reached", "gateway": "n1"},
        "s1": {"error": "HostKeyError", "message": "changed", "known": "SHA256:old", "found": "SHA256:new"},
    }


# --- status -------------------------------------------------------------------------------------------------------


@pytest.fixture
def fleet() -> FakeFleet:
    """The article's hosts with their mesh up."""
    fleet = FakeFleet(INVENTORY)
    mesh_up(INVENTORY, fleet)  # type: ignore[arg-type]
    return fleet


def status(fleet: FakeFleet) -> tuple[Report, dict[str, str]]:
    report = mesh_plan(INVENTORY, fleet)  # type: ignore[arg-type]
    return report, {key: name for name, key in known_keys(report.facts).items()}


def test_the_status_of_a_mesh_in_all_its_states(fleet: FakeFleet) -> None:
    n1, n2, s1 = (fleet[name].state for name in ("n1", "n2", "s1"))
    assert n1.running
    assert s1.running
    now = int(fleet.clock.now)
    n1.running.peers[fleet["n2"].public_key or ""].latest_handshake = now - 12
    n1.running.peers[fleet["n3"].public_key or ""].latest_handshake = now - 181
    n1.running.peers["A" * 43 + "="] = replace(n1.running.peers[fleet["s1"].public_key or ""], allowed_ips=[])
    n1.running.mtu = "1300"
    n1.routes = {line for line in n1.routes if "5182" not in line}
    n2.enabled = False
    fleet["n3"].unreachable = "wg-quick says\n[#] ip link [/add]"
    fleet.reconnect(["n3"])
    s1.running.up = False
    drift = f"interface wg0 mtu, peer {'A' * 43}= and 3 more"
    assert shown(status_table(*status(fleet)), width=160).split("\n") == [
        "host  state            peer               handshake  received  sent  drift",
        f"n1    up               unknown AAAAAAAA…      never       0 B   0 B  {drift}",
        "                       n2                  12 s ago       0 B   0 B",
        "                       n3                 181 s ago       0 B   0 B",
        "                       s1                     never       0 B   0 B",
        "n2    up, not at boot  n1                     never       0 B   0 B  unit wg-quick@wg0",
        "s1    down             n1                     never       0 B   0 B  interface wg0",
        "n3    failed           –                                             wg-quick says",
    ]


def test_status_as_json(fleet: FakeFleet) -> None:
    fleet["n2"].begin_anothers_run("bob@laptop (2)", 60)
    fleet["n3"].state.running = None
    found = status_json(*status(fleet))
    assert json.loads(json.dumps(found)) == found
    assert found["hosts"]["n2"] == {
        "up": True,
        "enabled": True,
        "drift": [],
        "unconfirmed": "bob@laptop (2)",
        "peers": [
            {
                "host": "n1",
                "endpoint": "172.16.0.1:51820",
                "latest_handshake_s": None,
                "received_bytes": 0,
                "sent_bytes": 0,
            }
        ],
    }
    assert (found["hosts"]["n3"]["up"], found["hosts"]["n3"]["peers"]) == (False, [])
    assert found["hosts"]["n3"]["drift"] == [{"kind": "interface", "name": "wg0", "before": ["down"], "after": ["up"]}]


def test_who_is_in_charge_is_told_where_there_are_two() -> None:
    two = load_inventory(Path(__file__).parent / "golden" / "two_gateways" / "hosts.toml")
    fleet = FakeFleet(two)
    mesh_up(two, fleet)  # type: ignore[arg-type]
    assert charges_text(mesh_plan(two, fleet)) == "n1 is in charge of nanjing"  # type: ignore[arg-type]
    fleet["n2"].charges = [("nanjing", "n2", "n1 does not reach shanghai, n2 does")]
    fleet["n3"].charges = [("nanjing", "n2", "n2 says so")]
    report = mesh_plan(two, fleet)  # type: ignore[arg-type]
    why = "n1 does not reach shanghai, n2 does"
    assert charges_text(report) == f"n2 is in charge of nanjing for 60 s: {why}; not so for s1"
    assert status_json(report, {})["sites"] == {
        "nanjing": {"gateway": "n2", "since_s": 60, "why": why, "astray": ["s1"]}
    }


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (50_000_000_000, "50.0 GB"),
        (7_000_000_000_000_000, "7000.0 TB"),
    ],
)
def test_sizes_are_in_units_of_1000_as_clouds_bill(count: int, expected: str) -> None:
    assert data_size(count) == expected


def test_one_host_and_two_hosts() -> None:
    assert [counted(number, "host") for number in (0, 1, 2)] == ["0 hosts", "1 host", "2 hosts"]


# --- ping ---------------------------------------------------------------------------------------------------------

PING = PingReport(
    (
        Pair("n1", "n2", 0.42),
        Pair("n1", "s1", 31.04),
        Pair("n1", "mysql", 240.0),
        Pair("n2", "n1", 9.96),
        Pair("n2", "s1", None),
        Pair("n2", "mysql", None),
    ),
    {"s1": HostError("s1", "no")},
)


def test_the_matrix_has_a_row_a_source_and_a_column_a_destination() -> None:
    assert shown(ping_table(PING), width=60).split("\n") == [
        "ms    n1   n2    s1  mysql",
        "n1     ·  0.4  31.0  240.0",
        "n2  10.0    ·  lost   lost",
        "s1     ?    ?     ·      ?",
    ]


def test_ping_as_json_is_what_the_issue_promises() -> None:
    found = ping_json(PING)
    assert found["pairs"][0] == {"source": "n1", "destination": "n2", "delivered": True, "rtt_ms": 0.42}
    assert found["pairs"][4] == {"source": "n2", "destination": "s1", "delivered": False, "rtt_ms": None}
    assert found["failures"] == {"s1": {"error": "HostError", "message": "no"}}
