"""Measures Isthmus beside Ansible, pyinfra, wg-meshconf and plain OpenSSH. In reading order:

measure.py       one process timed; many rounds of several, interleaved; medians and ratios
table.py         what was measured -> a table for people, flat keys for programs
inventories.py   inventories of any size
compiling.py     part compile: no host is needed
rivals.py        the competitors' own virtualenv, and the same mesh told to each of them
hosts.py         parts noop and first: in the lab of the repository's hosts.toml
fleet.py         part fleet: a hundred light hosts
"""
