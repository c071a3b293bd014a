#!/bin/sh
# One host of the lab from power-on to power-off. $1 is its folder below /run, the others are its cgroups.
# A guest that reboots itself leaves systemd-nspawn with status 133: it starts again with a NIC and cgroups as new as
# those of a machine that was switched on.
set -eu
folder=$1
shift
cgroups=$*
. "$folder/settings" # MACHINE HOST NAMESPACE LOWER DISK UNIFIED CONTAINERS

enter() { # put this process into a cgroup below the host's own, in every hierarchy
  for base in $cgroups; do
    mkdir -p "$base/$1"
    echo 0 >"$base/$1/cgroup.procs"
  done
}

enter boot
status=133
while [ "$status" = 133 ]; do
  for base in $cgroups; do
    [ ! -d "$base/machine" ] || find "$base/machine" -depth -type d -exec rmdir {} \;
  done
  sh -eu "$folder/wire"
  rm -rf "$DISK/work" && mkdir "$DISK/work" # else overlayfs refuses: `volatile` was not unmounted in order
  status=0
  (
    enter machine
    # A mount namespace of its own: however this ends, the mount ends with it.
    exec unshare --mount --propagation slave sh -eu -c '
      mount -t overlay overlay -o "lowerdir=$2,upperdir=$3/upper,workdir=$3/work,volatile" "$1/root"
      tun=; [ ! -e /dev/net/tun ] || tun=--bind=/dev/net/tun
      # A host with containers: runc makes keyrings, the kubelet reads /dev/kmsg, containerd cannot work on an overlay,
      # and its cgroups must be its own to write: lab-init sees to it and then becomes systemd.
      with=--boot init=
      if [ -n "$8" ]; then
        with="--system-call-filter=@keyring --system-call-filter=bpf --kill-signal=SIGRTMIN+3 --bind=/dev/kmsg"
        with="$with --bind=$8:/var/lib/containerd" init=/usr/local/sbin/lab-init
      fi
      export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network SYSTEMD_NSPAWN_LOCK=0
      [ -z "$7" ] || export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="$7"
      exec systemd-nspawn --quiet --settings=no --register=no --keep-unit --machine="$4" --hostname="$5" \
        --network-namespace-path="/run/netns/$6" --capability=all $tun \
        --link-journal=no --resolv-conf=off --timezone=off $with --directory="$1/root" $init
    ' sh "$folder" "$LOWER" "$DISK" "$MACHINE" "$HOST" "$NAMESPACE" "$UNIFIED" "$CONTAINERS"
  ) || status=$?
done
exit "$status"
