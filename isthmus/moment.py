"""When several hosts make a change that only works once all have made it: at one moment. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection

from isthmus.plan import HostPlan

TOGETHER_S = 2
"""How long before its moment a change is sent to the first host…"""
SEND_S = 0.1
"""…and what sending it to one more may take."""
MOST_S = 8
"""No moment is further away: files/usr/local/sbin/isthmus does not wait 10 s."""


def moment_for(plans: Collection[HostPlan], undo_after: int, now: float) -> int:
    """Return when the hosts of these plans shall change their peers, in seconds since 1970; 0: each as soon as it can.

    When another gateway takes charge, its networks move from one peer to another on many hosts, and packets are lost
    while some have done it and others not. So all wait for one moment, by their own clocks. A clock that is wrong costs
    as long as it is wrong, and a few seconds at most.
    """
    if sum(plan.moves_networks for plan in plans) < 2:
        return 0
    return math.ceil(now + min(TOGETHER_S + SEND_S * len(plans), MOST_S, undo_after / 4))


def moment_of_all(hosts: int, now: float) -> int:
    """Return when so many hosts shall begin with something together, in seconds since 1970."""
    return math.ceil(now + min(TOGETHER_S + SEND_S * hosts, MOST_S))
