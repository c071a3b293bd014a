"""Takes our things off hosts that have left the inventory: `inv mesh.up --prune OLD-HOSTS-FILE`.

Who has left is read from the inventory as it was, not from what is found on the hosts: explicit, and it still works
when the mesh has forgotten them. The mesh that stays is changed first; only then are leavers cleaned, and only those
that were members of this very mesh.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from isthmus.apply import mesh_down
from isthmus.compile import compile_mesh
from isthmus.errors import HostError, UnreachableError
from isthmus.model import Inventory
from isthmus.observe import Facts, peers_in_files
from isthmus.plan import objections
from isthmus.remote import Fleet
from isthmus.survey import Progress, Report, known_keys, observe, silent


@dataclass
class PruneReport:
    """What became of the hosts that have left, by their old names."""

    cleaned: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    """Nothing of ours was there."""
    unreachable: dict[str, HostError] = field(default_factory=dict)
    """Perhaps they are no more. Nobody trusts them any longer, so this is no failure."""
    failures: dict[str, HostError] = field(default_factory=dict)


def leavers(old: Inventory, new: Inventory) -> tuple[str, ...]:
    """Return the hosts of the old inventory whose addresses nobody has in the new one; another name is no leaving."""
    stay = {host.address for host in new.hosts.values()}
    return tuple(name for name, host in old.hosts.items() if host.address not in stay)


def prune(old: Inventory, fleet: Fleet, mesh: Report, progress: Progress = silent) -> PruneReport:
    """Clean the hosts that have left: `fleet` leads to the old inventory's hosts, `mesh` is what mesh_up reported.

    A host is touched only when its files are ours and one of them names a member of the mesh by its public key, so that
    another mesh's inventory given by mistake does no harm. It is left alone while a host that counts on it failed.
    """
    report = PruneReport()
    configs = compile_mesh(old)
    gone = leavers(old, mesh.inventory)
    for name in gone:
        behind = [peer.host for peer in configs[name].peers if peer.host in mesh.failures]
        if behind:
            report.failures[name] = HostError(name, f"has left, not cleaned yet: {', '.join(behind)} may count on it")
    found: dict[str, Facts] = {}
    for name, result in observe(fleet, old, [name for name in gone if name not in report.failures], progress).items():
        if isinstance(result, Facts):
            found[name] = result
        elif isinstance(result, UnreachableError):
            report.unreachable[name] = result
        else:
            report.failures[name] = result
    keys = {key for name, key in known_keys(mesh.facts).items() if name in mesh.inventory.hosts}
    moved = {name for name, facts in found.items() if facts.public_key in keys}
    report.bare = tuple(n for n, facts in found.items() if not facts.files and not facts.program_sha256)
    proven = _members(found, keys)
    for name in [name for name in found if name not in report.bare and name not in moved]:
        against = [text for text in objections(configs[name], found[name]) if not text.startswith("runs ")]
        if name not in proven:
            against.append(
                "names nobody of the mesh as its peer; `inv mesh.down -f OLD-HOSTS-FILE --only` takes it off"
            )
        if against:
            report.failures[name] = HostError(name, "has left, not cleaned: " + "; ".join(against))
    todo = [name for name in found if name not in {*report.bare, *report.failures, *moved}]
    if todo:
        done = mesh_down(old, fleet, todo, progress=progress)
        report.cleaned = done.changed
        report.failures.update(done.failures)
    return report


def _members(found: Mapping[str, Facts], keys: Collection[str]) -> set[str]:
    """Return who was a member: its file names a host of the mesh by its key, or a leaver of which that is true.

    The leaves of a site that has left as a whole know only their own gateway.
    """
    members: set[str] = set()
    known = set(keys)
    while True:
        more = {name for name in found.keys() - members if known & set(peers_in_files(found[name]).values())}
        if not more:
            return members
        members |= more
        known |= {key for name in more if (key := found[name].public_key)}
