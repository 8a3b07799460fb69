package cri

import (
	"strings"
	"syscall"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/stage0"
)

const signalPrefix = "SIGNAL_"

// translateSignal gives the name that the rest of the world has for a signal:
// SIGNAL_SIGRTMINPLUS1 is SIGRTMIN+1, and of several names of one signal it is
// the usual one (signal(7)). RUNTIME_DEFAULT is empty: the image's.
func translateSignal(field string, s runtimeapi.Signal) (string, error) {
	switch s {
	case runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT:
		return "", nil
	case runtimeapi.Signal_SIGNAL_SIGCLD:
		s = runtimeapi.Signal_SIGNAL_SIGCHLD
	case runtimeapi.Signal_SIGNAL_SIGIOT:
		s = runtimeapi.Signal_SIGNAL_SIGABRT
	case runtimeapi.Signal_SIGNAL_SIGPOLL:
		s = runtimeapi.Signal_SIGNAL_SIGIO
	}
	name, known := runtimeapi.Signal_name[int32(s)]
	if !known {
		return "", invalid(field, "%d is no signal", s)
	}
	return strings.NewReplacer(signalPrefix, "", "PLUS", "+", "MINUS", "-").Replace(name), nil
}

// criSignal is the way back, from any spelling that an image may have: it is
// the signal of the same number. One that nobody knows is RUNTIME_DEFAULT.
func criSignal(name string) runtimeapi.Signal {
	number, err := stage0.ParseSignal(name)
	if err != nil {
		return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
	}
	return signalOf(number)
}

// firstRealTime and lastSignal are numbers of the C library (signal(7)); CRI
// has all signals between in one row.
const (
	firstRealTime = 34
	lastSignal    = 64
)

// signalOf gives the signal of a number.
func signalOf(number int) runtimeapi.Signal {
	classic := [...]runtimeapi.Signal{
		syscall.SIGABRT:   runtimeapi.Signal_SIGNAL_SIGABRT,
		syscall.SIGALRM:   runtimeapi.Signal_SIGNAL_SIGALRM,
		syscall.SIGBUS:    runtimeapi.Signal_SIGNAL_SIGBUS,
		syscall.SIGCHLD:   runtimeapi.Signal_SIGNAL_SIGCHLD,
		syscall.SIGCONT:   runtimeapi.Signal_SIGNAL_SIGCONT,
		syscall.SIGFPE:    runtimeapi.Signal_SIGNAL_SIGFPE,
		syscall.SIGHUP:    runtimeapi.Signal_SIGNAL_SIGHUP,
		syscall.SIGILL:    runtimeapi.Signal_SIGNAL_SIGILL,
		syscall.SIGINT:    runtimeapi.Signal_SIGNAL_SIGINT,
		syscall.SIGIO:     runtimeapi.Signal_SIGNAL_SIGIO,
		syscall.SIGKILL:   runtimeapi.Signal_SIGNAL_SIGKILL,
		syscall.SIGPIPE:   runtimeapi.Signal_SIGNAL_SIGPIPE,
		syscall.SIGPROF:   runtimeapi.Signal_SIGNAL_SIGPROF,
		syscall.SIGPWR:    runtimeapi.Signal_SIGNAL_SIGPWR,
		syscall.SIGQUIT:   runtimeapi.Signal_SIGNAL_SIGQUIT,
		syscall.SIGSEGV:   runtimeapi.Signal_SIGNAL_SIGSEGV,
		syscall.SIGSTKFLT: runtimeapi.Signal_SIGNAL_SIGSTKFLT,
		syscall.SIGSTOP:   runtimeapi.Signal_SIGNAL_SIGSTOP,
		syscall.SIGSYS:    runtimeapi.Signal_SIGNAL_SIGSYS,
		syscall.SIGTERM:   runtimeapi.Signal_SIGNAL_SIGTERM,
		syscall.SIGTRAP:   runtimeapi.Signal_SIGNAL_SIGTRAP,
		syscall.SIGTSTP:   runtimeapi.Signal_SIGNAL_SIGTSTP,
		syscall.SIGTTIN:   runtimeapi.Signal_SIGNAL_SIGTTIN,
		syscall.SIGTTOU:   runtimeapi.Signal_SIGNAL_SIGTTOU,
		syscall.SIGURG:    runtimeapi.Signal_SIGNAL_SIGURG,
		syscall.SIGUSR1:   runtimeapi.Signal_SIGNAL_SIGUSR1,
		syscall.SIGUSR2:   runtimeapi.Signal_SIGNAL_SIGUSR2,
		syscall.SIGVTALRM: runtimeapi.Signal_SIGNAL_SIGVTALRM,
		syscall.SIGWINCH:  runtimeapi.Signal_SIGNAL_SIGWINCH,
		syscall.SIGXCPU:   runtimeapi.Signal_SIGNAL_SIGXCPU,
		syscall.SIGXFSZ:   runtimeapi.Signal_SIGNAL_SIGXFSZ,
	}
	switch {
	case number > 0 && number < len(classic):
		return classic[number] //nolint:gosec // the case is the bound
	case number >= firstRealTime && number <= lastSignal:
		return runtimeapi.Signal_SIGNAL_SIGRTMIN + runtimeapi.Signal(number-firstRealTime)
	}
	return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
}
