#!/bin/sh
# Checks that there is a Go that can build this module, and installs Debian's
# where that one can. Any Go from 1.21 on fetches the version that go.mod
# names by itself.
set -eu
here=$(dirname "$0")
wanted=$(sed -n 's/^go //p' "$here/../go.mod")

usable() { # version
	[ "$(printf '%s\n' 1.21 "$1" | sort -V | head -n 1)" = 1.21 ]
}

if command -v go >/dev/null; then
	have=$(cd / && GOTOOLCHAIN=local go env GOVERSION)
	usable "${have#go}" && exit 0
else
	have=none
fi

candidate=$(apt-cache policy golang-go 2>/dev/null | sed -n 's/^ *Candidate: \(.*:\)\?\([0-9.]*\).*/\2/p')
if [ "$have" = none ] && [ -n "$candidate" ] && usable "$candidate"; then
	"$here/as-root" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends golang-go
	exit 0
fi

cat >&2 <<MSG
Go $wanted is needed; here is: $have. Debian's own is ${candidate:-not to be had}, which is too old.
Install one from https://go.dev/dl/ and put it into PATH:

	curl -L https://go.dev/dl/go$wanted.linux-$(dpkg --print-architecture 2>/dev/null || uname -m).tar.gz | sudo tar -C /usr/local -xz
	export PATH=/usr/local/go/bin:\$PATH
MSG
exit 1
