package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

const (
	// slotTime is how long a running runtime keeps others waiting: the slots
	// keep a burst from thrashing, and one that hangs must not block the rest.
	slotTime = 2 * time.Second
	// killedTime is how long a killed runtime may take to be gone: longer,
	// and it sits in the kernel; we go on without it.
	killedTime = 5 * time.Second
	// consoleTime is how long a terminal may take to come from a runtime that
	// has already ended.
	consoleTime = 2 * time.Second
)

// ociRuntime runs the commands of an OCI runtime (runc(8) and those that
// have its command line).
type ociRuntime struct {
	exec    manifest.Executor
	root    string // the runtime's own state
	scratch string // directory for files that live for one command
	reaper  *reaper
	null    *os.File
	slots   chan struct{}
	serial  atomic.Uint64
}

func newRuntime(e manifest.Executor, run manifest.RunDir, r *reaper) (*ociRuntime, error) {
	const op = "set up runtime"
	if e.Runtime.Path == "" {
		return nil, errs.New(op, errs.Invalid, "", errors.New("stage1.json names no runtime"))
	}
	if e.Exit != manifest.ExitReap && e.Exit != "" {
		return nil, errs.New(op, errs.Unsupported, e.Runtime.Path, fmt.Errorf("exit source %q", e.Exit))
	}
	rt := &ociRuntime{
		exec: e, root: run.Runtime(), scratch: filepath.Join(string(run), "scratch"),
		reaper: r, slots: make(chan struct{}, 2*runtime.NumCPU()),
	}
	for _, dir := range []string{rt.root, rt.scratch} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, errs.Wrap(op, dir, err)
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	rt.null = null
	return rt, errs.Wrap(op, os.DevNull, err)
}

// command is one run of the runtime.
type command struct {
	args  []string
	stdio [3]*os.File // nil: /dev/null
	// patience is how long it may go on once ctx has ended, to come to an end
	// that leaves nothing half done.
	patience time.Duration
}

// path gives a name in scratch that nothing else uses.
func (r *ociRuntime) path(suffix string) string {
	return filepath.Join(r.scratch, strconv.FormatUint(r.serial.Add(1), 10)+suffix)
}

// remove takes a file out of scratch: one that stays is in nobody's way, and
// goes with the pod.
func remove(path string) { _ = os.Remove(path) }

// invoke runs a command to its end. An error has the runtime's own words.
func (r *ociRuntime) invoke(ctx context.Context, c command) error {
	release, err := r.slot(ctx)
	if err != nil {
		return err
	}
	defer release()
	log := r.path(".log")
	defer remove(log)
	name := filepath.Base(r.exec.Runtime.Path)
	argv := append([]string{name}, r.exec.Args...)
	argv = append(argv, "--root", r.root, "--log", log, "--log-format", "json")
	argv = append(argv, c.args...)
	for i, f := range c.stdio {
		if f == nil {
			c.stdio[i] = r.null
		}
	}
	p, err := r.reaper.spawn(sys.Process{
		Path: r.exec.Runtime.Path, Args: argv, Env: runtimeEnv(), Dir: "/", Files: c.stdio[:],
	})
	if err != nil {
		return errs.New("run runtime", errs.Unavailable, r.exec.Runtime.Path, err)
	}
	if err := r.await(ctx, p, c.patience); err != nil {
		return errs.Wrap(name+" "+c.args[0], "", err)
	}
	if p.status == (sys.ExitStatus{}) {
		return nil
	}
	words := runtimeWords(log)
	if words == "" {
		words = name + " " + c.args[0] + ": " + p.status.String()
	}
	return errs.New("run runtime", errs.Invalid, "", errors.New(words))
}

// await waits for the end of p, or of ctx, which is p's end, too.
func (r *ociRuntime) await(ctx context.Context, p *child, patience time.Duration) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	for _, wait := range []time.Duration{patience, killedTime} {
		select {
		case <-p.done:
			return ctx.Err()
		case <-time.After(wait):
			_ = r.reaper.signalGroup(p, syscall.SIGKILL)
		}
	}
	return ctx.Err()
}

// slot waits until a runtime may be started.
func (r *ociRuntime) slot(ctx context.Context) (release func(), err error) {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, errs.Wrap("wait for a turn", "", ctx.Err())
	}
	var released atomic.Bool
	give := func() {
		if !released.Swap(true) {
			<-r.slots
		}
	}
	timer := time.AfterFunc(slotTime, give)
	return func() {
		timer.Stop()
		give()
	}, nil
}

// runtimeEnv is the environment of runtimes; that of apps is in their spec.
// What tunes our own Go runtime must not tune theirs.
func runtimeEnv() []string {
	path := os.Getenv("PATH")
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	return []string{"PATH=" + path}
}

// detached is a process that the runtime started for us and left to us.
type detached struct {
	*child
	terminal *os.File // nil without one
}

// detach runs a command that starts a process and returns: "run" or "exec".
// With a terminal the process gets one, else stdio. When an error comes with a
// child, that is the caller's to end.
func (r *ociRuntime) detach(ctx context.Context, c command, kind stdioKind, id string) (d detached, err error) {
	defer r.reaper.open()()
	pidFile := r.path(".pid")
	defer remove(pidFile)
	c.args = append(c.args, "--detach", "--pid-file", pidFile)
	var console *console
	if kind == onTerminal {
		if console, err = r.openConsole(); err != nil {
			return d, err
		}
		defer console.close()
		c.args = append(c.args, "--console-socket", console.path)
	}
	c.args = append(c.args, id)
	if err := r.invoke(ctx, c); err != nil {
		if late, aerr := r.adopt(pidFile); aerr == nil { // it started just as we gave up
			d.child = late
		}
		return d, err
	}
	if d.child, err = r.adopt(pidFile); err != nil {
		return d, err
	}
	if console != nil {
		if d.terminal, err = console.terminal(); err != nil {
			return d, err
		}
	}
	return d, nil
}

// adoptTime is how long a process may take to become our child once its
// runtime has ended.
const adoptTime = 2 * time.Second

func (r *ociRuntime) adopt(pidFile string) (*child, error) {
	const op = "read process id"
	data, err := os.ReadFile(pidFile)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, errs.New(op, errs.Internal, "", err)
	}
	// A runtime may start the process through another one that is about to end
	// (crun does where it joins namespaces): until then that is its parent.
	for deadline := time.Now().Add(adoptTime); ; time.Sleep(time.Millisecond) {
		c, err := r.reaper.claim(pid)
		if err == nil || time.Now().After(deadline) {
			return c, err
		}
	}
}

// remove makes the runtime forget a container, and ends what is left of it.
// One that it doesn't know is fine.
func (r *ociRuntime) remove(ctx context.Context, id string) error {
	if err := r.invoke(ctx, command{args: []string{"delete", "--force", id}}); err != nil {
		return errors.Join(err, sys.RemoveTree(filepath.Join(r.root, id)))
	}
	return nil
}
