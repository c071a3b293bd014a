"""Kubernetes on the hosts: looks, carries out what isthmus.kubernetes plans, and asks the running cluster.

survey.py     observe -> states -> plan. Changes nothing
sourcing.py   where there is a source: the bundle kept from it, made whole
delivery.py   the bundle: checked here, sent once to each site, handed on inside it
bootstrap.py  carries out a plan, phase by phase, and looks again
phases.py     what each phase does
marking.py    labels and taints of nodes that exist
leaving.py    takes hosts out of the cluster
upgrading.py  carries out an upgrade, one node after the other
preflight.py  what speaks against Kubernetes on the hosts
pods.py       asks pods whether they reach each other
"""
