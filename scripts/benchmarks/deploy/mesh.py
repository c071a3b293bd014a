"""The mesh of hosts.toml with pyinfra: the same files as the playbook's, from the same inventory.

Keys have to exist before files can name them: on bare hosts this is run twice.
"""

from pathlib import Path

from pyinfra import host, inventory, logger
from pyinfra.facts.server import Command
from pyinfra.operations import apt, files, server, systemd

KEY = "/etc/wireguard/wg0.key"
READ_KEY = f"test -s {KEY} && wg pubkey <{KEY} || true"
TEMPLATES = Path(__file__).resolve().parent / "templates"
SHARED = TEMPLATES.parent.parent / "playbook" / "templates"

apt.packages(
    name="Packages are installed", packages=["wireguard-tools", "iptables", "iputils-ping"], no_recommends=True
)

key = host.get_fact(Command, READ_KEY)
if not key:
    server.shell(name="The host has a private key", commands=[f"umask 077 && wg genkey >{KEY}"])

keys = {peer["host"]: inventory.get_host(peer["host"]).get_fact(Command, READ_KEY) for peer in host.data.peers}
if not all(keys.values()):
    logger.warning("keys are being made; run it again")
else:
    files.directory(name="The folder for routes and firewall exists", path="/etc/isthmus", mode="755")
    changed = [
        files.put(
            name="The program beside the interface is there",
            src=host.data.program,
            dest="/usr/local/sbin/isthmus",
            mode="755",
        )
    ]
    sources = [
        (TEMPLATES / "wg0.conf.j2", "/etc/wireguard/wg0.conf", "600"),
        (SHARED / "wg0.routes.j2", "/etc/isthmus/wg0.routes", "644"),
        (SHARED / "wg0.iptables.j2", "/etc/isthmus/wg0.iptables", "644"),
    ]
    if host.data.sysctls:
        sources.append((SHARED / "90-isthmus.conf.j2", "/etc/sysctl.d/90-isthmus.conf", "644"))
    values = {
        name: host.data.get(name)
        for name in ("header", "address", "listen_port", "mtu", "peers", "routes", "firewall", "sysctls")
    }
    changed += [
        files.template(
            name=f"{path} is there",
            src=str(source),
            dest=path,
            mode=mode,
            keys=keys,
            jinja_env_kwargs={"trim_blocks": True},
            **values,
        )
        for source, path, mode in sources
    ]
    systemd.service(name="The interface comes up now and at boot", service="wg-quick@wg0", running=True, enabled=True)
    server.shell(
        name="The running mesh is changed",
        commands=["/usr/local/sbin/isthmus sync wg0"],
        _if=lambda: any(operation.did_change() for operation in changed),
    )
