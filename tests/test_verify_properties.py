"""Promises of every compiled network, and what representatives of alike hosts may be trusted with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import permutations
from typing import TypeVar

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from strategies import inventories

from isthmus.compile import compile_mesh
from isthmus.inventory import parse_inventory
from isthmus.model import MAIN_TABLE, Chain, Endpoint, FirewallRule, Inventory, Peer, Route, Rule, Target
from isthmus.verify import (
    BrokenPromise,
    Machine,
    Promise,
    Tracer,
    connected_route,
    machines_of,
    promised_path,
    verify,
)
from isthmus.verify.sites import Sites
from isthmus.verify.symmetry import classes_of_alike

T = TypeVar("T")

Machines = Mapping[str, Machine]

few_hosts = inventories(max_sites=3, max_hosts=4)
settings.register_profile("verify", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
in_short = settings(settings.get_profile("verify"))


def compiled(inventory: Inventory) -> dict[str, Machine]:
    return machines_of(compile_mesh(inventory), inventory)


# --- what is compiled is right ------------------------------------------------------------------------------------


@in_short
@given(inventories())
def test_every_compiled_network_keeps_every_promise(inventory):
    assert verify(compiled(inventory), inventory) == ()


@in_short
@given(few_hosts, st.booleans())
def test_every_pair_takes_the_promised_path_even_where_the_cloud_lets_any_source_pass(inventory, spoofing_dropped):
    tracer = Tracer(compiled(inventory), inventory, spoofing_dropped=spoofing_dropped)
    for source, destination in permutations(inventory.hosts, 2):
        there, back = tracer.trace(source, destination), tracer.trace(destination, source)
        assert there.delivered
        assert there.path == promised_path(inventory, source, destination) == back.path.reversed()
        assert there.seen_as == int(inventory.hosts[source].address)


@in_short
@given(inventories(max_sites=3, max_hosts=8))
def test_members_of_a_site_that_differ_in_nothing_are_found_alike(inventory):
    classes = classes_of_alike(compiled(inventory), inventory, {})
    kinds = {
        (host.site, inventory.is_gateway(host.name), inventory.in_charge(host.name), host.public is None)
        for host in inventory.hosts.values()
    }
    assert len(classes) == len(kinds)


# --- what breaks a network is found -------------------------------------------------------------------------------

Fault = Callable[[st.DrawFn, Inventory, Machines], Machine | None]
"""Returns a machine with one fault that must cost somebody a promise, or None where the network has no place for it."""


def some(draw: st.DrawFn, items: object) -> object:
    return draw(st.sampled_from(list(items)))  # type: ignore[call-overload]


def a_host(draw: st.DrawFn, inventory: Inventory, machines: Machines, gateway: bool | None = None) -> Machine:
    names = [name for name in machines if gateway is None or inventory.is_gateway(name) is gateway]
    assume(names)
    return machines[some(draw, names)]


def carry(inventory: Inventory, name: str, others: Mapping[str, T]) -> list[T]:
    """Of what a host has for each of these others, return that by which packets go as long as nothing has failed.

    A gateway that stands by has everything ready for the leaves of its site, and they for it, but nothing goes there:
    test_prove.py looks at it in charge. Two gateways of a site send each other nothing by the mesh.
    """
    here = inventory.hosts[name].site
    idle = inventory.sites[here].gateways[1:]
    return [
        thing for other, thing in others.items() if inventory.hosts[other].site != here or not {name, other} & set(idle)
    ]


def a_peer_that_carries(draw: st.DrawFn, inventory: Inventory, machine: Machine) -> Peer:
    peers = carry(inventory, machine.name, {peer.host: peer for peer in machine.peers})
    assume(peers and len(inventory.sites) > 1)
    return some(draw, peers)


def forwarder(draw: st.DrawFn, inventory: Inventory, machines: Machines) -> Machine:
    """A gateway that has leaves, in a network that has other sites."""
    names = [site.gateway for name, site in inventory.sites.items() if inventory.leaves(name)]
    assume(names and len(inventory.sites) > 1)
    return machines[some(draw, names)]


def drop_a_peer(draw, inventory, machines):
    machine = a_host(draw, inventory, machines)
    lost = a_peer_that_carries(draw, inventory, machine)
    return replace(machine, peers=tuple(peer for peer in machine.peers if peer is not lost))


def drop_the_allowed_ips_of_a_peer(draw, inventory, machines):
    machine = a_host(draw, inventory, machines)
    lost = a_peer_that_carries(draw, inventory, machine)
    return replace(machine, peers=tuple(replace(p, allowed_ips=()) if p is lost else p for p in machine.peers))


def drop_a_mesh_route(draw, inventory, machines):
    machine = a_host(draw, inventory, machines)
    assume(len(inventory.sites) > 1)
    ours = [route for route in machine.routes if route.device == machine.interface]
    member = {int(host.address): name for name, host in inventory.hosts.items()}
    to_hosts = {member.get(int(route.destination[0])): route for route in ours if route.table != MAIN_TABLE}
    to_probe = to_hosts.pop(None, None)
    needed = [route for route in ours if route.table == MAIN_TABLE] + carry(inventory, machine.name, to_hosts)
    needed += [to_probe] if to_probe else []
    lost = some(draw, needed)
    return replace(machine, routes=tuple(route for route in machine.routes if route is not lost))


def drop_the_rule(draw, inventory, machines):
    return replace(forwarder(draw, inventory, machines), rules=())


def drop_a_firewall_rule(draw, inventory, machines):
    machine = forwarder(draw, inventory, machines)
    needed = [rule for rule in machine.firewall if rule.chain is not Chain.MANGLE]
    lost = some(draw, needed)
    return replace(machine, firewall=tuple(rule for rule in machine.firewall if rule is not lost))


def switch_forwarding_off(draw, inventory, machines):
    return replace(forwarder(draw, inventory, machines), ip_forward=False)


def move_an_endpoint(draw, inventory, machines):
    machine = a_host(draw, inventory, machines)
    moved = a_peer_that_carries(draw, inventory, machine)
    elsewhere = [address for host in inventory.hosts.values() for address in (host.address, host.public) if address]
    right = {inventory.hosts[moved.host].address, inventory.hosts[moved.host].public}
    # A public endpoint for one's own gateway is a fault too, but needs a public address to be delivered at all.
    target = some(draw, [None, *(address for address in elsewhere if address not in right)])
    endpoint = None if target is None else Endpoint(target, inventory.mesh.listen_port)
    return replace(machine, peers=tuple(replace(p, endpoint=endpoint) if p is moved else p for p in machine.peers))


def change_the_port(draw, inventory, machines):
    machine = a_host(draw, inventory, machines)
    assume(len(inventory.sites) > 1)
    return replace(machine, listen_port=machine.listen_port ^ 1)


def put_the_whole_subnet_on_the_mesh_interface(draw, inventory, machines):
    machine = a_host(draw, inventory, machines)
    host = inventory.hosts[machine.name]
    address = IPv4Interface((int(host.address), inventory.sites[host.site].subnet.prefixlen))
    addresses = tuple((device, address if device == machine.interface else old) for device, old in machine.addresses)
    return replace(machine, addresses=addresses, routes=(*machine.routes, *connected_route(machine.interface, address)))


def capture_a_network_of_the_cluster(draw, inventory, machines):
    assume(inventory.kubernetes)
    machine = a_host(draw, inventory, machines)
    network = some(draw, [inventory.kubernetes.pod_subnet, inventory.kubernetes.service_subnet])
    inside = IPv4Network((int(network.network_address), draw(st.integers(network.prefixlen, 32))))
    return replace(machine, routes=(*machine.routes, Route(inside, machine.interface)))


def masquerade_everything(draw, inventory, machines):
    machine = a_host(draw, inventory, machines)
    address = inventory.hosts[machine.name].address
    return replace(machine, firewall=(*machine.firewall, FirewallRule(Chain.NAT, Target.SNAT, to_source=address)))


def forward_everything(draw, inventory, machines):
    machine = a_host(draw, inventory, machines)
    return replace(machine, firewall=(*machine.firewall, FirewallRule(Chain.FORWARD, Target.ACCEPT)))


def give_a_key_the_address_of_another(draw, inventory, machines):
    machine = a_host(draw, inventory, machines)
    assume(machine.peers)
    thief = some(draw, machine.peers)
    others = [host for host in inventory.hosts.values() if host.name not in (thief.host, machine.name)]
    victims = [h for h in others if h.site == inventory.hosts[thief.host].site and not inventory.is_gateway(thief.host)]
    assume(victims)
    stolen = IPv4Network(some(draw, victims).address)
    greedy = replace(thief, allowed_ips=(*thief.allowed_ips, stolen))
    return replace(machine, peers=tuple(greedy if peer is thief else peer for peer in machine.peers))


def route_the_own_site_into_the_mesh(draw, inventory, machines):
    machine = a_host(draw, inventory, machines)
    subnet = inventory.sites[inventory.hosts[machine.name].site].subnet
    return replace(machine, routes=(*machine.routes, Route(subnet, machine.interface)))


FAULTS = [
    drop_a_peer,
    drop_the_allowed_ips_of_a_peer,
    drop_a_mesh_route,
    drop_the_rule,
    drop_a_firewall_rule,
    switch_forwarding_off,
    move_an_endpoint,
    change_the_port,
    put_the_whole_subnet_on_the_mesh_interface,
    capture_a_network_of_the_cluster,
    masquerade_everything,
    forward_everything,
    give_a_key_the_address_of_another,
    route_the_own_site_into_the_mesh,
]


@settings(in_short, max_examples=200)
@given(st.data(), few_hosts, st.sampled_from(FAULTS))
def test_any_single_fault_that_matters_is_found(data, inventory, fault):
    machines = compiled(inventory)
    broken_one = fault(data.draw, inventory, machines)
    assert verify({**machines, broken_one.name: broken_one}, inventory)


@in_short
@given(st.data(), few_hosts)
def test_a_network_on_a_host_inside_another_site_is_found(data, inventory):
    assume(len(inventory.sites) > 1)
    machines = compiled(inventory)
    name = data.draw(st.sampled_from(list(machines)))
    others = [site.subnet for key, site in inventory.sites.items() if key != inventory.hosts[name].site]
    subnet = data.draw(st.sampled_from(others))
    length = data.draw(st.integers(8, 32))
    found = IPv4Interface((int(subnet.network_address), length)).network
    broken = verify(machines, inventory, {name: [found]})
    assert {(fault.promise, fault.subject) for fault in broken} == {(Promise.NARROW_ROUTES, name)}


# --- representatives speak for all --------------------------------------------------------------------------------


def how_often(broken: tuple[BrokenPromise, ...]) -> Counter[Promise]:
    """How many hosts and pairs break each promise."""
    times: Counter[Promise] = Counter()
    for fault in broken:
        times[fault.promise] += fault.alike + 1
    return times


def sites_with(*leaves: tuple[int, int], resources: str = "", standing_by: str = "") -> Inventory:
    """Return an inventory with so many (private, public) leaves in each site a, b, …, beside its gateway.

    Sites named in `resources` have one each, those in `standing_by` another gateway, the last of their hosts.
    """
    lines = ['[mesh]\nsupernet = "10.0.0.0/16"']
    for third, (private, public) in enumerate(leaves):
        site = "abcdefgh"[third]
        last = private + public + 1 + (site in standing_by)
        gateways = f'"{site}1", "{site}{last}"' if site in standing_by else f'"{site}1"'
        lines.append(f'[sites.{site}]\nsubnet = "10.0.{third}.0/24"\ngateways = [{gateways}]')
        for number in range(1, last + 1):
            lines.append(f'[hosts.{site}{number}]\nsite = "{site}"\naddress = "10.0.{third}.{number}"')
            if number == 1 or number > private + 1:
                lines.append(f'public = "203.0.{third}.{number}"')
        if site in resources:
            lines.append(f'[resources.db-{site}]\nsite = "{site}"\naddress = "10.0.{third}.20"\nport = 3306')
    return parse_inventory("\n".join(lines), "hosts.toml")


# Many hosts and many sites alike, of different size.
MANY_LEAVES = sites_with((4, 2), (2, 0), resources="b")
MANY_SITES = sites_with((2, 0), (3, 0), (2, 0), (1, 2), (1, 0), (1, 0), (0, 0), (0, 0), resources="abc")
MANY_GATEWAYS = sites_with((2, 0), (3, 0), (0, 2), (2, 0), (0, 0), resources="ab", standing_by="abce")


@settings(in_short, max_examples=150)
@given(st.data(), st.sampled_from([MANY_LEAVES, MANY_SITES, MANY_GATEWAYS]))
def test_representatives_find_what_all_pairs_find_and_count_it_right(data, inventory):
    machines = compiled(inventory)
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(list(machines)))
        machines[name] = mutated(data.draw, inventory, machines[name])
    foreign = {name: [IPv4Network("172.17.0.0/16")] for name in data.draw(st.sets(st.sampled_from(list(machines))))}
    all_pairs = how_often(verify(machines, inventory, foreign, exhaustive=True))
    assert how_often(verify(machines, inventory, foreign)) == all_pairs


STRANGER = IPv4Address("10.0.200.9")
"""Nobody's."""


def mutated(draw: st.DrawFn, inventory: Inventory, machine: Machine) -> Machine:
    """Return the machine with any one thing changed, harmful or not, sensible or not."""
    hosts = list(inventory.hosts.values())
    one, other = draw(st.sampled_from(hosts)), draw(st.sampled_from(hosts))
    networks = [
        *(IPv4Network(address) for address in (one.address, other.address, STRANGER)),
        *(site.subnet for site in inventory.sites.values()),
        inventory.mesh.supernet,
        IPv4Network("0.0.0.0/0"),
        IPv4Network((int(one.address) & ~3, 30)),
    ]
    network = draw(st.sampled_from(networks))
    device = draw(st.sampled_from([machine.interface, "eth0", "docker0"]))
    endpoint = Endpoint(draw(st.sampled_from([one.address, one.public or one.address, STRANGER])), machine.listen_port)
    source = draw(st.sampled_from([one.address, STRANGER]))

    def without_one(items: tuple[object, ...]) -> tuple[object, ...]:
        if not items:
            return items
        gone = draw(st.integers(0, len(items) - 1))
        return items[:gone] + items[gone + 1 :]

    def shuffled(items: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(draw(st.permutations(items)))

    def with_claims(peers: tuple[Peer, ...]) -> tuple[Peer, ...]:
        # Several peers may be given the same network: then their order decides.
        chosen = draw(st.sets(st.sampled_from(range(len(peers))))) if peers else set()
        return tuple(
            replace(peer, allowed_ips=(*peer.allowed_ips, network)) if number in chosen else peer
            for number, peer in enumerate(peers)
        )

    extra_route = Route(
        network,
        device,
        table=draw(st.sampled_from([MAIN_TABLE, 5182])),
        source=draw(st.sampled_from([None, source])),
        gateway=draw(st.sampled_from([None, other.address])),
        metric=draw(st.sampled_from([0, 100])),
    )
    accept = FirewallRule(
        draw(st.sampled_from([Chain.FORWARD, Chain.INPUT])),
        Target.ACCEPT,
        source=draw(st.sampled_from([None, *networks])),
        destination=draw(st.sampled_from([None, *networks])),
    )
    translate = FirewallRule(Chain.NAT, Target.SNAT, source=network, to_source=source)
    changes: list[Callable[[], Machine]] = [
        lambda: replace(machine, peers=without_one(machine.peers)),
        lambda: replace(machine, peers=shuffled(with_claims(machine.peers))),
        lambda: replace(machine, peers=(*machine.peers, Peer(one.name, (network,), endpoint))),
        lambda: replace(machine, peers=tuple(replace(peer, endpoint=endpoint) for peer in machine.peers)),
        lambda: replace(machine, routes=without_one(machine.routes)),
        lambda: replace(machine, routes=(extra_route, *machine.routes)),
        lambda: replace(machine, routes=(*machine.routes, extra_route)),
        lambda: replace(machine, rules=()),
        lambda: replace(machine, rules=(*machine.rules, Rule(iif=device, table=5182, priority=100))),
        lambda: replace(machine, firewall=without_one(machine.firewall)),
        lambda: replace(machine, firewall=shuffled((*machine.firewall, accept, translate))),
        lambda: replace(machine, addresses=(*machine.addresses, (device, IPv4Interface(source)))),
        lambda: replace(machine, addresses=((device, IPv4Interface(source)), *machine.addresses)),
        lambda: replace(machine, rp_filter=draw(st.sampled_from([0, 2]))),
        lambda: replace(machine, forward_drops=False, ip_forward=True, rp_filter=2),
        lambda: replace(machine, listen_port=1),
        lambda: replace(machine, mtu=1400),
    ]
    return draw(st.sampled_from(changes))()


def test_two_leaves_that_claim_one_network_are_not_alike():
    # The last claim wins, so they are not: exchanging them would give the network to the other.
    inventory = sites_with((3, 0))
    machines = compiled(inventory)
    claim = IPv4Network("10.0.0.64/26")
    gateway = machines["a1"]
    peers = tuple(replace(peer, allowed_ips=(*peer.allowed_ips, claim)) for peer in gateway.peers)
    assert classes_of_alike(machines, inventory, {}) == [["a1"], ["a2", "a3", "a4"]]
    changed = {**machines, "a1": replace(gateway, peers=peers)}
    assert classes_of_alike(changed, inventory, {}) == [["a1"], ["a2", "a3"], ["a4"]]


def test_two_next_hops_of_equal_routes_are_not_alike():
    # The first of equal routes is taken.
    inventory = sites_with((3, 0))
    machines = compiled(inventory)
    by_b, by_c = (Route(IPv4Network("10.0.9.0/24"), "eth0", gateway=IPv4Address(f"10.0.0.{n}")) for n in (2, 3))
    changed = {**machines, "a1": replace(machines["a1"], routes=(*machines["a1"].routes, by_b, by_c))}
    assert classes_of_alike(changed, inventory, {}) == [["a1"], ["a2"], ["a3"], ["a4"]]


def test_a_leaf_that_another_host_knows_by_name_is_not_like_the_others():
    inventory = sites_with((3, 0))
    machines = compiled(inventory)
    to_c = Route(IPv4Network("10.0.0.3/32"), "eth0")
    changed = {**machines, "a2": replace(machines["a2"], routes=(*machines["a2"].routes, to_c))}
    assert classes_of_alike(changed, inventory, {}) == [["a1"], ["a2"], ["a3"], ["a4"]]


def test_leaves_on_different_sides_of_a_prefix_are_not_alike():
    inventory = sites_with((3, 0))
    machines = compiled(inventory)
    half = Route(IPv4Network("10.0.0.2/31"), "docker0")
    changed = {**machines, "a1": replace(machines["a1"], routes=(*machines["a1"].routes, half))}
    assert classes_of_alike(changed, inventory, {}) == [["a1"], ["a2", "a3"], ["a4"]]


def groups_of_alike_sites(machines: Machines, inventory: Inventory) -> list[list[str]]:
    sites = Sites(classes_of_alike(machines, inventory, {}), inventory)
    sites.group(Tracer(machines, inventory).kernel)
    return sites.groups


def test_sites_of_the_same_kinds_of_hosts_are_alike_whatever_their_size():
    assert groups_of_alike_sites(compiled(MANY_SITES), MANY_SITES) == [["a", "b", "c"], ["d"], ["e", "f"], ["g", "h"]]


def test_sites_with_a_gateway_that_stands_by_are_alike():
    assert groups_of_alike_sites(compiled(MANY_GATEWAYS), MANY_GATEWAYS) == [["a", "b"], ["c"], ["d"], ["e"]]


def test_a_site_that_another_treats_in_its_own_way_is_alike_to_none():
    machines = compiled(MANY_SITES)
    gateway = machines["a1"]
    peers = tuple(replace(p, endpoint=Endpoint(p.endpoint.address, 1)) if p.host == "g1" else p for p in gateway.peers)
    machines["a1"] = replace(gateway, peers=peers)
    assert groups_of_alike_sites(machines, MANY_SITES) == [["a"], ["b", "c"], ["d"], ["e", "f"], ["g"], ["h"]]


def test_a_site_with_another_setting_is_not_like_the_others():
    machines = compiled(MANY_SITES)
    machines["b1"] = replace(machines["b1"], rp_filter=2)
    assert groups_of_alike_sites(machines, MANY_SITES) == [["a", "c"], ["b"], ["d"], ["e", "f"], ["g", "h"]]


def test_a_site_that_treats_its_own_hosts_in_another_way_is_not_like_the_others():
    machines = compiled(MANY_SITES)
    gateway = machines["e1"]
    machines["e1"] = replace(gateway, routes=tuple(r for r in gateway.routes if r.table == MAIN_TABLE))
    assert groups_of_alike_sites(machines, MANY_SITES) == [["a", "b", "c"], ["d"], ["e"], ["f"], ["g", "h"]]


def test_a_site_that_others_call_by_name_is_not_like_the_others():
    machines = compiled(MANY_SITES)
    as_f = FirewallRule(Chain.NAT, Target.SNAT, to_source=MANY_SITES.hosts["f1"].address)
    machines["d1"] = replace(machines["d1"], firewall=(*machines["d1"].firewall, as_f))
    assert groups_of_alike_sites(machines, MANY_SITES) == [["a", "b", "c"], ["d"], ["e"], ["f"], ["g", "h"]]
