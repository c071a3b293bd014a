"""bundle.toml -> Bundle: the packages and images of one cluster version, each file with its sum, or what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from isthmus.errors import InventoryError
from isthmus.inventory import parse_toml
from isthmus.inventory.problems import Problems, toml_text
from isthmus.inventory.tables import Table
from isthmus.inventory.values import UnexpectedError
from isthmus.kubernetes.cluster import Cluster

T = TypeVar("T")

FORMAT = 1
PACKAGES = ("containerd.io", "kubelet", "kubeadm", "kubectl", "cri-tools", "kubernetes-cni")
OF_KUBERNETES = ("kubelet", "kubeadm", "kubectl")
"""The packages whose version is Kubernetes'."""
ON_CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")
EVERYWHERE = ("kube-proxy", "coredns", "pause", "flannel", "flannel-cni-plugin")
OLDEST_CONTAINERD = (2, 2)
_EXACT = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")
_SHA256 = re.compile("[0-9a-f]{64}")
_DEB = re.compile(r"([a-z0-9][a-z0-9+.-]+)_([A-Za-z0-9.+:~-]+)_([a-z0-9]+)\.deb")
_TAR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\.tar(?:\.gz)?")
_REFERENCE = re.compile(r"[a-z0-9][a-z0-9.:/_-]*:[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class BundleFile:
    """One file of the bundle; `path` is below the bundle's folder."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Deb(BundleFile):
    """A Debian package."""

    package: str
    version: str


@dataclass(frozen=True)
class Image(BundleFile):
    """An archive with container images."""

    references: tuple[str, ...]

    @property
    def needed_everywhere(self) -> bool:
        """Whether workers need it, too."""
        return any(short_name(reference) not in ON_CONTROL_PLANE for reference in self.references)


@dataclass(frozen=True)
class Bundle:
    """All that a cluster needs which is not on a bare host."""

    kubernetes: str
    containerd: str
    flannel: str
    check: str
    """The image of check.pods."""
    debs: tuple[Deb, ...]
    images: tuple[Image, ...]

    def reference(self, name: str) -> str:
        """Return the full reference of an image by its short name, such as `pause`."""
        return next(
            reference for image in self.images for reference in image.references if short_name(reference) == name
        )


def short_name(reference: str) -> str:
    """Return `kube-proxy` for registry.k8s.io/kube-proxy:v1.36.2."""
    return reference.rpartition("/")[2].partition(":")[0]


def bundle_text(bundle: Bundle, architecture: str) -> str:
    """Return the bundle.toml of a bundle."""
    head = {"architecture": architecture, "kubernetes": bundle.kubernetes, "containerd": bundle.containerd}
    head.update({"flannel": bundle.flannel, "check": bundle.check})
    lines = ["[bundle]", f"format = {FORMAT}", *(f'{key} = "{value}"' for key, value in head.items() if value)]
    lines += ["", "[debs]", *(f'"{deb.path.removeprefix("debs/")}" = "{deb.sha256}"' for deb in bundle.debs)]
    lines += ["", "[images]"]
    for image in bundle.images:
        references = ", ".join(f'"{reference}"' for reference in image.references)
        name = image.path.removeprefix("images/")
        lines.append(f'"{name}" = {{ sha256 = "{image.sha256}", references = [{references}] }}')
    return "\n".join([*lines, ""])


def parse_bundle(text: str, source: str, cluster: Cluster, *, whole: bool = True) -> Bundle:
    """Return the bundle that bundle.toml describes; InventoryError with all that is wrong with it for this cluster.

    In one that need not be whole an image may be without a sum: nobody has fetched it yet.
    """
    tables = parse_toml(text, source)
    problems = Problems()
    top = Table((), tables, problems)
    head = top.table("bundle", needed=True)
    head.required("format", _format, str(FORMAT))
    for told in ("architecture", "runc", "cni", "cri_tools", "etcd", "coredns", "pause"):  # for people
        head.optional(told, _word, None)
    kubernetes = head.required("kubernetes", _exact, '"1.36.2"')
    containerd = head.required("containerd", _exact, '"2.2.7"')
    flannel = head.required("flannel", _exact, '"0.28.9"')
    check = head.optional("check", _word, None)
    head.refuse_the_rest()
    debs = _read_files(top.table("debs", needed=True), _deb)
    images = _read_files(top.table("images", needed=True), _image if whole else _chosen_image)
    top.refuse_the_rest()
    if not problems and kubernetes and containerd and flannel:
        bundle = Bundle(kubernetes, containerd, flannel, check or "", debs, images)
        _check_agreement(bundle, cluster, problems)
        if not problems:
            return bundle
    raise InventoryError(source, problems.in_file_order(tables))


def _check_agreement(bundle: Bundle, cluster: Cluster, problems: Problems) -> None:
    """Note what is missing, and what is of another version than the cluster's."""
    if not cluster.satisfied_by(bundle.kubernetes):
        expected = f"the version of hosts.toml, {cluster.version}"
        problems.note(("bundle", "kubernetes"), toml_text(bundle.kubernetes), expected)
    if tuple(map(int, bundle.containerd.split(".")[:2])) < OLDEST_CONTAINERD:
        problems.note(("bundle", "containerd"), toml_text(bundle.containerd), "containerd 2.2 or newer")
    versions = {deb.package: deb.version for deb in bundle.debs}
    for package in PACKAGES:
        if package not in versions:
            problems.note(("debs",), f"no {package}", f"a package for each of {', '.join(PACKAGES)}")
        elif package in OF_KUBERNETES and not versions[package].startswith(f"{bundle.kubernetes}-"):
            problems.note(("debs",), f"{package} {versions[package]}", f"version {bundle.kubernetes}")
    references = {short_name(reference): reference for image in bundle.images for reference in image.references}
    for name in (*ON_CONTROL_PLANE, *EVERYWHERE):
        if name not in references:
            problems.note(("images",), f"no image of {name}", "one: no source has it otherwise")
        elif name.startswith("kube-") and not references[name].endswith(f":v{bundle.kubernetes}"):
            problems.note(("images",), references[name], f"an image of version v{bundle.kubernetes}")
    if bundle.check and bundle.check not in {reference for image in bundle.images for reference in image.references}:
        problems.note(("bundle", "check"), toml_text(bundle.check), "one of the images' references")


def _read_files(table: Table, read: Callable[[str, object], T]) -> tuple[T, ...]:
    """Read every `name = value` of a table; a name is as much a part of what is read as the value."""

    def reader(name: str) -> Callable[[object], T]:
        return lambda value: read(name, value)

    found = (table.optional(name, reader(name), None) for name in table.names())
    return tuple(one for one in found if one is not None)


def _deb(name: str, value: object) -> Deb:
    match = _DEB.fullmatch(name)
    if match is None:
        raise UnexpectedError("a file name NAME_VERSION_ARCHITECTURE.deb", name)
    return Deb(f"debs/{name}", _sha256(value), match[1], match[2])


def _image(name: str, value: object) -> Image:
    if not _TAR.fullmatch(name):
        raise UnexpectedError("a file name such as pause.tar", name)
    expected = 'a table { sha256 = "…", references = ["…"] }'
    if not isinstance(value, Mapping) or value.keys() != {"sha256", "references"}:
        raise UnexpectedError(expected)
    references = value["references"]
    if not isinstance(references, list) or not references:
        raise UnexpectedError(expected)
    for reference in references:
        if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
            raise UnexpectedError("an image's reference such as registry.k8s.io/pause:3.10.2", reference)
    return Image(f"images/{name}", _sha256(value["sha256"]), tuple(references))


def _chosen_image(name: str, value: object) -> Image:
    if not isinstance(value, Mapping) or value.get("sha256") != "":
        return _image(name, value)
    return replace(_image(name, {**value, "sha256": "0" * 64}), sha256="")


def _sha256(value: object) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise UnexpectedError("a SHA-256 in 64 hexadecimal digits", value)
    return value


def _exact(value: object) -> str:
    if not isinstance(value, str) or not _EXACT.fullmatch(value):
        raise UnexpectedError('an exact version in quotes, such as "1.36.2"')
    return value


def _format(value: object) -> int:
    if value != FORMAT:
        raise UnexpectedError(f"{FORMAT}, the only format there is")
    return FORMAT


def _word(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or value.split() != [value]:
        raise UnexpectedError("one word")
    return value
