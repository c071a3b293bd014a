"""What a user sees of a run: reports as text, tables and JSON values. No decisions here.

Plain text needs no library, so that a run with nothing to do starts fast; tables and colours are rich's. For the same
reason what is said of a cluster is had from isthmus.report.cluster itself.
"""

from isthmus.report.checkup import checkup_json, checkup_junit, checkup_text
from isthmus.report.failures import failures_json, failures_text
from isthmus.report.host_keys import trust_json, trust_text
from isthmus.report.lab import lab_json, lab_table, sent_json, sent_text
from isthmus.report.mtu import mtu_json, mtu_table, mtu_text
from isthmus.report.paths import paths_json, paths_text
from isthmus.report.pings import ping_json, ping_table
from isthmus.report.plans import change_json, coloured_diff, plan_json, plan_text
from isthmus.report.ports import closed_line, ports_json, ports_table, rules_json, rules_table
from isthmus.report.pruned import prune_json, prune_text
from isthmus.report.security_groups import CLOUDS, FORMATS, security_groups
from isthmus.report.status import STALE_HANDSHAKE_S, charges_text, status_json, status_table
from isthmus.report.words import counted, data_size

__all__ = [
    "CLOUDS",
    "FORMATS",
    "STALE_HANDSHAKE_S",
    "change_json",
    "charges_text",
    "checkup_json",
    "checkup_junit",
    "checkup_text",
    "closed_line",
    "coloured_diff",
    "counted",
    "data_size",
    "failures_json",
    "failures_text",
    "lab_json",
    "lab_table",
    "mtu_json",
    "mtu_table",
    "mtu_text",
    "paths_json",
    "paths_text",
    "ping_json",
    "ping_table",
    "plan_json",
    "plan_text",
    "ports_json",
    "ports_table",
    "prune_json",
    "prune_text",
    "rules_json",
    "rules_table",
    "security_groups",
    "sent_json",
    "sent_text",
    "status_json",
    "status_table",
    "trust_json",
    "trust_text",
]
