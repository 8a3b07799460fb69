#!/bin/sh
# Runs what depends on the version of cgroups in a virtual machine whose host
# has version 2: Debian's kernel, with this machine's programs in an initramfs.
#
#   run.sh [TESTS]   TESTS: a pattern of tests of test/e2e
#
# Without hardware for virtual machines it is emulated, which takes minutes. A
# /dev/kvm that is there need not work, so it is not tried unasked: VM_ACCEL=kvm.
# VM_KERNEL names a directory in which the kernel package was unpacked, where it
# is not installed.
set -eu

tests=${1:-^TestUnderSystemd$}
here=$(cd "$(dirname "$0")" && pwd)
repository=$(dirname "$(dirname "$here")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

kernel=$(find "${VM_KERNEL-}/boot" -name 'vmlinuz-*-cloud-amd64' | sort -V | tail -n 1)
[ -n "$kernel" ] || { echo "run.sh: no kernel: install linux-image-cloud-amd64" >&2; exit 1; }
version=${kernel##*/vmlinuz-}
library=${VM_KERNEL-}/lib/modules/$version

# program puts programs into the image, with the libraries that they need.
program() {
	for name in "$@"; do
		path=$(command -v "$name")
		for file in "$path" "$(readlink -f "$path")" $(ldd "$path" 2>/dev/null | grep -o '/[^ ]*'); do
			mkdir -p "$root$(dirname "$file")"
			[ -e "$root$file" ] || cp -L "$file" "$root$file"
		done
	done
}

# modules puts directories of kernel modules into the image.
modules() {
	for dir in "$@"; do
		mkdir -p "$root/usr/lib/modules/$version/kernel/$dir"
		cp -r "$library/kernel/$dir/." "$root/usr/lib/modules/$version/kernel/$dir/"
	done
}

for dir in bin sbin lib lib64; do
	mkdir -p "$root/usr/$dir"
	ln -s "usr/$dir" "$root/$dir"
done
mkdir -p "$root/etc" "$root/new" "$root/root" "$root/test/e2e" "$root/test/bin" "$root/var/tmp" "$root/usr/lib/cni"
program dash busybox runc iptables iptables-save ip6tables ip6tables-save unshare mount umount modprobe systemctl \
	/lib/systemd/systemd /lib/systemd/systemd-shutdown
ln -s dash "$root/usr/bin/sh" # busybox's has unshare and more built in
for applet in $(busybox --list); do
	[ -e "$root/usr/bin/$applet" ] || [ -e "$root/usr/sbin/$applet" ] || ln -s busybox "$root/usr/bin/$applet"
done
for plugin in bridge host-local portmap loopback; do cp "/usr/lib/cni/$plugin" "$root/usr/lib/cni/"; done
xtables=$(find /usr/lib -maxdepth 2 -name xtables -type d | head -n 1)
mkdir -p "$root$xtables" && cp -r "$xtables/." "$root$xtables/"
modules net/bridge net/802 net/llc net/netfilter net/ipv4/netfilter net/ipv6/netfilter fs/overlayfs lib crypto
mkdir -p "$root/usr/lib/modules/$version/kernel/drivers/net"
cp "$library/kernel/drivers/net/veth.ko" "$root/usr/lib/modules/$version/kernel/drivers/net/"
cp "$library/modules.builtin" "$library/modules.builtin.modinfo" "$library/modules.order" "$root/usr/lib/modules/$version/"
depmod -b "$root" "$version"
echo 'root:x:0:0::/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
: >"$root/etc/resolv.conf"
: >"$root/etc/machine-id"

cd "$repository"
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$root/test/bin/stagelet" ./cmd/shim
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$root/test/bin/stagelet-stage1" ./cmd/stage1
go test -c -ldflags '-s -w' -o "$root/test/e2e/e2e.test" ./test/e2e
go test -c -ldflags '-s -w' -o "$root/test/e2e/sys.test" ./internal/sys
cp -r test/e2e/testdata "$root/test/e2e/"
echo "$tests" >"$root/test/tests"
cp "$here/init" "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc) >"$work/initramfs"

timeout "${VM_TIMEOUT:-1800}" qemu-system-x86_64 -M q35 -accel "${VM_ACCEL:-tcg,thread=multi}" -cpu max -smp 2 -m 2G \
	-nodefaults -display none -serial stdio -no-reboot -kernel "$kernel" -initrd "$work/initramfs" \
	-append "console=ttyS0 quiet panic=-1 nokaslr mitigations=off cryptomgr.notests audit=0 lsm=none random.trust_cpu=on" |
	tee "$work/console"
grep -q '^tests ended with 0' "$work/console"
