"""Lines that iptables-save prints, read into values. Pure. `render` writes the same words."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from isthmus.model import Chain, FirewallRule, Target

_OWN_CHAINS = {(chain.table, chain.chain): chain for chain in Chain}
_KNOWN = {"-s", "-d", "-i", "-o", "-p", "-m", "--dport", "--tcp-flags", "--ctstate", "-j", "--to-source"}
_KNOWN |= {"--clamp-mss-to-pmtu"}
_FIXED = {"--ctstate": "RELATED,ESTABLISHED", "--tcp-flags": "SYN,RST SYN"}
"""Options whose value `FirewallRule` has no place for; with another value they say something else."""
_JUMPS = {f"{chain.table} -A {chain.parent} -j {chain.chain}" for chain in Chain}


def own_lines(lines: list[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return (our lines, policies); a jump to us is a line such as `filter -A FORWARD -j ISTHMUS-FORWARD`.

    Ours are our chains, what is in them, and the jump to each from its parent, once: a second one changes nothing. A
    foreign rule that mentions a chain of ours, or another chain named like ours, is not.
    """
    ours: list[str] = []
    policies: dict[str, str] = {}
    table = ""
    for line in lines:
        words = line.split()
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":") and (table, words[0][1:]) in _OWN_CHAINS:
            ours.append(f"{table} {words[0]}")
        elif line.startswith(":"):
            chain, policy = line[1:].split()[:2]
            policies[f"{table} {chain}"] = policy
        elif f"{table} {line}" in _JUMPS:
            if f"{table} {line}" not in ours:
                ours.append(f"{table} {line}")
        elif words[:1] == ["-A"] and (table, *words[1:2]) in _OWN_CHAINS:
            ours.append(f"{table} {line}")
    return tuple(ours), policies


def parse_rule(line: str) -> FirewallRule | None:
    """Read `filter -A ISTHMUS-FORWARD -s 172.16.0.0/24 … -j ACCEPT`; None for other lines, or foreign words in them.

    A rule we cannot read counts as absent: whoever added it by hand must not be believed to let traffic through.
    """
    table, _, rest = line.partition(" ")
    words = rest.split()
    if words[:1] != ["-A"] or (table, *words[1:2]) not in _OWN_CHAINS:
        return None
    options: dict[str, str] = {}
    negation = ""
    for option, value in _options(words[2:]):
        if option == "!":
            negation = "!"
            continue
        if option == "-m" and value not in ("udp", "tcp", "conntrack"):
            return None
        options[option] = negation + value
        negation = ""
    if not options.keys() <= _KNOWN or any("!" in options.get(option, "") for option in ("-s", "-d", "-p")):
        return None
    if any(options.get(option, value) != value for option, value in _FIXED.items()):
        return None
    try:
        return FirewallRule(
            chain=_OWN_CHAINS[table, words[1]],
            target=Target(options["-j"]),
            source=IPv4Network(options["-s"]) if "-s" in options else None,
            destination=IPv4Network(options["-d"]) if "-d" in options else None,
            in_interface=options.get("-i"),
            out_interface=options.get("-o"),
            protocol=options.get("-p"),
            destination_port=int(options["--dport"]) if "--dport" in options else None,
            established="--ctstate" in options,
            to_source=IPv4Address(options["--to-source"]) if "--to-source" in options else None,
        )
    except (KeyError, ValueError):
        return None


def _options(words: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (option, value); `!` stands alone, --tcp-flags has two words."""
    position = 0
    while position < len(words):
        option = words[position]
        count = {"!": 0, "--clamp-mss-to-pmtu": 0, "--tcp-flags": 2}.get(option, 1)
        yield option, " ".join(words[position + 1 : position + 1 + count])
        position += 1 + count
