"""What one value of hosts.toml may be: readers from the TOML value to ours, which know nothing of other values.

Each reader returns the value in our types or raises UnexpectedError with what was expected. Names and addresses end up
in file names, shell commands, kernel interfaces and Kubernetes objects, so the grammars here are the narrowest that the
users of a value share; after this module nobody checks syntax again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import TypeVar

from isthmus.inventory.problems import did_you_mean, one_of

T = TypeVar("T")
Reader = Callable[[object], T]

PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
"""RFC 1918. The mesh lives only here: any other range, captured by the mesh interface, would cut off real hosts."""

NOT_PUBLIC = {
    IPv4Network("0.0.0.0/8"): "this network",
    IPv4Network("10.0.0.0/8"): "private",
    IPv4Network("100.64.0.0/10"): "carriers' and Alibaba Cloud's own",
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("169.254.0.0/16"): "link-local",
    IPv4Network("172.16.0.0/12"): "private",
    IPv4Network("192.0.0.0/24"): "protocol assignments",
    IPv4Network("192.168.0.0/16"): "private",
    IPv4Network("198.18.0.0/15"): "benchmarks",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("240.0.0.0/4"): "reserved",
}
"""IANA's special-purpose registry less the documentation ranges (RFC 5737), which examples and the lab live on.

Written out because `IPv4Address.is_global` refuses those and differs between Python versions.
"""

MOST_GATEWAYS = 2
ROLES = ("control-plane", "worker")
SOURCES = ("upstream", "aliyun")
TAINT_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")

_OCTET = "(?:0|[1-9][0-9]{0,2})"
_ADDRESS = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
_NETWORK = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}/(?:0|[1-9][0-9]?)")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER_LIKE = re.compile(r"[0-9]+|0x[0-9a-f]*")  # inet_aton(3) takes these for addresses
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,31}")
_FAILBACK = re.compile("auto|manual")
_INTERFACE = re.compile(r"[a-z][a-z0-9_-]{0,14}")  # IFNAMSIZ is 16 with the closing NUL
_INTERFACE_OF_OTHERS = re.compile(
    r"lo|all|default|interfaces"  # loopback; sysctl's words; what `wg show` takes for a command
    r"|eth[0-9]*|en[ospx][a-z0-9]*|wl[a-z0-9]*|ww[a-z0-9]*|bond[0-9]*"  # NICs
    r"|(?:docker|veth|br-|virbr|lxc|cni|flannel|cali|cilium|kube-|nodelocaldns).*"
)
_VERSION = re.compile(r"1\.(?:0|[1-9][0-9]?)(?:\.(?:0|[1-9][0-9]?))?")
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_DNS_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(
    rf"(?=.{{1,253}}\Z)(?:{_DNS_LABEL}\.)+(?!localhost\Z)[a-z][a-z0-9-]{{0,61}}[a-z0-9]"
)  # at least two labels, the last no number: no name without a dot is the same everywhere
_SERVICE = re.compile(rf"{_DNS_LABEL}/[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?")  # a Service's name is RFC 1035's
_LABEL_KEY = re.compile(
    rf"(?:(?=[^/]{{1,253}}/){_DNS_LABEL}(?:\.{_DNS_LABEL})*/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{{0,61}}[A-Za-z0-9])?"
)


class UnexpectedError(Exception):
    """A value is not what it should be. `found` is the part to blame; None when it is all of it."""

    def __init__(self, expected: str, found: object = None) -> None:
        self.expected = expected
        self.found = found
        super().__init__(expected)


# --- networks and addresses ---------------------------------------------------------------------------------------


def address(value: object, example: str = "172.16.0.1") -> IPv4Address:
    """Read an IPv4 address in dotted decimal, without leading zeros or spaces."""
    if isinstance(value, str) and _ADDRESS.fullmatch(value):
        try:
            return IPv4Address(value)
        except ValueError:
            pass
    raise UnexpectedError(f"an IPv4 address such as {example}")


def private_address(value: object) -> IPv4Address:
    """Read an address of RFC 1918."""
    found = address(value)
    if not any(found in network for network in PRIVATE):
        raise UnexpectedError(f"a private address: inside {one_of([*map(str, PRIVATE)])}")
    return found


def public_place(value: object) -> IPv4Address | str:
    """Read an address that hosts on the internet can reach, or a DNS name that leads to one."""
    if isinstance(value, str) and _DNS_NAME.fullmatch(value):
        return value
    try:
        found = address(value, "203.0.113.1")
    except UnexpectedError as error:
        name = "or a DNS name of lower-case letters, digits, dots and inner hyphens, such as n1.example.com"
        raise UnexpectedError(f"{error.expected}, {name}") from None
    for network, use in NOT_PUBLIC.items():
        if found in network:
            raise UnexpectedError(f"an address that the internet can reach ({network} is {use})")
    return found


def private_network(shortest: int, longest: int, example: str) -> Reader[IPv4Network]:
    """Return a reader of networks of RFC 1918 whose prefix length lies between `shortest` and `longest`."""

    def read(value: object) -> IPv4Network:
        if not isinstance(value, str) or not _NETWORK.fullmatch(value):
            raise UnexpectedError(f"an IPv4 network such as {example}")
        try:
            network = IPv4Network(value, strict=False)
        except ValueError:
            raise UnexpectedError(f"an IPv4 network such as {example}") from None
        if str(network) != value:
            raise UnexpectedError(f"a network without host bits: {network}")
        if not any(network.subnet_of(private) for private in PRIVATE):
            raise UnexpectedError(f"a private network: inside {one_of([*map(str, PRIVATE)])}")
        if not shortest <= network.prefixlen <= longest:
            raise UnexpectedError(f"a prefix length from /{shortest} to /{longest}")
        return network

    return read


supernet = private_network(8, 30, "172.16.0.0/12")
subnet = private_network(8, 30, "172.16.0.0/24")
pod_subnet = private_network(8, 24, "10.244.0.0/16")  # kubeadm hands every node a /24 of it
service_subnet = private_network(12, 28, "10.96.0.0/12")  # kube-apiserver's limit of 2^20, kubeadm's of 10


# --- numbers ------------------------------------------------------------------------------------------------------


def port(value: object) -> int:
    """Read a TCP or UDP port."""
    return _integer(value, 1, 65535, "a port")


def mtu(value: object) -> int:
    """Read the MTU of the mesh interface in bytes: IPv6's least up to a jumbo frame less WireGuard's 80."""
    return _integer(value, 1280, 8920, "an MTU in bytes")


def switch(value: object) -> bool:
    """Read what is on or off."""
    if not isinstance(value, bool):
        raise UnexpectedError("true or false")
    return value


def _integer(value: object, least: int, most: int, what: str) -> int:
    if type(value) is not int or not least <= value <= most:  # a bool is an int to isinstance
        raise UnexpectedError(f"{what}: an integer from {least} to {most}")
    return value


# --- names --------------------------------------------------------------------------------------------------------


def name(value: object) -> str:
    """Read the name of a site, host or resource: an RFC 1123 label in lower case that is no number."""
    found = _matching(
        value, _NAME, "a name of lower-case letters, digits and inner hyphens, at most 63 characters, such as n1"
    )
    if _NUMBER_LIKE.fullmatch(found) or found == "localhost":
        raise UnexpectedError("a name that is not taken for an address or this machine, such as n1")
    return found


def text(value: object) -> str:
    """Read any text: a name that must be one of those in the file, which is looked up later."""
    if not isinstance(value, str):
        raise UnexpectedError('a name in quotes, such as "nanjing"')
    return value


def provider(value: object) -> str:
    """Read the name of a cloud."""
    return _matching(value, _NAME, "a cloud's name of lower-case letters, digits and inner hyphens, such as tencent")


def failback(value: object) -> str:
    """Read how a first gateway that is well again takes charge."""
    return _matching(value, _FAILBACK, "auto or manual")


def user(value: object) -> str:
    """Read a login name, in POSIX' portable characters."""
    return _matching(value, _USER, "a login name such as root or debian")


def interface(value: object) -> str:
    """Read the name of the mesh interface, which no NIC and no container runtime may claim."""
    found = _matching(
        value,
        _INTERFACE,
        "an interface name of at most 15 lower-case letters, digits, - and _, starting with a letter, such as wg0",
    )
    if _INTERFACE_OF_OTHERS.fullmatch(found):
        raise UnexpectedError("an interface name that nothing else uses, such as wg0")
    return found


def gateways(value: object) -> tuple[str, ...]:
    """Read a site's gateways: the one in charge and, perhaps, one that stands by."""
    expected = 'a list with the names of one or two hosts, such as ["n1"]'
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise UnexpectedError(expected)
    if len(set(value)) < len(value):
        raise UnexpectedError("each host only once")
    if len(value) > MOST_GATEWAYS:
        raise UnexpectedError(expected)
    return tuple(value)


# --- Kubernetes ---------------------------------------------------------------------------------------------------


def version(value: object) -> str:
    """Read a Kubernetes version, minor or exact."""
    return _matching(value, _VERSION, 'a Kubernetes version in quotes, such as "1.36" or "1.36.2"')


def endpoint(value: object) -> str:
    """Read the name of the API: a DNS name of several parts, so that nobody takes it for a host's."""
    return _matching(value, _DNS_NAME, "a DNS name in lower case with a dot, such as api.isthmus.internal")


def service(value: object) -> str:
    """Read `namespace/name` of a Service."""
    return _matching(value, _SERVICE, "a Service as namespace/name, such as default/mysql")


def folder(value: object) -> str:
    """Read the path of a folder on the workstation."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise UnexpectedError('the path of a folder in quotes, such as "bundle"')
    return value


def source(value: object) -> str:
    """Read where packages and images come from."""
    if not isinstance(value, str) or value not in SOURCES:
        meant = did_you_mean(value, SOURCES) if isinstance(value, str) else ""
        raise UnexpectedError(f"a source: {one_of(SOURCES)}{meant}")
    return value


def roles(value: object) -> tuple[str, ...]:
    """Read a host's roles."""

    def role(item: object) -> str:
        if not isinstance(item, str) or item not in ROLES:
            meant = did_you_mean(item, ROLES) if isinstance(item, str) else ""
            raise UnexpectedError(f"a role: {one_of(ROLES)}{meant}", item)
        return item

    return _list(value, role, 'a list of roles, such as ["control-plane"]', lambda item: item)


def taints(value: object) -> tuple[str, ...]:
    """Read taints `key=value:Effect` or `key:Effect`; Kubernetes wants each key and effect once."""

    def taint(item: object) -> str:
        if isinstance(item, str):
            key_value, colon, effect = item.rpartition(":")
            if colon and effect in TAINT_EFFECTS and _is_label(key_value):
                return item
        raise UnexpectedError(f"a taint: key=value:EFFECT or key:EFFECT, EFFECT one of {one_of(TAINT_EFFECTS)}", item)

    def key(item: str) -> str:
        key_value, _, effect = item.rpartition(":")
        return f"{key_value.partition('=')[0]}:{effect}"

    return _list(value, taint, 'a list of taints, such as ["zone=shanghai:PreferNoSchedule"]', key)


def labels(value: object) -> tuple[str, ...]:
    """Read labels `key=value`, each key once."""

    def label(item: object) -> str:
        if isinstance(item, str) and "=" in item and _is_label(item):
            return item
        raise UnexpectedError("a label key=value of letters, digits, -, _ and ., such as disk=ssd", item)

    return _list(value, label, 'a list of labels, such as ["disk=ssd"]', lambda item: item.partition("=")[0])


def _is_label(text: str) -> bool:
    key, _, value = text.partition("=")
    return bool(_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value))


def _list(value: object, read: Reader[str], expected: str, key: Callable[[str], str]) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise UnexpectedError(expected)
    items = tuple(map(read, value))
    seen: set[str] = set()
    for item in items:
        if key(item) in seen:
            raise UnexpectedError(f"each only once ({key(item)} is there already)", item)
        seen.add(key(item))
    return items


def _matching(value: object, pattern: re.Pattern[str], expected: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise UnexpectedError(expected)
    return value
