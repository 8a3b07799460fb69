#!/bin/sh
# Installs what is missing of the packages in hack/packages.txt.
#
#   hack/deps.sh run    what "make run" needs
#   hack/deps.sh test   what "make test" needs: that and more
#   hack/deps.sh vm     what "make vmtest" needs: all of it
set -eu
here=$(dirname "$0")

case "${1:-}" in
run) uses=run ;;
test) uses='run|test' ;;
vm) uses='run|test|vm' ;;
*)
	echo "usage: $0 run|test|vm" >&2
	exit 2
	;;
esac

command -v dpkg-query >/dev/null || {
	echo "$0: not a Debian system: install the likes of these yourself:" >&2
	sed '/^#/d' "$here/packages.txt" >&2
	exit 0
}

installed() {
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=
for package in $(sed -E -n "s/^([a-z0-9.+-]+) +($uses)\$/\1/p" "$here/packages.txt"); do
	installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

echo "installing$missing"
install() {
	# shellcheck disable=SC2086 # a list of packages
	"$here/as-root" env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -q --no-install-recommends $missing
}
# The lists of a machine may be absent, or older than the mirror's packages.
install >/dev/null 2>&1 || {
	"$here/as-root" apt-get update -q
	install
}
