"""The fake host answers as a real one did: its probe is read to the same facts as the recorded samples."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
from fake_host import FakeFleet, FakeHost, FakeRemote, public_half

from isthmus.compile import compile_mesh
from isthmus.host_scripts import apply_script, host_script
from isthmus.inventory import load_inventory
from isthmus.observe import Facts, parse_probe
from isthmus.plan import plan_host
from isthmus.remote import Fleet, Remote
from isthmus.render import render_host

TESTS = Path(__file__).parent
INVENTORY = load_inventory(TESTS.parent / "hosts.toml")
CONFIGS = compile_mesh(INVENTORY)
KEYS = {name: public_half(f"the private key of {name}") for name in CONFIGS}
RECORDED_KEYS = {
    "n1": "FIMnmJ0MMWc6PekFs+tAbq5DJcyGM6pS/w75w8OjCiQ=",
    "n2": "+Vl/Jqu3aqWMQKE9vPyC/BrCx1PKTDtn3+glYqXgrSg=",
    "n3": "Gpcbp8zqea+kzFSatG4ShD+tyCS/6LcyV4THLF04qFA=",
    "s1": "2i1iwNKo9Wyc4SenkYtDdVQjNZWCiZUsEGwJsA/e4zk=",
}


def recorded(sample: str, name: str) -> Facts:
    """Read a sample as if its hosts had the fakes' keys."""
    text = (TESTS / f"samples/{sample}.txt").read_text(encoding="utf-8")
    for host, key in RECORDED_KEYS.items():
        text = text.replace(key, KEYS[host])
    return comparable(parse_probe(name, "wg0", text))


def comparable(facts: Facts) -> Facts:
    """Leave out what a fake has not: interfaces' rp_filter, other tables' policies, this program's sum."""
    assert facts.interface is None or facts.interface.up
    sysctls = {name: value for name, value in facts.sysctls.items() if not name.endswith("rp_filter")}
    return replace(
        facts,
        clock=0,
        sysctls=sysctls,
        policies={name: policy for name, policy in facts.policies.items() if policy != "ACCEPT"},
        program_sha256=facts.program_sha256 and "",
        routes=tuple(sorted(facts.routes, key=str)),
        firewall=tuple(sorted(facts.firewall)),
    )


def probed(host: FakeHost) -> Facts:
    return comparable(parse_probe(host.name, "wg0", host.run(host_script("probe", interface="wg0"))[1]))


def apply(host: FakeHost) -> None:
    files = render_host(CONFIGS[host.name], KEYS)
    facts = parse_probe(host.name, "wg0", host.run(host_script("probe", interface="wg0"))[1])
    plan = plan_host(CONFIGS[host.name], files, KEYS, facts)
    host.run(host_script("prepare", interface="wg0", packages=" ".join(plan.packages), apt_wait=1))
    host.run(apply_script(plan, interface="wg0", owner="ada@desk (0a1b2c3d)", undo_after=60))


def test_a_bare_fake_host_is_a_bare_host() -> None:
    host = FakeFleet(INVENTORY)["n1"]
    host.system = "debian 11"
    assert probed(host) == recorded("bare", "n1")


@pytest.mark.parametrize(("name", "sample"), [("n1", "gateway"), ("n2", "leaf"), ("s1", "gateway-with-docker")])
def test_a_meshed_fake_host_is_a_meshed_host(name: str, sample: str) -> None:
    host = FakeFleet(INVENTORY)[name]
    if name == "s1":
        host.addresses.append(("docker0", "172.17.0.1/16"))
        host.policies["FORWARD"] = "DROP"
    apply(host)
    host.run(host_script("confirm", owner="ada@desk (0a1b2c3d)"))
    found = probed(host)
    expected = recorded(sample, name)
    assert sorted(map(str, found.addresses)) == sorted(map(str, expected.addresses))
    assert replace(found, addresses=()) == replace(expected, addresses=())


def test_a_held_fake_host_is_a_held_host_until_its_timer_fires() -> None:
    host = FakeFleet(INVENTORY)["n3"]
    before = str(host)
    apply(host)
    assert replace(probed(host), addresses=()) == replace(recorded("held", "n3"), addresses=())
    assert str(host) != before
    host.clock.sleep(60)
    assert str(host).replace(", ".join(sorted(host.packages)), "no packages").replace(KEYS["n3"], "none") == before


@pytest.mark.parametrize(
    ("fake", "real", "names"),
    [(FakeFleet, Fleet, ["each", "reconnect", "connect", "close"]), (FakeRemote, Remote, ["run"])],
)
def test_a_fake_is_called_as_the_real_one_is(fake: type, real: type, names: list[str]) -> None:
    for name in names:
        own, original = (inspect.signature(getattr(one, name)).parameters for one in (fake, real))
        assert [(p.name, p.kind, p.default) for p in own.values()] == [
            (p.name, p.kind, p.default) for p in original.values()
        ], name


def test_a_script_nobody_knows_fails_the_test() -> None:
    with pytest.raises(pytest.fail.Exception, match="it does not know:\necho hello"):
        FakeFleet(INVENTORY)["n1"].run("echo hello")
    with pytest.raises(AssertionError, match=r"confirm\.sh needs"):
        FakeFleet(INVENTORY)["n1"].run(host_script("confirm", owner="x", interface="wg0"))
