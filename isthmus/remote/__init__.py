"""The only door to hosts: SSH through Fabric and Paramiko, with verified host keys, deadlines and bounded parallelism.

Read in this order:

- ssh_config: what the user says about hosts
- way: where each host is and through whom
- known_hosts: which host keys may be believed
- login: proving who we are
- sockets: what SSH runs over
- connection: one authenticated connection
- shell: one script on it
- fleet: many hosts at once
- trust: learning host keys
"""

from isthmus.remote.fleet import Fleet, Remote

__all__ = ["Fleet", "Remote"]
