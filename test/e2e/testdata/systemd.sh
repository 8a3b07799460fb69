#!/bin/sh
# systemd.sh CGROUP UNITS: boots systemd as process 1 of namespaces of its own,
# in the cgroup CGROUP of every hierarchy, which it takes for the root. It knows
# the units in UNITS alone, starts test.service, and ends with the status of it.
set -eu
cgroups=/sys/fs/cgroup

case ${1-} in
inside) # of the cgroup and mount namespaces
  units=$2
  mount --make-rprivate /
  mount --make-rshared /
  if [ "$(wc -l </proc/self/cgroup)" = 1 ]; then
    umount -l $cgroups # the same file system can't be mounted over itself
    mount -t cgroup2 cgroup2 $cgroups
    # unshare is to wait for systemd, and must not be in its root meanwhile: a
    # cgroup with processes hands on no controllers.
    mkdir $cgroups/waiting
    echo $$ >$cgroups/waiting/cgroup.procs
  else
    mount -t tmpfs -o mode=755 tmpfs $cgroups
    while IFS=: read -r _ controllers _; do
      name=${controllers#name=}
      mkdir "$cgroups/${name:-unified}"
      if [ -z "$name" ]; then
        mount -t cgroup2 cgroup2 $cgroups/unified
      else
        mount -t cgroup -o "$controllers" cgroup "$cgroups/$name"
      fi
    done </proc/self/cgroup
  fi
  mount -t tmpfs -o mode=755 tmpfs /run
  # unshare ends its child when it is killed; we would not.
  exec unshare --mount --propagation unchanged --uts --ipc --pid --fork --kill-child "$0" boot "$units"
  ;;
boot) # process 1
  mount -t proc proc /proc
  [ ! -d $cgroups/waiting ] || echo $$ >$cgroups/cgroup.procs
  # Units that are made at run time are read again when systemd is reloaded. An
  # empty path at the end would add the host's.
  exec env container=test SYSTEMD_UNIT_PATH="$2:/run/systemd/transient" SYSTEMD_LOG_TARGET=console \
    /lib/systemd/systemd --unit=test.service --show-status=0
  ;;
esac

# A cpuset of version 1 holds no process before it has both.
for file in cpuset.cpus cpuset.mems; do
  [ ! -e $cgroups/cpuset/$file ] || cat $cgroups/cpuset/$file >"$cgroups/cpuset$1/$file"
done
for procs in "$cgroups$1/cgroup.procs" $cgroups/*"$1/cgroup.procs"; do
  [ ! -e "$procs" ] || echo $$ >"$procs"
done
exec unshare --mount --cgroup "$0" inside "$2"
