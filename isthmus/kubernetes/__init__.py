"""Kubernetes on the mesh, as far as it is data: what is asked for, what was found, what is left to do. Pure.

cluster.py    Inventory -> Cluster: its nodes, taints and labels, or every problem at once
bundle.py     bundle.toml -> Bundle: packages and images, with their sums
sources.py    where these come from: upstream, or mirrors in the order they are tried
images.py     the images of a Kubernetes version
debian.py     what an apt repository says of itself
registry.py   what a registry says of an image
configs.py    Cluster -> kubeadm's, containerd's and flannel's files
facts.py      what k8s-probe.sh prints -> NodeFacts
state.py      NodeFacts -> the state of a host: clean, ready, half-joined, of another cluster
checks.py     NodeFacts -> what speaks against Kubernetes on a host
drift.py      (Node wanted, Node found) -> labels and taints to set and to take off
plan.py       (wanted, found) -> steps: title, what is left of it
upgrade.py    (wanted, found) -> what is left of an upgrade, node by node, or why there is none
versions.py   versions as numbers
"""
