"""Where packages and images come from: upstream's own places, or mirrors of them, in the order they are tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

KUBERNETES_KEY = "DE15B14486CD377B9E876E1A234654DA9A296436"
"""The key that signs pkgs.k8s.io. It stays while upstream prolongs it, so it is fetched anew each time."""
DOCKER_KEY = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
DEBIANS = {"11": "bullseye", "12": "bookworm", "13": "trixie"}
ARCHITECTURES = ("amd64", "arm64")


@dataclass(frozen=True)
class Repository:
    """An apt repository. Where it is reached does not matter for trust: its index must be signed by the key."""

    release: str
    """The folder of its Release file, a URL that ends with a slash."""
    index: str
    """Its list of packages, as Release names it."""
    pool: str
    """What the packages' file names are relative to, a URL that ends with a slash."""
    key: str
    """The URL of its key."""
    fingerprint: str

    def __str__(self) -> str:
        return self.release.partition("://")[2].partition("/")[0]


@dataclass(frozen=True)
class Origin:
    """One place that may have an image: a registry, and what the image is called there."""

    registry: str
    """A URL without a path, such as https://registry.k8s.io."""
    name: str

    def __str__(self) -> str:
        return f"{self.registry.partition('://')[2]}/{self.name}"


@dataclass(frozen=True)
class Source:
    """One choice of `source`."""

    name: str
    kubernetes: tuple[str, ...]
    """URLs of copies of pkgs.k8s.io, where {minor} stands for a version such as 1.36."""
    docker: tuple[str, ...]
    """URLs of copies of download.docker.com/linux/debian."""
    origins: Callable[[str, str], tuple[Origin, ...]]
    """(Registry, name) of an image upstream -> every place to try, in this order."""

    def kubernetes_repositories(self, minor: str) -> tuple[Repository, ...]:
        """Return the repositories of a minor version, in the order to be tried."""
        bases = (base.format(minor=minor) for base in self.kubernetes)
        return tuple(Repository(base, "Packages", base, f"{base}Release.key", KUBERNETES_KEY) for base in bases)

    def docker_repositories(self, codename: str, architecture: str) -> tuple[Repository, ...]:
        """Return the repositories with containerd.io for a Debian, in the order to be tried."""
        index = f"stable/binary-{architecture}/Packages"
        return tuple(
            Repository(f"{base}dists/{codename}/", index, base, f"{base}gpg", DOCKER_KEY) for base in self.docker
        )

    def places(self, reference: str) -> tuple[Origin, ...]:
        """Return where an image may be, by its reference upstream, in the order to be tried."""
        registry, _, name = reference.rpartition(":")[0].partition("/")
        return self.origins(registry, name)


def _upstream(registry: str, name: str) -> tuple[Origin, ...]:
    return (Origin(f"https://{registry}", name),)


def _china(registry: str, name: str) -> tuple[Origin, ...]:
    """Mirrors that anybody may use. Alibaba's has Kubernetes' own images in one flat folder."""
    found = []
    parts = name.split("/")
    if registry == "registry.k8s.io":
        if len(parts) == 1 or parts[:1] == parts[1:]:  # coredns/coredns
            found.append(Origin("https://registry.aliyuncs.com", f"google_containers/{parts[-1]}"))
        found.append(Origin("https://k8s.m.daocloud.io", name))
        found.append(Origin("https://k8s.nju.edu.cn", name))
    if registry == "ghcr.io":
        found.append(Origin("https://ghcr.m.daocloud.io", name))
        found.append(Origin("https://ghcr.nju.edu.cn", name))
    found.append(Origin("https://m.daocloud.io", f"{registry}/{name}"))
    return (*found, *_upstream(registry, name))


_PKGS = "https://pkgs.k8s.io/core:/stable:/v{minor}/deb/"
_DOCKER = "https://download.docker.com/linux/debian/"

SOURCES = {
    source.name: source
    for source in (
        Source("upstream", (_PKGS,), (_DOCKER,), _upstream),
        Source(
            "aliyun",
            ("https://mirrors.aliyun.com/kubernetes-new/core/stable/v{minor}/deb/", _PKGS),
            ("https://mirrors.aliyun.com/docker-ce/linux/debian/", _DOCKER),
            _china,
        ),
    )
}
