"""A bundle as small as it can be, for the fake hosts: the right names and sums, a few bytes in each file."""

from __future__ import annotations

import hashlib
from pathlib import Path

VERSION = "1.36.2"
IMAGES = {
    "kube-apiserver": f"registry.k8s.io/kube-apiserver:v{VERSION}",
    "kube-controller-manager": f"registry.k8s.io/kube-controller-manager:v{VERSION}",
    "kube-scheduler": f"registry.k8s.io/kube-scheduler:v{VERSION}",
    "kube-proxy": f"registry.k8s.io/kube-proxy:v{VERSION}",
    "etcd": "registry.k8s.io/etcd:3.6.8-0",
    "coredns": "registry.k8s.io/coredns/coredns:v1.14.2",
    "pause": "registry.k8s.io/pause:3.10.2",
    "flannel": "ghcr.io/flannel-io/flannel:v0.28.9",
    "flannel-cni-plugin": "ghcr.io/flannel-io/flannel-cni-plugin:v1.9.1-flannel3",
    "toolbox": "isthmus.test/toolbox:1",
}
DEBS = (
    "containerd.io_2.2.7-1~debian.12~bookworm_amd64.deb",
    *(f"{name}_{VERSION}-1.1_amd64.deb" for name in ("kubelet", "kubeadm", "kubectl")),
    "cri-tools_1.36.0-1.1_amd64.deb",
    "kubernetes-cni_1.9.1-1.1_amd64.deb",
)
REFERENCES = {f"images/{name}.tar": (reference,) for name, reference in IMAGES.items()}


def text() -> str:
    """Return a bundle.toml."""
    lines = ["[bundle]", "format = 1", 'architecture = "amd64"', f'kubernetes = "{VERSION}"', 'containerd = "2.2.7"']
    lines += ['flannel = "0.28.9"', f'check = "{IMAGES["toolbox"]}"', "", "[debs]"]
    lines += [f'"{name}" = "{digest(f"debs/{name}")}"' for name in DEBS]
    lines += ["", "[images]"]
    for path, references in REFERENCES.items():
        name = path.removeprefix("images/")
        lines.append(f'"{name}" = {{ sha256 = "{digest(path)}", references = ["{references[0]}"] }}')
    return "\n".join([*lines, ""])


def write_other(folder: Path, *replacements: tuple[str, str]) -> dict[str, tuple[str, ...]]:
    """Write a bundle of another version, the same with these words replaced; return which images are where."""

    def other(words: str) -> str:
        for old, new in replacements:
            words = words.replace(old, new)
        return words

    debs = [f"debs/{other(name)}" for name in DEBS]
    references = {path: tuple(other(one) for one in ones) for path, ones in REFERENCES.items()}
    sums = {}
    for path in (*debs, *references):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        content = " ".join([path, *references.get(path, ())])
        (folder / path).write_text(content, encoding="utf-8")
        sums[path] = hashlib.sha256(content.encode()).hexdigest()
    head = other(text().partition("[debs]")[0])
    lines = [head, "[debs]", *(f'"{path.removeprefix("debs/")}" = "{sums[path]}"' for path in debs), "[images]"]
    for path, ones in references.items():
        name = path.removeprefix("images/")
        lines.append(f'"{name}" = {{ sha256 = "{sums[path]}", references = ["{ones[0]}"] }}')
    (folder / "bundle.toml").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return references


def digest(path: str) -> str:
    """Return the sum of a file of the bundle, whose content is its path."""
    return hashlib.sha256(path.encode()).hexdigest()


def write(folder: Path) -> Path:
    """Write a whole bundle."""
    for path in (*(f"debs/{name}" for name in DEBS), *REFERENCES):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path, encoding="utf-8")
    (folder / "bundle.toml").write_text(text(), encoding="utf-8")
    return folder
