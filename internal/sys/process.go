package sys

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a child process to start.
type Process struct {
	Path string
	Args []string // Args[0] included
	Env  []string
	Dir  string
	// Files become descriptors 0, 1, 2, …; it inherits no others.
	Files []*os.File
	// Namespaces to make new for it: CLONE_NEWPID | ….
	Namespaces uintptr
	// Users has a user namespace made for it, which owns the others; it is
	// root there. Nil: none.
	Users *UserMap
}

// Start starts p in a process group of its own, and gives its id: that of the
// group, too. The child is for Reap to wait for.
//
// It is not killed when this process ends: PR_SET_PDEATHSIG is about threads,
// and those of a Go program come and go.
func (p Process) Start() (pid int, err error) {
	fds := make([]uintptr, len(p.Files))
	for i, f := range p.Files {
		raw, err := f.SyscallConn()
		if err != nil {
			return 0, err
		}
		if err := raw.Control(func(fd uintptr) { fds[i] = fd }); err != nil {
			return 0, err
		}
	}
	attr := &syscall.SysProcAttr{Setpgid: true, Cloneflags: p.Namespaces}
	if p.Users != nil {
		p.Users.attr(attr)
	}
	pid, err = syscall.ForkExec(p.Path, p.Args, &syscall.ProcAttr{Dir: p.Dir, Env: p.Env, Files: fds, Sys: attr})
	runtime.KeepAlive(p.Files)
	if err != nil {
		return 0, &os.PathError{Op: "start", Path: p.Path, Err: err}
	}
	return pid, nil
}

// ExitStatus is how a process ended: by a signal when that is not 0.
type ExitStatus struct {
	Code   int
	Signal syscall.Signal
}

// ExitCode gives what a shell would: 128+n when ended by signal n.
func (s ExitStatus) ExitCode() int {
	if s.Signal != 0 {
		return 128 + int(s.Signal)
	}
	return s.Code
}

// String says it in words.
func (s ExitStatus) String() string {
	if s.Signal != 0 {
		return "ended by signal " + strconv.Itoa(int(s.Signal))
	}
	return "exit status " + strconv.Itoa(s.Code)
}

// Reap takes one child that has ended out of the process table (wait(2)).
// ok is false when none has.
func Reap() (pid int, status ExitStatus, ok bool) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG|unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || pid <= 0:
			return 0, ExitStatus{}, false
		case ws.Signaled():
			return pid, ExitStatus{Signal: ws.Signal()}, true
		default:
			return pid, ExitStatus{Code: ws.ExitStatus()}, true
		}
	}
}

// IsChild reports whether pid is a child of this process that was not reaped.
func IsChild(pid int) bool {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}

// BecomeSubreaper makes the orphans among our descendants our children
// (PR_SET_CHILD_SUBREAPER, prctl(2)).
func BecomeSubreaper() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}

// SetHostname names the host of this process's UTS namespace.
func SetHostname(name string) error {
	return os.NewSyscallError("sethostname", unix.Sethostname([]byte(name)))
}

// CloseOnExec keeps fd from all programs that this process starts.
func CloseOnExec(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	return os.NewSyscallError("fcntl", err)
}

// Forsake takes every privilege from this process, and keeps others from
// looking into it (PR_SET_DUMPABLE, ptrace(2)).
func Forsake() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := allThreadsCapset(&header, &none); err != nil {
		return os.NewSyscallError("capset", err)
	}
	return nil
}

// stopRounds bounds how often a tree of processes is looked at until all of it
// has stopped, a millisecond apart.
const stopRounds = 50

// KillTree ends, by SIGKILL, the process pid, its descendants, and whoever is
// in its session (setsid(2)), as far as among lists them. All are stopped
// before one is killed: what is stopped has no children any more, and what
// isn't killed keeps its parent. Only descendants that had left both before
// are missed.
func KillTree(pid int, among func() []int) error {
	var tree []procStat
	for calm, round := 0, 0; calm < 2 && round < stopRounds; round++ {
		// A list that was taken before all had stopped may lack the last child.
		tree = treeOf(pid, among())
		calm++
		for _, p := range tree {
			if !p.stopped {
				calm = 0
				_ = p.signal(unix.SIGSTOP)
			}
		}
		if calm == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	var all []error
	for _, p := range tree {
		all = append(all, p.signal(unix.SIGKILL))
	}
	return errors.Join(all...)
}

// treeOf gives pid, its descendants and its session, as far as they live and
// are among these.
func treeOf(pid int, among []int) (tree []procStat) {
	children := map[int][]procStat{}
	for _, p := range append(among, pid) {
		st, err := readStat(p)
		switch {
		case err != nil || st.zombie:
		case st.pid == pid || st.session == pid:
			tree = append(tree, st)
		default:
			children[st.parent] = append(children[st.parent], st)
		}
	}
	for i := 0; i < len(tree); i++ { // it grows
		tree = append(tree, children[tree[i].pid]...)
	}
	return tree
}

// signal signals a process if it still is what it was: an id may be used anew
// between reading it and its use, a descriptor can't. One that has ended is
// fine.
func (p procStat) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return nil // it has ended
	}
	defer unix.Close(fd)
	if now, err := readStat(p.pid); err != nil || now.start != p.start {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %d: %w", p.pid, err)
	}
	return nil
}

type procStat struct {
	pid     int
	parent  int
	zombie  bool
	stopped bool
	session int
	start   string // clock ticks since boot: with the id it names a process
}

// readStat reads proc(5)'s stat. The second field is in parentheses and may
// hold any byte.
func readStat(pid int) (procStat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 {
		return procStat{}, fmt.Errorf("stat of %d has %d fields", pid, len(fields))
	}
	parent, perr := strconv.Atoi(fields[1])
	session, serr := strconv.Atoi(fields[3])
	return procStat{
		pid: pid, parent: parent, session: session, start: fields[19],
		zombie: fields[0] == "Z" || fields[0] == "X", stopped: fields[0] == "T" || fields[0] == "t",
	}, errors.Join(perr, serr)
}
