"""A real MariaDB, Debian's, where a lab's resource is: in its network, from a root filesystem of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workstation import until

from isthmus.lab import Lab, cgroups, cloud, image

ROOT = image.CACHE / "bookworm-mariadb"
"""Kept from one test run to the next, as the lab's images are."""
RUN = r"""
set -eu
mount -t tmpfs tmpfs "$1/srv"
cat >"$1/srv/init.sql"
chroot "$1" install -d -o mysql /srv/data
chroot "$1" mariadb-install-db --user=mysql --datadir=/srv/data --skip-test-db --force >/dev/null
exec chroot "$1" mariadbd --user=mysql --datadir=/srv/data --socket=/srv/data/socket --pid-file=/srv/data/pid \
    --bind-address=0.0.0.0 --port="$2" --skip-name-resolve --init-file=/srv/init.sql
"""


@contextmanager
def mariadb(lab: Lab, resource: str, sql: str) -> Iterator[None]:
    """While inside, a MariaDB that has run `sql` answers at the resource's port, instead of the lab's listener."""
    image._once(ROOT, lambda _: None, _build)
    for pid in cgroups.processes(lab.names.name, f"resource.{resource}"):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wanted = lab.inventory.resources[resource]
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", RUN, "sh", str(ROOT), str(wanted.port)]
    with subprocess.Popen(
        lab.resource_command(resource, command), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdin is not None
        server.stdin.write(sql)
        server.stdin.close()
        try:
            knock = f"exec 3<>/dev/tcp/{wanted.address}/{wanted.port} && read -t 5 -r -n 1 -u 3"
            ask = lab.resource_command(resource, ["bash", "-c", knock])
            until(lambda: _answers(server, ask), "MariaDB to answer")
            yield
        finally:
            server.kill()
            server.wait()
            cloud.build_resource(lab.layout, resource)


def _answers(server: subprocess.Popen[str], ask: list[str]) -> bool:
    assert server.poll() is None, "MariaDB ended"
    return subprocess.run(ask, check=False, capture_output=True).returncode == 0


def _build(folder: Path) -> None:
    arguments = ("--variant=minbase", "--include=mariadb-server")
    image._mmdebstrap(folder, "bookworm", folder / "root", image._sources("bookworm"), *arguments)
