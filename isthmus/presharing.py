"""Makes preshared keys on one host and hands them to the other: through this program's memory and SSH's stdin only."""

from __future__ import annotations

from collections.abc import Collection

from isthmus.errors import HostError
from isthmus.host_scripts import host_script
from isthmus.remote import Fleet, Remote

PRESHARE_TIMEOUT_S = 30


def share(fleet: Fleet, interface: str, pairs: Collection[tuple[str, str]], owner: str = "") -> dict[str, HostError]:
    """Give each pair (maker, taker) a key, the one that the maker has if there is one; return who failed.

    With an `owner` all keys are made anew, for the transaction of that name: they are in no use before it changes the
    host, and nobody's when it is undone. A pair of which one failed has different keys, or none.
    """

    def make(remote: Remote) -> str:
        takers = "".join(f"make {taker}\n" for maker, taker in pairs if maker == remote.name)
        script = host_script("preshare", interface=interface, owner=owner)
        return remote.run(f"{script}{takers}", timeout=PRESHARE_TIMEOUT_S)

    made = fleet.each({maker: None for maker, _ in pairs}, make)
    handed: dict[str, str] = {}
    for maker, told in made.items():
        if not isinstance(told, HostError):
            for taker, secret in (line.split() for line in told.splitlines()):
                handed[taker] = handed.get(taker, "") + f"{maker} {secret}\n"

    def take(remote: Remote) -> str:
        script = host_script("preshare", interface=interface, owner=owner)
        return remote.run(f"{script}take\n", timeout=PRESHARE_TIMEOUT_S, stdin=handed[remote.name].encode())

    results = {**made, **fleet.each(handed, take)}
    return {name: result for name, result in results.items() if isinstance(result, HostError)}
