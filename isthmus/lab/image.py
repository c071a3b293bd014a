"""A Debian root filesystem to start hosts from, built once per recipe and kept under /var/cache/isthmus-lab.

It is a bare host: no WireGuard, no iptables, no ping. What Isthmus installs comes from a small apt repository inside
the image, so `apt-get` works in hosts without internet; it is their only source. Where this machine's kernel has no
WireGuard the image brings wireguard-go, to which wg-quick falls back by itself.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from isthmus.errors import LabError
from isthmus.lab import machine, stale
from isthmus.lab.sources import Source, debian_sources

CACHE = Path("/var/cache/isthmus-lab")
INSTALLABLE = ("wireguard-tools", "iptables", "iputils-ping", "haproxy", "curl")
"""What apt finds in the image's own repository, with all it depends on."""

_REPOSITORY = "srv/apt"
_SHIM = Path(__file__).parent / "files/wireguard-go"
_PACKAGES = (
    *("systemd", "systemd-sysv", "udev", "dbus", "openssh-server", "iproute2", "procps", "sudo", "ca-certificates"),
    "python3",  # not for Isthmus: Ansible, which the benchmark compares with, needs it on hosts
)
_MASKED = (
    *(
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "dpkg-db-backup.timer",
        "e2scrub_all.timer",
        "e2scrub_reap.service",
    ),
    *("fstrim.timer", "getty.target", "console-getty.service", "getty@.service", "systemd-pstore.service"),
    *("systemd-networkd.service", "systemd-networkd-wait-online.service", "systemd-timesyncd.service"),
)
"""Needless in the lab; each would cost every start its share."""
_TEXTS = {
    "etc/apt/sources.list": f"deb [trusted=yes] file:/{_REPOSITORY} ./\n",
    "etc/resolv.conf": "# the lab's hosts have no internet, so no name servers\n",
    "etc/machine-id": "",
    "etc/systemd/system.conf.d/lab.conf": "[Manager]\nDefaultTimeoutStopSec=5s\n",
}
_DOWNLOAD = f"""#!/bin/sh
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
rm -f "$1"/var/cache/apt/archives/*.deb
apt-get --yes --quiet --no-install-recommends --download-only install {" ".join(INSTALLABLE)}
mkdir -p "$1/{_REPOSITORY}"
mv "$1"/var/cache/apt/archives/*.deb "$1/{_REPOSITORY}/"
cd "$1/{_REPOSITORY}"
apt-ftparchive packages . >Packages
apt-ftparchive release . >Release
"""
"""mmdebstrap's customize hook: fetch what hosts may install, as long as apt still knows the archive."""
_INSTALL = """set -eu
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/mounted"
mount -t proc proc "$2/mounted/proc"
mount --bind /dev "$2/mounted/dev"
root=$2/mounted
shift 2
export DEBIAN_FRONTEND=noninteractive
chroot "$root" apt-get -q update
chroot "$root" apt-get -qy --no-install-recommends install "$@"
rm -rf "$root"/var/lib/apt/lists/*
"""


def prepare(suite: str, installed: tuple[str, ...], say: Callable[[str], None]) -> tuple[Path, ...]:
    """Return the layers of an image of `suite` with these packages installed, topmost first; build what is missing.

    `say` gets a line when something has to be built. Safe to call from several processes at once. Raises LabError.
    """
    userspace = not machine.kernel_has_wireguard()
    wanted = _sources(suite)
    carried = _sources("bookworm") if userspace and suite == "bullseye" else ()
    recipe = [suite, userspace, *map(str, wanted), *map(str, carried), _SHIM.read_text(encoding="utf-8")]
    code = Path(__file__).read_text(encoding="utf-8")  # how it is built is a part of the recipe
    digest = hashlib.sha256(repr([*recipe, code]).encode()).hexdigest()[:12]
    base = CACHE / f"{suite}-{digest}"
    _once(base, say, lambda folder: _build(folder, suite, wanted, carried, userspace))
    if not installed:
        return (base,)
    layer = base.with_name(f"{base.name}+{'+'.join(installed)}")
    _once(layer, say, lambda folder: _install(folder, base, installed))
    return (layer, base)


def _sources(suite: str) -> tuple[Source, ...]:
    apt = Path("/etc/apt")
    paths = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    files = {
        str(path): path.read_text(encoding="utf-8")
        for path in paths
        if path.suffix in (".list", ".sources") and path.is_file()
    }
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    fields = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    return debian_sources(files, fields.get("VERSION_CODENAME", "").strip('"'), suite)


def _once(target: Path, say: Callable[[str], None], build: Callable[[Path], None]) -> None:
    """Build into a folder beside the target and rename: what has the target's name is whole."""
    with machine.locked(stale.lock_of(target)):
        stale.note_use(target)
        if target.is_dir():
            return
        say(f"building the image {target.name}, once (a minute)")
        folder = target.with_name(f".{target.name}.partial")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        build(folder)
        (folder / "root").rename(target)
        shutil.rmtree(folder)


def _build(folder: Path, suite: str, sources: tuple[Source, ...], carried: tuple[Source, ...], userspace: bool) -> None:
    root = folder / "root"
    hook = folder / "download"
    hook.write_text(_DOWNLOAD, encoding="utf-8")
    hook.chmod(0o755)
    packages = [*_PACKAGES, *(["wireguard-go"] if userspace and not carried else [])]
    _mmdebstrap(
        folder, suite, root, sources, "--variant=minbase", f"--include={','.join(packages)}", f"--customize-hook={hook}"
    )
    if carried:
        _mmdebstrap(folder, "bookworm", folder / "go", carried, "--variant=extract", "--include=wireguard-go,libc6")
        _carry_wireguard_go(folder / "go", root)
    for name in ("apt.conf.d", "sources.list.d"):  # ours is the only source, and needs no proxy
        shutil.rmtree(root / "etc/apt" / name)
        (root / "etc/apt" / name).mkdir()
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    for path, text in _TEXTS.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).unlink(missing_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    for unit in _MASKED:
        link = root / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")


def _mmdebstrap(folder: Path, suite: str, target: Path, sources: tuple[Source, ...], *arguments: str) -> None:
    listing = folder / f"{suite}.list"
    listing.write_text("".join(f"{source}\n" for source in sources), encoding="utf-8")
    settings = folder / "apt.conf"
    settings.write_text(_apt_settings(), encoding="utf-8")
    quiet = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    command = ["mmdebstrap", "--mode=root", f"--aptopt={settings}", *quiet, *arguments]
    log = CACHE / f"{target.parent.name.strip('.').removesuffix('.partial')}.log"
    with log.open("w", encoding="utf-8") as output:
        result = subprocess.run(
            [*command, suite, str(target), str(listing)],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=machine.environment(),
        )
    if result.returncode:
        last = " / ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-4:])
        raise LabError(f"mmdebstrap could not build {suite}: {last} (all of it in {log})")


def _apt_settings() -> str:
    """Return how this machine's apt reaches its archives (proxies and the like); mmdebstrap starts from none."""
    kept = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::ForceIPv")
    lines = [line for line in machine.execute("apt-config", "dump").splitlines() if line.startswith(kept)]
    return "\n".join([*lines, 'Acquire::Languages "none";', ""])


def _carry_wireguard_go(tree: Path, root: Path) -> None:
    target = root / "usr/local/lib/wireguard-go"
    target.mkdir(parents=True)
    shutil.copy2(tree / "usr/bin/wireguard-go", target)
    for library in tree.glob("lib/*/*.so*"):
        if library.is_file():
            shutil.copy2(library, target / library.name)
    loader = next(iter(sorted(target.glob("ld-linux*.so.*"))), None)
    if loader is None:
        raise LabError(f"Debian 12's libc6 has no loader where it was expected, in lib/*/ld-linux*: {tree}")
    loader.rename(target / "loader")
    shutil.copy(_SHIM, root / "usr/local/bin/wireguard-go")
    (root / "usr/local/bin/wireguard-go").chmod(0o755)


def _install(folder: Path, base: Path, packages: tuple[str, ...]) -> None:
    for name in ("upper", "work", "mounted"):
        (folder / name).mkdir()
    os.chmod(folder / "upper", 0o755)
    machine.execute(
        *("unshare", "--mount", "--propagation", "slave", "sh", "-c", _INSTALL, "sh", str(base), str(folder), *packages)
    )
    (folder / "upper").rename(folder / "root")
