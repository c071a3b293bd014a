"""The twin of an inventory on one Linux machine: the demo, the end-to-end test bed, and where a change is rehearsed.

Every site is a VPC router with a bridge, every host a real systemd machine with its own sshd (systemd-nspawn over an
overlay), every resource a process at an address, and the admin workstation sits on an internet that joins the routers'
uplinks. Addresses are the inventory's, so Isthmus runs against the lab unchanged. Everything is in network namespaces
that carry the lab's name; several labs may stand beside each other.

    lab = Lab(inventory, "lab", LabOptions(default=HostOptions(suite="trixie")))
    lab.up()
    lab.run("inv mesh.up")
    lab.host_run("n2", "ping -c 1 172.16.128.1")
    lab.down()

Read in this order: options, layout, rules (pure); sources, image, disk (what a host is made of); machine, cgroups,
guest, cloud, admin (what is done to this machine); steps, removal, twin (Lab); transfer (a measured flow).
"""

from isthmus.lab.cloud import Client, Traffic
from isthmus.lab.machine import missing_requirements
from isthmus.lab.options import SUITES, HostOptions, LabOptions, parse_options
from isthmus.lab.removal import known_labs, take_down
from isthmus.lab.steps import Progress
from isthmus.lab.transfer import Sent, send
from isthmus.lab.twin import Lab, State, Status

__all__ = [
    "SUITES",
    "Client",
    "HostOptions",
    "Lab",
    "LabOptions",
    "Progress",
    "Sent",
    "State",
    "Status",
    "Traffic",
    "known_labs",
    "missing_requirements",
    "parse_options",
    "send",
    "take_down",
]
