package sys

import (
	"fmt"
	"os"
	"syscall"
)

// Launch says how to start a process that is to outlive us.
type Launch struct {
	Path string
	Args []string // Args[0] included
	Env  []string
	// Files become descriptors 0, 1, 2, …; a nil one is closed in the child.
	Files []*os.File
	// Namespaces to make new for the process: CLONE_NEWNS | ….
	Namespaces uintptr
	// Cgroup is an open cgroup v2 directory to start in; nil: ours.
	Cgroup *os.File
	// Prepare dresses the thread that forks: what it enters (network
	// namespace, cgroup v1), the process is born in. May be nil.
	Prepare func() error
}

// Start starts the process in a session of its own.
func (l Launch) Start() (p *os.Process, err error) {
	err = OnThrowawayThread(func() error {
		p, err = l.start()
		return err
	})
	return p, err
}

func (l Launch) start() (*os.Process, error) {
	if l.Prepare != nil {
		if err := l.Prepare(); err != nil {
			return nil, err
		}
	}
	attr := &syscall.SysProcAttr{Setsid: true, Cloneflags: l.Namespaces}
	if l.Cgroup != nil {
		attr.UseCgroupFD = true
		attr.CgroupFD = int(l.Cgroup.Fd())
	}
	p, err := os.StartProcess(l.Path, l.Args, &os.ProcAttr{Dir: "/", Env: l.Env, Files: l.Files, Sys: attr})
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	return p, nil
}
