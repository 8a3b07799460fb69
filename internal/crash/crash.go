// Package crash marks the instants at which a test kills a process: every
// change of state has one right before and right after it.
//
// A point costs a nil comparison. Tests name one point in the environment of
// the process under test (STAGELET_CRASH=<name> or <name>:<n> for the n-th
// time it is passed); the process then ends as by SIGKILL, with no deferred
// call run.
package crash

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Env is the variable that names the point to die at. MarkEnv may name a file
// that a process makes right before it dies, for tests that have to know
// whether the point was passed.
const (
	Env     = "STAGELET_CRASH"
	MarkEnv = "STAGELET_CRASH_MARK"
)

var armed = parse(os.Getenv(Env))

type target struct {
	name string
	left atomic.Int64
}

func parse(s string) *target {
	if s == "" {
		return nil
	}
	name, count, found := strings.Cut(s, ":")
	t := &target{name: name}
	t.left.Store(1)
	if n, err := strconv.ParseInt(count, 10, 64); found && err == nil {
		t.left.Store(n)
	}
	return t
}

// Point kills this process here when the environment says so.
func Point(name string) {
	if armed == nil || armed.name != name || armed.left.Add(-1) != 0 {
		return
	}
	if mark := os.Getenv(MarkEnv); mark != "" {
		_ = os.WriteFile(mark, []byte(name), 0o600)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}
