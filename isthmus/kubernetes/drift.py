"""(Node wanted, Node found) -> how its labels and taints differ, and the kubectl commands that end the difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from isthmus.kubernetes.cluster import Node, Taint
from isthmus.kubernetes.facts import SET_BY_US, NodeObject


@dataclass(frozen=True)
class Drift:
    """How a Node's labels and taints differ from hosts.toml's. What others have set is no difference."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """To be set."""
    taints: tuple[Taint, ...] = ()
    """To be set."""
    lost_labels: tuple[str, ...] = ()
    """Keys to be taken off: ours, and no longer in hosts.toml."""
    lost_taints: tuple[str, ...] = ()
    """`key:effect` to be taken off."""
    remembered: str | None = None
    """What the Node is to remember as set by us; None where it does already."""

    def __bool__(self) -> bool:
        return bool(self.labels or self.taints or self.lost_labels or self.lost_taints or self.remembered is not None)

    def __iter__(self) -> Iterator[str]:
        yield from (f"label {key}={value}" for key, value in self.labels.items())
        yield from (f"taint {taint}" for taint in self.taints)
        yield from (f"no label {key}" for key in self.lost_labels)
        yield from (f"no taint {name}" for name in self.lost_taints)
        if self.remembered is not None and not (self.labels or self.taints or self.lost_labels or self.lost_taints):
            yield "remember what is ours"

    def commands(self, name: str) -> tuple[tuple[str, ...], ...]:
        """Return the words of the kubectl commands that end the difference."""
        labels = [*(f"{key}={value}" for key, value in self.labels.items()), *(f"{key}-" for key in self.lost_labels)]
        taints = [*map(str, self.taints), *(f"{one}-" for one in self.lost_taints)]
        commands = []
        if labels:
            commands.append(("label", "node", name, *labels, "--overwrite"))
        if taints:
            commands.append(("taint", "node", name, *taints, "--overwrite"))
        if self.remembered is not None:
            commands.append(("annotate", "node", name, f"{SET_BY_US}={self.remembered}", "--overwrite"))
        return tuple(commands)


def drift(node: Node, found: NodeObject) -> Drift:
    """Return how a Node differs from what hosts.toml says of it."""
    ours = {*node.labels, *(taint.name for taint in node.taints)}
    gone = found.set_by_us - ours
    there = {taint.name for taint in found.taints}
    return Drift(
        labels={key: value for key, value in node.labels.items() if found.labels.get(key) != value},
        taints=tuple(taint for taint in node.taints if taint not in found.taints),
        lost_labels=tuple(sorted(key for key in gone if key in found.labels)),
        lost_taints=tuple(sorted(name for name in gone if name in there)),
        remembered=None if found.set_by_us == ours else " ".join(sorted(ours)),
    )
