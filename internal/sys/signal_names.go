package sys

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The real-time signals as the C library numbers them, and the last signal of
// all (signal(7)).
const (
	rtMin      = 34
	LastSignal = 64
)

// SignalNumber gives the number of a signal by its name, in upper case, with
// or without "SIG"; real-time signals are "RTMIN", "RTMIN+n", "RTMAX-n",
// "RTMAX".
func SignalNumber(name string) (int, bool) {
	name = strings.TrimPrefix(name, "SIG")
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return int(n), true
	}
	n, ok := realTime(name)
	return n, ok && n >= rtMin && n <= LastSignal
}

func realTime(name string) (int, bool) {
	for _, base := range []struct {
		name string
		at   int
	}{{"RTMIN", rtMin}, {"RTMAX", LastSignal}} {
		rest, ok := strings.CutPrefix(name, base.name)
		if !ok {
			continue
		}
		if rest == "" {
			return base.at, true
		}
		offset, err := strconv.Atoi(rest)
		return base.at + offset, err == nil
	}
	return 0, false
}
