"""All checks in one: what is summed up, and how it reads as text, JSON and JUnit XML."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fake_host import FakeFleet

from isthmus import open_ports
from isthmus.apply import mesh_up
from isthmus.checkup import Checkup, check_up
from isthmus.inventory import load_inventory
from isthmus.report import checkup_json, checkup_junit, checkup_text

INVENTORY = load_inventory(Path(__file__).parent.parent / "hosts.toml")


class Socket:
    def close(self) -> None: ...


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    """The article's hosts with their mesh up, a way to the internet, and ports that accept connections."""
    monkeypatch.setattr(open_ports, "connect_tcp", lambda *_: Socket())
    fleet = FakeFleet(INVENTORY)
    for name, host in fleet.hosts.items():
        router = "172.16.128.254" if name == "s1" else "172.16.0.254"
        host.foreign_routes.append(f"unicast default via {router} dev eth0 table main proto dhcp scope global ")
    mesh_up(INVENTORY, fleet)  # type: ignore[arg-type]
    return fleet


def checked(fleet: FakeFleet) -> Checkup:
    return check_up(fleet, INVENTORY)  # type: ignore[arg-type]


def spoil(fleet: FakeFleet) -> None:
    """Break one thing for each check."""
    fleet["n2"].lost = {"mysql"}
    fleet["n3"].state.routes = set()
    fleet["n1"].carries = {"tunnel:s1": 1492, "s1:51820/udp": None}


def junit(checkup: Checkup) -> dict[str, dict[str, str]]:
    """Return, by suite and case, `passed`, or what the failure or skip says; the counts must be right."""
    root = ElementTree.fromstring(checkup_junit(checkup))
    found: dict[str, dict[str, str]] = {}
    for suite in root:
        cases = found[suite.attrib["name"]] = {}
        for case in suite:
            cases[case.attrib["name"]] = case[0].attrib["message"] if len(case) else "passed"
        for counted, tag in (("tests", "testcase"), ("failures", "testcase/failure"), ("skipped", "testcase/skipped")):
            assert suite.attrib[counted] == str(len(suite.findall(tag)))
    for counted in ("tests", "failures", "skipped"):
        assert int(root.attrib[counted]) == sum(int(suite.attrib[counted]) for suite in root)
    return found


def test_where_all_is_well_it_is_a_line_a_check(fleet: FakeFleet) -> None:
    checkup = checked(fleet)
    assert checkup.passed
    assert checkup_text(checkup).splitlines() == [
        "ping   16 of 16 right",
        "path   16 of 16 right",
        "mtu    18 of 18 right",
        "ports  24 of 24 right",
        "all is well",
    ]
    suites = junit(checkup)
    assert [len(cases) for cases in suites.values()] == [16, 16, 18, 24]
    assert {result for cases in suites.values() for result in cases.values()} == {"passed"}


def test_what_is_wrong_is_below_its_check(fleet: FakeFleet) -> None:
    spoil(fleet)
    checkup = checked(fleet)
    assert not checkup.passed
    lines = checkup_text(checkup).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "ping   15 of 16 right",
        "path   14 of 16 right",
        "mtu    17 of 18 right",
        "ports  23 of 24 right",
        "set mtu = 1412 in [mesh] and run inv mesh.up",
        "something is wrong",
    ]
    assert "  n2 does not reach mysql" in lines
    assert "  n1 to s1, under the tunnel: 1492 bytes pass, 1500 are needed for [mesh] mtu = 1420" in lines
    assert [line for line in lines if "n3 to s1" in line]
    assert [line for line in lines if "s1 (203.0.113.129): 51820/udp is closed to n1" in line]
    suites = junit(checkup)
    assert suites["check.ping"]["n2 to mysql"] == "n2 does not reach mysql"
    assert suites["check.path"]["n3 to s1"].startswith("promise broken: ")
    assert suites["check.mtu"]["n1 to s1, under the tunnel"].startswith("n1 to s1, under the tunnel: 1492 bytes")
    assert suites["check.ports"]["s1 51820/udp from n1"].startswith("s1 (203.0.113.129): 51820/udp is closed")


@pytest.mark.parametrize("check", ["ping", "path", "mtu", "ports"])
def test_one_check_that_fails_fails_the_whole(fleet: FakeFleet, check: str) -> None:
    if check == "ping":
        fleet["n2"].lost = {"mysql"}
    elif check == "path":
        fleet["n3"].state.routes = set()
    else:
        fleet["n1"].carries = {"tunnel:s1": 1492} if check == "mtu" else {"s1:51820/udp": None}
    checkup = checked(fleet)
    assert not checkup.passed
    assert [suite for suite, cases in junit(checkup).items() if set(cases.values()) != {"passed"}] == [f"check.{check}"]


def test_a_host_that_cannot_be_asked_is_named_once_and_its_words_fit_into_xml(fleet: FakeFleet) -> None:
    fleet["n3"].unreachable = "no login: \x1b[31m\x00&<"
    fleet["n1"].carries = {"n3:51820/udp": None}
    fleet.reconnect(["n3"])
    checkup = checked(fleet)
    assert not checkup.passed
    suites = junit(checkup)
    assert suites["check.hosts"] == {"n3": "n3: no login: ?[31m?&<"}
    assert suites["check.ports"]["n3 51820/udp from n1"] == "n3 could not be asked"
    assert checkup_text(checkup).splitlines()[0] == "hosts  1 could not be asked"


def test_json_has_every_checks_own(fleet: FakeFleet) -> None:
    spoil(fleet)
    found = json.loads(json.dumps(checkup_json(checked(fleet))))
    assert set(found) == {"passed", "ping", "path", "mtu", "ports", "failures"}
    assert found["passed"] is False
    assert found["mtu"]["proposal"] == 1412
    assert len(found["ports"]["ports"]) == 24
