#!/bin/sh
# "make run": serves CRI with the built-in defaults, shows a pod at work, and
# goes on serving until interrupted. Needs root, and what the Makefile builds.
#
# STAGELET_ROOT, STAGELET_RUN and STAGELET_LOGS move the state, the run-time
# directory and the logs of the pod, STAGELET_SERVE_FLAGS are more flags for the
# server.
set -eu
cd "$(dirname "$0")/.."

root=${STAGELET_ROOT:-/var/lib/stagelet}
run=${STAGELET_RUN:-/run/stagelet}
socket=$run/stagelet.sock
image=localhost/stagelet/busybox:latest

# shellcheck disable=SC2086 # a list of flags
bin/stagelet serve --root "$root" --run "$run" --network-default=bridge ${STAGELET_SERVE_FLAGS-} &
server=$!
stop() {
	kill -TERM $server 2>/dev/null || true
	wait $server || true
}
trap 'stop; echo; echo "The server has ended. Pods run on; the next start takes them up again."; exit 0' INT TERM
trap stop EXIT

archive=$(mktemp)
bin/busybox-image $image >"$archive"
bin/stagelet image import --root "$root" --run "$run" "$archive"
rm -f "$archive"

bin/demo -endpoint "unix://$socket" -image $image -log-dir "${STAGELET_LOGS:-/var/log/pods/stagelet_demo}"

cat <<MSG

Serving CRI at unix://$socket until interrupted (Ctrl-C). Point others at it:

  crictl --runtime-endpoint unix://$socket pods
  kubelet --container-runtime-endpoint=unix://$socket ...

MSG
wait $server
