"""Packages and images from the internet or from mirrors, onto the workstation: what `inv k8s.bundle` does.

making.py      a source -> a bundle: what is there already is not fetched again
repository.py  an apt repository's index, verified by its key
images.py      a registry's images, verified by their digests, into archives
openpgp.py     signatures
web.py         HTTP with retries; files that are gone on with where the line broke
"""
