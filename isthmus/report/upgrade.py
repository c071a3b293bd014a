"""What is left of an upgrade, node by node."""

from __future__ import annotations

from typing import Any

from isthmus.kubernetes.upgrade import UpgradePlan


def upgrade_text(plan: UpgradePlan) -> str:
    """Return every node with what is left to do, in the order in which it is done, a step a line."""
    lines = []
    for node in plan.nodes:
        lines.append(f"{node.host}: {node.runs} to {plan.target}" if node.runs != plan.target else f"{node.host}:")
        lines += [f"  {step}" for step in node.steps]
    if plan.manifests:
        lines.append(f"then apply {', '.join(plan.manifests)}")
    return "\n".join(lines or [f"nothing to do: all nodes run {plan.target}"])


def upgrade_json(plan: UpgradePlan) -> dict[str, Any]:
    """Return {"target", "nodes": [{"host", "from", "to", "steps": [{"step", "what"}…]}…], "manifests"}."""
    nodes = [
        {
            "host": node.host,
            "from": node.runs,
            "to": plan.target,
            "steps": [{"step": step.act.value, "what": list(step.what)} for step in node.steps],
        }
        for node in plan.nodes
    ]
    return {"target": plan.target, "nodes": nodes, "manifests": list(plan.manifests)}
