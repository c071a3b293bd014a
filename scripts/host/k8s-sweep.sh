# Takes off the files of the bundle that a host has fetched for others of its site and needs no more. Where another run is
# at work they are left to it.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec 9>/run/isthmus-kubernetes.lock
if flock -n 9; then rm -rf /var/lib/isthmus-kubernetes/bundle; fi
