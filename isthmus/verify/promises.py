"""What must hold between two hosts, and who is told when it does not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from isthmus.model import Inventory
from isthmus.verify.trace import Tracer
from isthmus.verify.walk import Link, Outcome, Path, Walk, address_text, path_text, promised_path


class Promise(Enum):
    """What a correct network promises. The value completes the sentence `promise broken: …`."""

    DELIVERED = "every member reaches every other member and every resource"
    PRIVATE_INSIDE = "traffic inside a site never enters the mesh interface"
    ONE_CROSSING = "traffic between sites goes from gateway to gateway and crosses the internet once"
    MIRRORED = "the way back is the mirror image of the way there"
    SOURCE_KEPT = "members are seen with their own address, at another site's resource with its gateway's"
    NO_LOOP = "no packet comes back to where it was"
    NO_OWN_TUNNEL = "no endpoint is routed into the tunnel it carries"
    PROBED = "who stands by can tell what the gateway in charge reaches"
    MESH_ADDRESS = "the mesh interface has the host's address as a /32, and no others but for its probes"
    ONE_MTU = "the mesh interfaces of all hosts have the same MTU"
    ONE_OWNER = "on a host each network belongs to one peer"
    KNOWN_PEERS = "peers are other hosts of the inventory"
    NARROW_KEYS = "a key claims only what lies behind its host"
    NARROW_ROUTES = "the mesh interface captures only the networks of other sites"
    NARROW_FIREWALL = "the firewall lets in and forwards only traffic of the mesh"
    NARROW_SNAT = "source addresses are replaced only on the way to resources"


@dataclass(frozen=True)
class BrokenPromise:
    """One promise that does not hold. Prints as a sentence, then the packet's walk where there is one."""

    promise: Promise
    subject: str
    """Whom it concerns: `n2 to s1`, or a host."""
    detail: str
    """What is wrong; several lines where a walk is part of it."""
    alike: int = 0
    """How many other pairs or hosts, not to be told apart from this one by anything in the network, share its fate."""

    def __str__(self) -> str:
        others = f" (and {self.alike} alike)" if self.alike else ""
        apart = "\n" if "\n" in self.detail else ": "
        return f"promise broken: {self.promise.value}: {self.subject}{others}{apart}{self.detail}"


def broken_between(tracer: Tracer, one: str, other: str) -> list[BrokenPromise]:
    """Return the promises broken for two members, in either direction; each direction at most two."""
    there, back = tracer.trace(one, other), tracer.trace(other, one)
    broken = [
        fault for walk in (there, back) if (fault := _judge(walk, tracer.inventory, _address(tracer, walk.source)))
    ]
    # What is promised one way is the mirror image of what is promised the other way: two walks without fault are, too.
    if broken and there.delivered and back.delivered and there.path != back.path.reversed():
        broken += [_not_mirrored(there, back), _not_mirrored(back, there)]
    return [*broken, *_broken_probe(tracer, one, other), *_broken_probe(tracer, other, one)]


def _broken_probe(tracer: Tracer, second: str, far: str) -> list[BrokenPromise]:
    """Return what is broken where one is the second gateway of its site and probes the other through the first."""
    inventory = tracer.inventory
    here, target = inventory.hosts[second], inventory.hosts[far]
    site = inventory.sites[here.site]
    if site.second != second or target.site == site.name or not inventory.is_gateway(far):
        return []
    there = tracer.probe(second, far, here.probing, target.probed)
    back = tracer.probe(far, second, target.probed, here.probing)
    promised = Path((second, site.first, far), (Link.TUNNEL, Link.INTERNET))
    return [
        BrokenPromise(Promise.PROBED, " to ".join(path.hosts), f"promised is {path}\n{walk}")
        for walk, path in ((there, promised), (back, promised.reversed()))
        if not walk.delivered or walk.path != path
    ]


def broken_to_resource(tracer: Tracer, host: str, resource: str) -> list[BrokenPromise]:
    """Return the promises broken for a member's flow to a resource and the answers to it."""
    inventory = tracer.inventory
    there = tracer.trace(host, resource)
    site = inventory.resources[resource].site
    seen_as = host if inventory.hosts[host].site == site else inventory.sites[site].gateway
    fault = _judge(there, inventory, _address(tracer, seen_as))
    if fault is not None:
        return [fault]
    back = tracer.answer(there)
    if not back.delivered:
        return [_of_walk(_why_stopped(back), back)]
    return [_not_mirrored(there, back)] if there.path != back.path.reversed() else []


def _judge(walk: Walk, inventory: Inventory, source: int) -> BrokenPromise | None:
    """Return the promise a walk breaks, the one that says most about the cause; `source` is what must be seen."""
    promised = promised_path(inventory, walk.source, walk.destination)
    if walk.delivered and walk.seen_as == source and walk.path == promised:
        return None
    if walk.outcome is Outcome.OWN_TUNNEL:
        return _of_walk(Promise.NO_OWN_TUNNEL, walk)
    if len(promised.links) == 1 and promised.links[0] is Link.PRIVATE and _enters_mesh(walk, inventory):
        return _of_walk(Promise.PRIVATE_INSIDE, walk)
    if not walk.delivered:
        return _of_walk(_why_stopped(walk), walk)
    if walk.path != promised:
        fault = _of_walk(Promise.ONE_CROSSING if _enters_mesh(walk, inventory) else Promise.PRIVATE_INSIDE, walk)
        return replace(fault, detail=f"promised is {promised}\n{walk}")
    detail = f"{walk.destination} sees {address_text(walk.seen_as)}, not {address_text(source)}\n{walk}"
    return BrokenPromise(Promise.SOURCE_KEPT, _pair(walk), detail)


def _why_stopped(walk: Walk) -> Promise:
    if walk.outcome is Outcome.OWN_TUNNEL:
        return Promise.NO_OWN_TUNNEL
    return Promise.NO_LOOP if walk.outcome is Outcome.LOOP else Promise.DELIVERED


def _enters_mesh(walk: Walk, inventory: Inventory) -> bool:
    """Return whether a host gives the packet to the mesh interface, delivered or not."""
    return any(hop.route is not None and hop.route.device == inventory.mesh.interface for hop in walk.hops)


def _not_mirrored(walk: Walk, back: Walk) -> BrokenPromise:
    detail = f"there by {path_text(walk)}, back by {path_text(back)}\n{walk}\n{back}"
    return BrokenPromise(Promise.MIRRORED, _pair(walk), detail)


def _of_walk(promise: Promise, walk: Walk) -> BrokenPromise:
    return BrokenPromise(promise, _pair(walk), str(walk))


def _pair(walk: Walk) -> str:
    return f"{walk.source} to {walk.destination}"


def _address(tracer: Tracer, host: str) -> int:
    return int(tracer.inventory.hosts[host].address)
