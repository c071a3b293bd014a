"""Isthmus: one LAN across clouds, and Kubernetes on it, from one TOML file, over SSH."""
