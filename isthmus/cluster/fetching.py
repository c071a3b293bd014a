"""Hosts fetch the bundle's files by themselves: of each site one, straight from the source, for all of its site."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from isthmus.cluster.delivery import SHORT_TIMEOUT_S, Files
from isthmus.errors import HostError
from isthmus.host_scripts import host_script
from isthmus.kubernetes.bundle import BundleFile
from isthmus.model import Inventory
from isthmus.remote import Fleet, Remote
from isthmus.sources.making import Download
from isthmus.survey import Progress

DOWNLOAD_TIMEOUT_S = 3600
"""For one file."""
TRIED_OF_A_SITE = 2
"""A site where two hosts cannot fetch has no internet, or none that leads to the source."""


@dataclass
class Fetched:
    """What sites have fetched for themselves."""

    sums: dict[str, str] = field(default_factory=dict)
    """Of files, by their paths: the same at every site, since the same blobs make the same archive."""
    holders: dict[str, str] = field(default_factory=dict)
    """Site -> the host that has all that its site needs."""


def fetch_by_hosts(
    fleet: Fleet, inventory: Inventory, needed: Files, downloads: Mapping[str, Download], progress: Progress
) -> Fetched:
    """Have one host of each site fetch what its site needs; a site where none can is left out of the holders."""
    fetched = Fetched()
    sites = {inventory.hosts[name].site for name, files in needed.items() if files}
    fetchers = {site: _fetchers(inventory, needed, site) for site in sites}
    tried: set[str] = set()
    for turn in range(TRIED_OF_A_SITE):
        left = [site for site in sites if site not in fetched.holders and len(fetchers[site]) > turn]
        files = {fetchers[site][turn]: _of_site(inventory, needed, site) for site in left}
        tried.update(files)
        _fetch(fleet, inventory, files, downloads, fetched, progress)
    sweep(fleet, [name for name in tried - {*fetched.holders.values()} if not needed.get(name)])
    return fetched


def sweep(fleet: Fleet, hosts: Collection[str]) -> None:
    """Take off what hosts have fetched only for others."""
    fleet.each(hosts, lambda remote: remote.run(host_script("k8s-sweep"), timeout=SHORT_TIMEOUT_S))


def _fetchers(inventory: Inventory, needed: Files, site: str) -> list[str]:
    """Return the hosts of a site that may fetch: gateways first, which are the likeliest to have internet.

    A gateway that needs nothing itself fetches for the others, too: they may have no way out but the mesh.
    """
    needing = [name for name, files in needed.items() if files and inventory.hosts[name].site == site]
    gateways = inventory.sites[site].gateways
    return list(dict.fromkeys([*(name for name in gateways if name in needing), *gateways, *needing]))


def _of_site(inventory: Inventory, needed: Files, site: str) -> tuple[BundleFile, ...]:
    names = (name for name in needed if inventory.hosts[name].site == site)
    return tuple(dict.fromkeys(file for name in names for file in needed[name]))


def _fetch(
    fleet: Fleet,
    inventory: Inventory,
    files: Files,
    downloads: Mapping[str, Download],
    fetched: Fetched,
    progress: Progress,
) -> None:
    def fetch(remote: Remote) -> dict[str, str]:
        return {file.path: _fetch_one(remote, file, downloads[file.path], progress) for file in files[remote.name]}

    def done(name: str, result: dict[str, str] | HostError) -> None:
        size = sum(downloads[file.path].size for file in files[name])
        said = f"cannot fetch: {result.message}" if isinstance(result, HostError) else f"fetched {size / 1e6:.0f} MB"
        progress(name, said)

    for name, result in fleet.each(files, fetch, on_done=done).items():
        if not isinstance(result, HostError):
            fetched.sums.update(result)
            fetched.holders[inventory.hosts[name].site] = name


def _fetch_one(remote: Remote, file: BundleFile, download: Download, progress: Progress) -> str:
    """Return the sum of a file that a host has fetched."""
    script = host_script(
        "k8s-download",
        path=file.path,
        sha256=file.sha256,
        urls=download.url,
        index=download.index,
        blobs=" ".join(download.blobs),
        places=" ".join(download.places),
    )
    progress(remote.name, f"fetching {file.path.partition('/')[2]}, {download.size / 1e6:.0f} MB")
    digest = remote.run(script, timeout=DOWNLOAD_TIMEOUT_S).strip()
    if file.sha256 and digest != file.sha256:
        raise HostError(remote.name, f"{file.path} has the sum {digest}, expected {file.sha256}")
    return digest
