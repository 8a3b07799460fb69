package ocispec

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// FilterMode says what the names of a filter are.
type FilterMode string

// The modes (appc, ace.md, "Linux Isolators").
const (
	Retain FilterMode = "retain" // nothing else may be called
	Remove FilterMode = "remove" // these may not be called
)

// Filter lists system calls that an app may use, or may not.
type Filter struct {
	Mode FilterMode
	// Names are system calls, and these words: "@appc.io/all" with Retain is no
	// filter, "@appc.io/empty" with Remove the default one. What the default
	// filter allows is "@docker/default-whitelist" or "@rkt/default-whitelist"
	// with Retain, and what it doesn't, with Remove, "…-blacklist".
	Names []string
	// Errno is what a blocked call returns, by its name; "": it ends the app,
	// with SIGSYS.
	Errno string
	// Narrow says that nothing is allowed that the default filter doesn't.
	Narrow bool
}

// startCalls gives what an OCI runtime, and any program, needs between having
// the filter and running: an app that lacks them could not be started.
func startCalls() []string {
	return []string{
		"access", "arch_prctl", "brk", "capget", "capset", "chdir", "clone", "clone3", "close", "close_range", "epoll_create1",
		"epoll_ctl", "epoll_pwait", "epoll_wait", "execve", "exit", "exit_group", "faccessat", "faccessat2", "fchdir", "fchown",
		"fcntl", "fstat", "fstatfs", "futex", "getcwd", "getdents64", "getegid", "geteuid", "getgid", "getpid", "getppid", "getrandom",
		"gettid", "getuid", "ioctl", "lseek", "madvise", "mmap", "mprotect", "munmap", "nanosleep", "newfstatat", "open", "openat",
		"openat2", "pipe2", "prctl", "pread64", "prlimit64", "read", "readlink", "readlinkat", "restart_syscall", "rseq",
		"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_yield", "set_robust_list", "set_tid_address",
		"setgid", "setgroups", "setresgid", "setresuid", "setuid", "sigaltstack", "statx", "tgkill", "umask", "uname", "write",
	}
}

var callForm = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,63}$`)

// maxCalls bounds the names of a filter.
const maxCalls = 1000

// Seccomp gives the filter as an app has it; nil for none. An unknown word,
// name or error is errs.Invalid.
func (f Filter) Seccomp() (*manifest.Seccomp, error) {
	const op = "filter system calls"
	names, word, err := f.split()
	if err != nil {
		return nil, errs.New(op, errs.Invalid, "", err)
	}
	block, errno, err := f.block()
	if err != nil {
		return nil, errs.New(op, errs.Invalid, "", err)
	}
	switch {
	case word == "@appc.io/empty", word == "@appc.io/all" && f.Narrow:
		return &manifest.Seccomp{}, nil
	case word == "@appc.io/all":
		return nil, nil
	}
	profile := seccomp.DefaultProfile()
	for i, a := range profile.ArchMap {
		profile.ArchMap[i].SubArches = slices.DeleteFunc(slices.Clone(a.SubArches), func(a specs.Arch) bool { return a == specs.ArchX32 })
	}
	if f.Mode == Retain {
		profile.DefaultAction, profile.DefaultErrnoRet = block, errno
		f.retain(profile, append(startCalls(), names...), word != "")
	} else {
		f.remove(profile, specs.LinuxSyscall{Names: names, Action: block, ErrnoRet: errno}, word != "")
	}
	data, err := json.Marshal(profile)
	return &manifest.Seccomp{Profile: data}, err
}

// retain turns the default profile into one that allows names; with the
// default's own, where byDefault.
func (f Filter) retain(profile *seccomp.Seccomp, names []string, byDefault bool) {
	if f.Narrow {
		if !byDefault {
			keep(profile, func(name string) bool { return slices.Contains(names, name) })
		}
		return
	}
	if !byDefault {
		profile.Syscalls = nil
	}
	profile.Syscalls = append(profile.Syscalls, &seccomp.Syscall{LinuxSyscall: specs.LinuxSyscall{Names: names, Action: specs.ActAllow}})
}

// remove turns the default profile into one that blocks what blocked says, and
// what the default does, where byDefault.
func (f Filter) remove(profile *seccomp.Seccomp, blocked specs.LinuxSyscall, byDefault bool) {
	if f.Narrow || byDefault {
		keep(profile, func(name string) bool { return !slices.Contains(blocked.Names, name) })
	} else {
		profile.Syscalls, profile.DefaultAction, profile.DefaultErrnoRet = nil, specs.ActAllow, nil
	}
	if len(blocked.Names) > 0 {
		profile.Syscalls = append(profile.Syscalls, &seccomp.Syscall{LinuxSyscall: blocked})
	}
}

// keep drops names from the rules of a profile.
func keep(profile *seccomp.Seccomp, wanted func(string) bool) {
	var rules []*seccomp.Syscall
	for _, old := range profile.Syscalls {
		r := *old
		r.Names = slices.DeleteFunc(slices.Clone(r.Names), func(name string) bool { return !wanted(name) })
		if len(r.Names) > 0 {
			rules = append(rules, &r)
		}
	}
	profile.Syscalls = rules
}

// split sorts out system calls from words. Of several words the one of appc
// counts, which stands for all other values.
func (f Filter) split() (names []string, word string, err error) {
	words := map[FilterMode][]string{
		Retain: {"@docker/default-whitelist", "@rkt/default-whitelist", "@appc.io/all"},
		Remove: {"@docker/default-blacklist", "@rkt/default-blacklist", "@appc.io/empty"},
	}[f.Mode]
	switch {
	case words == nil:
		return nil, "", fmt.Errorf("%.40q is neither retain nor remove", f.Mode)
	case len(f.Names) == 0:
		return nil, "", fmt.Errorf("the set to %s is empty", f.Mode)
	case len(f.Names) > maxCalls:
		return nil, "", fmt.Errorf("the set has %d names, more than %d", len(f.Names), maxCalls)
	}
	const appcWord = 2
	for _, name := range f.Names {
		switch {
		case slices.Contains(words, name):
			if word != words[appcWord] {
				word = name
			}
		case !callForm.MatchString(name):
			return nil, "", fmt.Errorf("%.80q is no system call, nor a word for some to %s", name, f.Mode)
		default:
			names = append(names, name)
		}
	}
	return names, word, nil
}

func (f Filter) block() (specs.LinuxSeccompAction, *uint, error) {
	if f.Errno == "" {
		return specs.ActKillProcess, nil, nil
	}
	n, known := sys.ErrnoOf(f.Errno)
	if !known {
		return "", nil, fmt.Errorf("%.40q is no error such as EPERM", f.Errno)
	}
	errno := uint(n)
	return specs.ActErrno, &errno, nil
}
