"""Moves of a running mesh, in memory: what is refused with its two steps, and what is done in one."""

from __future__ import annotations

import pytest
from fake_host import FakeFleet
from test_apply import article, down, messages, peers_of, plan, up

from isthmus.errors import InventoryError
from isthmus.model import Inventory

SHANGHAI = ("172.16.128.", "172.20.0.")


@pytest.fixture
def meshed() -> FakeFleet:
    """The article's four hosts, their mesh up."""
    fleet = FakeFleet(article())
    assert up(fleet).failures == {}
    return fleet


def moved(fleet: FakeFleet, host: str, address: str) -> None:
    """Give a host another address beside its own."""
    fleet[host].addresses.append(("eth0", f"{address}/24"))


def refusal(fleet: FakeFleet, inventory: Inventory) -> str:
    """Return why both plan and up refuse an inventory; nothing is touched."""
    before = str(fleet)
    new = FakeFleet(inventory, fleet)
    texts = set()
    for run in (plan, up):
        with pytest.raises(InventoryError) as caught:
            run(new)
        texts.add(str(caught.value))
    assert str(fleet) == before
    assert {script for _, script in new.calls} == {"probe"}
    (text,) = texts
    return text


def test_another_port_takes_two_steps(meshed: FakeFleet) -> None:
    new = article(("listen_port = 51820", "listen_port = 51821"))
    assert refusal(meshed, new) == (
        "hosts.toml: mesh.listen_port: found 51821, expected 51820, where the mesh listens; "
        "to change it, `inv mesh.down` with the old hosts.toml, then `inv mesh.up`"
    )
    down(meshed)
    assert up(FakeFleet(new, meshed)).changed == ("n1", "n2", "n3", "s1")


def test_a_host_that_was_off_during_the_two_steps_gets_the_new_port_in_one(meshed: FakeFleet) -> None:
    down(meshed, ["n1", "n2", "n3"])
    fleet = FakeFleet(article(("listen_port = 51820", "listen_port = 51821")), meshed)
    fleet["s1"].unreachable = "no answer"
    assert up(fleet).changed == ("n1", "n2", "n3")
    fleet["s1"].unreachable = None
    fleet.reconnect(["s1"])
    assert up(fleet).changed == ("n1", "s1")
    assert plan(fleet).waiting == ()


@pytest.mark.parametrize("name", ["n1", "n3"])
def test_a_port_edited_by_hand_in_one_hosts_file_is_repaired(meshed: FakeFleet, name: str) -> None:
    text, mode = meshed[name].state.files[meshed[name].conf]
    meshed[name].state.files[meshed[name].conf] = (text.replace("ListenPort = 51820", "ListenPort = 4444"), mode)
    assert up(meshed).changed == (name,)
    assert plan(meshed).waiting == ()


def test_another_name_of_the_interface_takes_two_steps(meshed: FakeFleet) -> None:
    new = article(('"wg0"', '"wg1"'))
    assert refusal(meshed, new) == (
        'hosts.toml: mesh.interface: found "wg1", expected "wg0", on which the mesh runs (s1); '
        "to rename it, `inv mesh.down` with the old hosts.toml, then `inv mesh.up`"
    )
    line = "has the mesh on wg0, not on wg1; to rename it, `inv mesh.down` with the old hosts.toml, then `inv mesh.up`"
    assert messages(down(FakeFleet(new, meshed))) == dict.fromkeys(meshed.hosts, line)


def test_an_address_that_its_host_does_not_have_yet_stops_everything(meshed: FakeFleet) -> None:
    new = article(("172.16.0.3", "172.16.0.5"))
    assert refusal(meshed, new) == (
        'hosts.toml: hosts.n3.address: found "172.16.0.5", expected an address of its network interfaces (172.16.0.3): '
        "give it the new one first, then `inv mesh.up`"
    )
    moved(meshed, "n3", "172.16.0.5")
    fleet = FakeFleet(new, meshed)
    assert up(fleet).changed == ("n1", "n3")
    running = fleet["n1"].state.running
    assert running
    assert running.peers[fleet["n3"].public_key or ""].allowed_ips == ["172.16.0.5/32"]
    assert plan(fleet).waiting == ()


def test_a_gateway_gets_another_address_of_its_subnet(meshed: FakeFleet) -> None:
    moved(meshed, "n1", "172.16.0.9")
    fleet = FakeFleet(article(('"172.16.0.1"', '"172.16.0.9"')), meshed)
    assert up(fleet).changed == ("n1", "n2", "n3")
    assert plan(fleet).waiting == ()


def test_another_subnet_takes_two_steps_even_if_its_hosts_have_the_new_addresses(meshed: FakeFleet) -> None:
    moved(meshed, "s1", "172.20.0.1")
    new = article(SHANGHAI)
    assert refusal(meshed, new) == (
        'hosts.toml: sites.shanghai.subnet: found "172.20.0.0/24", expected a network with 172.16.128.1, '
        "where its gateway s1 is; to renumber a site, `inv mesh.down` with the old hosts.toml, then `inv mesh.up`"
    )
    down(meshed)
    assert up(FakeFleet(new, meshed)).changed == ("n1", "n2", "n3", "s1")


def test_a_leaf_goes_to_another_site(meshed: FakeFleet) -> None:
    meshed["n3"].addresses[-1:] = [("eth0", "172.16.128.3/24")]
    new = article(('site    = "nanjing"\naddress = "172.16.0.3"', 'site    = "shanghai"\naddress = "172.16.128.3"'))
    fleet = FakeFleet(new, meshed)
    assert up(fleet).changed == ("n1", "n3", "s1")
    assert "n3" in peers_of(fleet, "s1")
    assert "n3" not in peers_of(fleet, "n1")


@pytest.mark.parametrize("change", [('"172.16.0.0/12"', '"172.16.0.0/14"'), ('"172.16.128.0/24"', '"172.16.128.0/23"')])
def test_a_network_that_still_has_everybody_in_it_is_planned_as_it_is(
    meshed: FakeFleet, change: tuple[str, str]
) -> None:
    fleet = FakeFleet(article(change), meshed)
    assert up(fleet).changed == ("n1", "n2", "n3", "s1")
    assert plan(fleet).waiting == ()
