#!/bin/sh
# systemd.sh CGROUP UNITS: boots systemd as process 1 of namespaces of its own,
# in the cgroup CGROUP of every hierarchy, which it takes for the root. It knows
# the units in UNITS alone, starts test.service, and ends with the status of it.
set -eu

if [ "${1-}" != inside ]; then
  # A cpuset of version 1 holds no process before it has both.
  for file in cpuset.cpus cpuset.mems; do
    [ ! -e /sys/fs/cgroup/cpuset/$file ] || cat /sys/fs/cgroup/cpuset/$file >"/sys/fs/cgroup/cpuset$1/$file"
  done
  for procs in "/sys/fs/cgroup$1/cgroup.procs" /sys/fs/cgroup/*"$1/cgroup.procs"; do
    [ ! -e "$procs" ] || echo $$ >"$procs"
  done
  # Not exec: unshare ends its children when it is killed, we would not.
  exec unshare --mount --uts --ipc --pid --cgroup --fork --kill-child "$0" inside "$2"
fi

mount --make-rprivate /
mount --make-rshared /
mount -t proc proc /proc
if [ "$(wc -l </proc/self/cgroup)" = 1 ]; then
  umount -l /sys/fs/cgroup # the same file system can't be mounted over itself
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  while IFS=: read -r _ controllers _; do
    name=${controllers#name=}
    mkdir "/sys/fs/cgroup/${name:-unified}"
    if [ -z "$name" ]; then
      mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
    else
      mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$name"
    fi
  done </proc/self/cgroup
fi
mount -t tmpfs -o mode=755 tmpfs /run
# Units that are made at run time are read again when systemd is reloaded. An
# empty path at the end would add the host's.
exec env container=test SYSTEMD_UNIT_PATH="$2:/run/systemd/transient" SYSTEMD_LOG_TARGET=console /lib/systemd/systemd --unit=test.service --show-status=0
