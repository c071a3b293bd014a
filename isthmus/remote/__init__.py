"""The only door to hosts: SSH through Fabric and Paramiko, with verified host keys, deadlines and bounded parallelism.

way.py          where each host is and through whom
known_hosts.py  which host keys may be believed
login.py        proving who we are
connection.py   one authenticated connection
shell.py        one script on it
fleet.py        many hosts at once
trust.py        learning host keys
"""

from isthmus.remote.fleet import Fleet, Remote

__all__ = ["Fleet", "Remote"]
