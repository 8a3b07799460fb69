#!/bin/sh
# "make bench": measures pod life cycles against a fresh server with its own
# directories, and prints the figures. Arguments go to hack/bench/cri: with
# -endpoint NAME=SOCKET,… a peer that runs already is measured in the same run.
set -eu
cd "$(dirname "$0")/../.."

dir=$(mktemp -d)
cgroup=/stagelet-bench-$$
bridge=stb$(($$ % 100000))
flags="--root $dir/lib --run $dir/run --netns-dir $dir/netns --cni-conf-dir $dir/cni --network-default bridge --network-bridge $bridge"

# Every hierarchy that figures come from; in the last of them the server runs.
cgroups=$(for h in /sys/fs/cgroup/cpuacct /sys/fs/cgroup/memory /sys/fs/cgroup/cpu,cpuacct /sys/fs/cgroup; do
	[ ! -e $h/cgroup.procs ] || echo $h$cgroup
done | sort -u)
server=
finish() {
	[ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null || true
	for h in /sys/fs/cgroup /sys/fs/cgroup/*; do
		[ ! -d "$h$cgroup" ] || rmdir "$h$cgroup/pods" "$h$cgroup/server" "$h$cgroup" 2>/dev/null || true
	done
	for b in /sys/class/net/$bridge*; do [ ! -e "$b" ] || ip link delete "$(basename "$b")"; done
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM

for c in $cgroups; do mkdir -p "$c/server"; done
mkdir "$dir/cni"
# shellcheck disable=SC2016,SC2086 # expanded by the inner shell; lists
sh -c 'for c in $1; do echo $$ > "$c/server/cgroup.procs"; done; shift; exec "$@"' sh "$cgroups" \
	bin/stagelet serve $flags 2>"$dir/log" &
server=$!

bin/busybox-image localhost/stagelet/busybox:latest >"$dir/image.tar"
# shellcheck disable=SC2086
bin/stagelet image import $flags "$dir/image.tar"
for _ in $(seq 100); do
	[ ! -S "$dir/run/stagelet.sock" ] || break
	sleep 0.1
done
bin/bench-cri -log-dir "$dir/logs" -endpoint "stagelet=unix://$dir/run/stagelet.sock,procs=^stagelet,cgroup=$cgroup" "$@" || {
	tail -n 20 "$dir/log" >&2
	exit 1
}
