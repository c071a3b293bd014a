"""The sections of hosts.toml: which keys each may have, what each is when left out, and what it becomes."""

from __future__ import annotations

from ipaddress import IPv4Address

from isthmus.inventory import values
from isthmus.inventory.agreement import Draft, check_agreement
from isthmus.inventory.problems import toml_text
from isthmus.inventory.tables import Table
from isthmus.model import Host, Inventory, Kubernetes, Mesh, Resource, Site, Ssh, stand_in


def read_inventory(top: Table, source: str) -> Inventory | None:
    """Return what the whole file says, or note in `top.problems` what is wrong with it."""
    draft = Draft()
    mesh = _read_mesh(top.table("mesh", needed=True), draft)
    ssh = _read_ssh(top.table("ssh"), Ssh())
    sites = [_read_site(*named, draft) for named in top.named_tables("sites", "nanjing", needed=True)]
    hosts = [_read_host(*named, ssh, draft) for named in top.named_tables("hosts", "n1", needed=True)]
    resources = [_read_resource(*named, draft) for named in top.named_tables("resources", "mysql")]
    cluster = top.table("kubernetes")
    kubernetes = _read_kubernetes(cluster, draft) if top.has("kubernetes") else None
    top.refuse_the_rest()
    check_agreement(draft, top.problems)
    if mesh is None:
        return None
    return Inventory(
        source=source,
        mesh=mesh,
        ssh=ssh,
        sites={site.name: site for site in sites if site},
        hosts={host.name: host for host in hosts if host},
        resources={resource.name: resource for resource in resources if resource},
        kubernetes=kubernetes,
    )


def _read_mesh(table: Table, draft: Draft) -> Mesh | None:
    supernet = draft.supernet = table.required("supernet", values.supernet, '"172.16.0.0/12"')
    interface = table.optional("interface", values.interface, Mesh.interface)
    listen_port = table.optional("listen_port", values.port, Mesh.listen_port)
    mtu = table.optional("mtu", values.mtu, Mesh.mtu)
    preshared_keys = table.optional("preshared_keys", values.switch, Mesh.preshared_keys)
    table.refuse_the_rest()
    return None if supernet is None else Mesh(supernet, interface, listen_port, mtu, preshared_keys)


def _read_ssh(table: Table, default: Ssh) -> Ssh:
    user = table.optional("user", values.user, default.user)
    port = table.optional("port", values.port, default.port)
    table.refuse_the_rest()
    return Ssh(user, port)


def _read_site(name: str, table: Table, draft: Draft) -> Site | None:
    subnet = table.required("subnet", values.subnet, '"172.16.0.0/24"')
    gateways = table.required("gateways", values.gateways, '["n1"]')
    provider = table.optional("provider", values.provider, None)
    failback = table.optional("failback", values.failback, Site.failback)
    table.refuse_the_rest()
    draft.sites.append(name)
    if subnet is not None:
        draft.subnets[name] = subnet
    if gateways is not None:
        draft.gateways[name] = gateways
    return None if subnet is None or gateways is None else Site(name, subnet, gateways, provider, failback)


def _read_host(name: str, table: Table, defaults: Ssh, draft: Draft) -> Host | None:
    site, address = _read_place(table, draft)
    public = table.optional("public", values.public_place, None)
    roles = table.optional("roles", values.roles, ())
    taints = table.optional("taints", values.taints, ())
    labels = table.optional("labels", values.labels, ())
    ssh = _read_ssh(table.table("ssh"), defaults)
    table.refuse_the_rest()
    draft.hosts.append(name)
    if public is not None:
        draft.public[name] = public
    if site is None or address is None:
        return None
    if isinstance(public, str):
        return Host(name, site, address, stand_in(address), roles, taints, labels, ssh, public_name=public)
    return Host(name, site, address, public, roles, taints, labels, ssh)


def _read_resource(name: str, table: Table, draft: Draft) -> Resource | None:
    site, address = _read_place(table, draft)
    port = table.optional("port", values.port, None)
    service = table.optional("service", values.service, None)
    table.refuse_the_rest()
    draft.resources.append(name)
    if service is not None and not table.has("port"):
        table.problems.note((*table.path, "port"), "nothing", f"a port: the Service {service} needs one")
    return None if site is None or address is None else Resource(name, site, address, port, service)


def _read_place(table: Table, draft: Draft) -> tuple[str | None, IPv4Address | None]:
    site = table.required("site", values.text, '"nanjing"')
    address = table.required("address", values.private_address, '"172.16.0.1"')
    if site is not None:
        draft.site_of[table.path] = site
    if address is not None:
        draft.addresses[table.path] = address
    return site, address


def _read_kubernetes(table: Table, draft: Draft) -> Kubernetes | None:
    version = table.required("version", values.version, '"1.36"')
    pods = draft.pod_subnet = table.required("pod_subnet", values.pod_subnet, '"10.244.0.0/16"')
    services = draft.service_subnet = table.required("service_subnet", values.service_subnet, '"10.96.0.0/12"')
    bundle = table.optional("bundle", values.folder, None)
    endpoint = table.optional("endpoint", values.endpoint, Kubernetes.endpoint)
    source = table.optional("source", values.source, None)
    if source is not None and table.has("bundle"):
        table.problems.note((*table.path, "source"), toml_text(source), "either a source or a bundle, not both")
    table.refuse_the_rest()
    if version is None or pods is None or services is None:
        return None
    return Kubernetes(version, pods, services, bundle, endpoint, source)
