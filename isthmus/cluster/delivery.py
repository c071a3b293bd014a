"""The bundle on its way to the hosts: checked against its sums, sent once to each site, handed on over its network."""

from __future__ import annotations

import secrets
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from isthmus.errors import HostError, InventoryError, Problem, SourceError
from isthmus.host_scripts import host_script
from isthmus.kubernetes.bundle import BundleFile
from isthmus.model import Inventory
from isthmus.remote import Fleet, Remote
from isthmus.sources.web import sum_of
from isthmus.survey import Progress

SEND_TIMEOUT_S = 1800
"""For one file: 100 MB at half a megabit a second."""
HAVE_TIMEOUT_S = 300
SERVE_IDLE_S = 300
SHORT_TIMEOUT_S = 60
PLAIN, PACKED = 3, 6
"""How often its own size a file takes on a host at most: as it is, as an image's layers, and these unpacked."""

Files = Mapping[str, tuple[BundleFile, ...]]
"""What each host needs."""


def check_files(folder: Path, files: Iterable[BundleFile]) -> None:
    """Compare files with their sums; InventoryError with every one that is missing or another."""
    problems = []
    for file in dict.fromkeys(files):
        try:
            found = sum_of(folder / file.path)
        except OSError as error:
            problems.append(Problem(file.path, f"it unreadable ({error.strerror})", "a file of the bundle"))
            continue
        if found != file.sha256:
            problems.append(Problem(file.path, f"the sum {found}", file.sha256))
    if problems:
        raise InventoryError(str(folder / "bundle.toml"), tuple(problems))


def room(folder: Path, files: Iterable[BundleFile]) -> int:
    """Return how many bytes these files take on a host, as archives and unpacked."""
    return sum(
        (folder / file.path).stat().st_size * (PACKED if _is_packed(folder / file.path) else PLAIN) for file in files
    )


def _is_packed(path: Path) -> bool:
    """Return whether an archive has compressed layers."""
    try:
        with tarfile.open(path, "r:") as archive:
            return any(name.endswith(".gz") for name in archive.getnames())
    except tarfile.TarError:
        return False


def size(folder: Path, files: Iterable[BundleFile]) -> int:
    """Return how many bytes these files have together."""
    return sum((folder / file.path).stat().st_size for file in files)


def deliver(
    fleet: Fleet,
    inventory: Inventory,
    folder: Path,
    needed: Files,
    progress: Progress,
    holders: Mapping[str, str] | None = None,
    have_here: Callable[[], None] = lambda: None,
) -> dict[str, HostError]:
    """Bring every host the files it needs; return the hosts where that failed.

    The workstation sends each file once to each site, to the host that then hands it to the others of its site. Where
    that one is not reached from another, the workstation sends it there, too. `holders` have all that their site needs;
    `have_here` is called where the workstation must send something after all.
    """
    failures: dict[str, HostError] = {}
    missing = _missing(fleet, needed, failures)
    sites: dict[str, list[str]] = {}
    for name in missing:
        sites.setdefault(inventory.hosts[name].site, []).append(name)
    # The gateway is reached directly, others through it.
    seeds = {site: min(names, key=lambda name: not inventory.is_gateway(name)) for site, names in sites.items()}
    seeds.update({site: name for site, name in (holders or {}).items() if site in sites})
    for_seed = {
        seed: tuple(dict.fromkeys(file for name in sites[site] for file in missing[name]))
        for site, seed in seeds.items()
        if seed not in (holders or {}).values()
    }
    _send(fleet, folder, for_seed, failures, progress)
    others = {
        name: seed
        for site, seed in seeds.items()
        for name in sites[site]
        if name != seed and missing[name] and seed not in failures
    }
    with _serving(fleet, inventory, set(others.values())) as serving:
        left = _hand_on(fleet, inventory, {name: missing[name] for name in others}, others, serving, progress)
    orphans = {name: missing[name] for site, seed in seeds.items() for name in sites[site] if seed in failures}
    left.update({name: files for name, files in orphans.items() if name not in failures})
    if left:
        try:
            have_here()
        except SourceError as error:
            return {**failures, **{name: HostError(name, str(error)) for name in left}}
    _send(fleet, folder, left, failures, progress)
    return failures


def _missing(fleet: Fleet, needed: Files, failures: dict[str, HostError]) -> dict[str, tuple[BundleFile, ...]]:
    """Return what each host does not have from an earlier try."""

    def ask(remote: Remote) -> set[str]:
        answer = remote.run(f"{host_script('k8s-have')}{_lines(needed[remote.name])}", timeout=HAVE_TIMEOUT_S)
        return set(answer.split())

    asked = fleet.each([name for name, files in needed.items() if files], ask)
    failures.update({name: result for name, result in asked.items() if isinstance(result, HostError)})
    return {
        name: tuple(file for file in needed[name] if file.path not in result)
        for name, result in asked.items()
        if not isinstance(result, HostError)
    }


def _send(fleet: Fleet, folder: Path, files: Files, failures: dict[str, HostError], progress: Progress) -> None:
    """Send files from the workstation, one after the other to each host, several hosts at once."""

    def send(remote: Remote) -> int:
        sent = 0
        for file in files[remote.name]:
            content = (folder / file.path).read_bytes()
            script = host_script("k8s-receive", path=file.path, sha256=file.sha256)
            remote.run(script, timeout=SEND_TIMEOUT_S, stdin=content)
            sent += len(content)
        return sent

    def done(name: str, result: int | HostError) -> None:
        said = result.message if isinstance(result, HostError) else f"sent {result / 1e6:.0f} MB"
        progress(name, said)

    results = fleet.each([name for name in files if files[name]], send, on_done=done)
    failures.update({name: result for name, result in results.items() if isinstance(result, HostError)})


def _hand_on(
    fleet: Fleet,
    inventory: Inventory,
    files: Files,
    seeds: Mapping[str, str],
    serving: Mapping[str, tuple[str, int]],
    progress: Progress,
) -> dict[str, tuple[BundleFile, ...]]:
    """Have hosts fetch from the host of their site that serves; return what those lack that could not."""

    def fetch(remote: Remote) -> None:
        seed = seeds[remote.name]
        if seed not in serving:
            raise HostError(remote.name, f"{seed} does not serve")
        token, port = serving[seed]
        address = str(inventory.hosts[seed].address)
        script = host_script("k8s-fetch", address=address, port=port, token=token)
        remote.run(f"{script}{_lines(files[remote.name])}", timeout=SEND_TIMEOUT_S)

    def done(name: str, result: HostError | None) -> None:
        progress(name, result.message if isinstance(result, HostError) else f"fetched from {seeds[name]}")

    results = fleet.each(files, fetch, on_done=done)
    return {name: files[name] for name, result in results.items() if isinstance(result, HostError)}


@contextmanager
def _serving(fleet: Fleet, inventory: Inventory, seeds: set[str]) -> Iterator[dict[str, tuple[str, int]]]:
    """While inside, these hosts hand out what they have: {host: (token, port)}."""
    token = secrets.token_hex(16)

    def serve(remote: Remote) -> tuple[str, int]:
        address = str(inventory.hosts[remote.name].address)
        script = host_script("k8s-serve", address=address, token=token, idle_s=SERVE_IDLE_S)
        pid, port = remote.run(script, timeout=SHORT_TIMEOUT_S).split()
        pids[remote.name] = pid
        return token, int(port)

    pids: dict[str, str] = {}
    results = fleet.each(seeds, serve)
    try:
        yield {name: result for name, result in results.items() if not isinstance(result, HostError)}
    finally:
        fleet.each(
            pids,
            lambda remote: remote.run(host_script("hush", pid=pids[remote.name], token=token), timeout=SHORT_TIMEOUT_S),
        )


def _lines(files: Iterable[BundleFile]) -> str:
    return "".join(f"file {file.path} {file.sha256}\n" for file in files)
