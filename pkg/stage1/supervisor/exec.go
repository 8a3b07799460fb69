package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

const (
	// execPatience is how long a runtime that is just starting a command may
	// go on when the command is not wanted any more.
	execPatience = 5 * time.Second
)

// execution is a command that runs in an app.
type execution struct {
	terminal *os.File // nil without one
}

// execApp runs a command through the runtime, which confines it as the app's
// spec says, and answers with its exit code. The end of the time-out and the
// end of the caller are the end of the command and its children.
func (s *Supervisor) execApp(ctx context.Context, c *call, p wire.ExecParams) (reply, error) {
	const op = "exec"
	want := 3
	if p.TTY {
		want = 1
	}
	if err := checkExec(op, p, len(c.files), want); err != nil {
		return reply{}, err
	}
	if p.TimeoutMS > 0 {
		var cancel context.CancelFunc
		limit := time.Duration(min(p.TimeoutMS, maxGrace.Milliseconds())) * time.Millisecond
		cause := errs.New(op, errs.Timeout, p.ID, fmt.Errorf("the command did not end within %v, and was killed", limit))
		ctx, cancel = context.WithTimeoutCause(ctx, limit, cause)
		defer cancel()
	}
	a, err := s.register(op, p)
	if err != nil {
		return reply{}, err
	}
	defer s.unregister(a, p.Exec)
	code, err := s.execute(ctx, a, p, c.files)
	if ctx.Err() != nil {
		return reply{}, errs.Wrap(op, p.ID, context.Cause(ctx))
	}
	if err != nil {
		return reply{}, errs.Wrap(op, p.ID, err)
	}
	return reply{result: wire.ExecResult{ExitCode: code}}, nil
}

func checkExec(op string, p wire.ExecParams, files, want int) error {
	switch {
	case len(p.Args) == 0 || p.Args[0] == "":
		return errs.New(op, errs.Invalid, p.ID, errors.New("no command"))
	case files != want:
		return errs.New(op, errs.Invalid, p.ID, fmt.Errorf("%d descriptors came, not %d", files, want))
	case p.TimeoutMS < 0:
		return errs.New(op, errs.Invalid, p.ID, fmt.Errorf("time-out of %d ms", p.TimeoutMS))
	case p.Exec == "":
		return nil
	}
	return checkID(op, p.Exec)
}

// register makes the command known to ResizeTTY. One without a name is known
// to nobody.
func (s *Supervisor) register(op string, p wire.ExecParams) (*app, error) {
	a, _, err := s.running(op, p.ID)
	if err != nil || p.Exec == "" {
		return a, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.execs[p.Exec] != nil {
		return nil, errs.New(op, errs.Exists, p.Exec, errors.New("a command of this name runs"))
	}
	a.execs[p.Exec] = &execution{}
	return a, nil
}

func (s *Supervisor) unregister(a *app, exec string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(a.execs, exec)
}

func (s *Supervisor) execute(ctx context.Context, a *app, p wire.ExecParams, files []*os.File) (int, error) {
	process, err := s.processFile(a, p)
	if err != nil {
		return 0, err
	}
	defer remove(process)
	c := command{args: []string{"exec", "--process", process}, patience: execPatience}
	kind := onPipes
	if p.TTY {
		kind = onTerminal
	} else {
		copy(c.stdio[:], files)
		if err := s.giveStreams(&c); err != nil {
			return 0, err
		}
	}
	d, err := s.runtime.detach(ctx, c, kind, a.id)
	if err != nil {
		if d.child != nil {
			s.killCommand(a, d.child) // with its children, which signalling it would orphan
		}
		return 0, err
	}
	if d.terminal == nil {
		// The command alone holds them now: its end is seen on them.
		sys.CloseFiles(files)
		s.awaitCommand(ctx, a, d.child)
		return d.status.ExitCode(), nil
	}
	s.mu.Lock()
	if e := a.execs[p.Exec]; e != nil {
		e.terminal = d.terminal
	}
	s.mu.Unlock()
	err = s.joinTerminal(ctx, a, d, files[0])
	return d.status.ExitCode(), err
}

// giveStreams makes a command's streams those of the pod's root, which may
// open what it has: /dev/stdout. A device of the host is none of them.
func (s *Supervisor) giveStreams(c *command) error {
	if s.users == nil {
		return nil
	}
	for i, f := range c.stdio {
		if sys.IsDevice(f) {
			c.stdio[i] = nil
			continue
		}
		if err := sys.GivePipe(f, s.root); err != nil {
			return err
		}
	}
	return nil
}

// processFile writes the app's own process object with other arguments (OCI
// runtime-spec, config.md): everything that confines it stays as it is.
func (s *Supervisor) processFile(a *app, p wire.ExecParams) (string, error) {
	spec, err := readSpec(a.dir)
	if err != nil {
		return "", err
	}
	process := map[string]any{}
	if err := json.Unmarshal(spec.Process, &process); err != nil {
		return "", errs.New("read spec", errs.Corrupt, a.dir.Spec(), err)
	}
	delete(process, "consoleSize")
	process["args"], process["terminal"] = p.Args, p.TTY
	if p.TTY {
		setTerminal(process, p)
	}
	data, err := json.Marshal(process)
	if err != nil {
		return "", err
	}
	path := s.runtime.path(".process")
	return path, os.WriteFile(path, data, 0o600)
}

// setTerminal makes the command find its terminal's size from the start, and a
// TERM where the app, which may have no terminal, has none.
func setTerminal(process map[string]any, p wire.ExecParams) {
	if p.Rows > 0 && p.Cols > 0 {
		process["consoleSize"] = map[string]uint16{"height": p.Rows, "width": p.Cols}
	}
	env, _ := process["env"].([]any)
	for _, pair := range env {
		if s, _ := pair.(string); strings.HasPrefix(s, "TERM=") {
			return
		}
	}
	process["env"] = append(env, "TERM=xterm")
}

// awaitCommand waits for the end of a command, and kills it with its children
// when ctx ends first.
func (s *Supervisor) awaitCommand(ctx context.Context, a *app, command *child) {
	select {
	case <-command.done:
		return
	case <-ctx.Done():
	}
	err := sys.KillTree(command.pid, func() (among []int) {
		if cgroups, err := s.cgroups(); err == nil && a.cgroup != "" {
			among, _ = cgroups.Procs(a.cgroup)
		}
		return among
	})
	if err != nil {
		s.complain("kill command in %s: %v", a.id, err)
	}
	select {
	case <-command.done:
	case <-time.After(killedTime):
	}
}

// joinTerminal copies between a command's terminal and the caller's
// descriptor until the command has ended and its output is out.
func (s *Supervisor) joinTerminal(ctx context.Context, a *app, d detached, peer *os.File) error {
	peer, err := sys.Unblock(peer)
	if err != nil {
		s.killCommand(a, d.child)
		d.terminal.Close()
		return err
	}
	out := make(chan struct{})
	go func() {
		defer close(out)
		s.copyStream(peer, d.terminal)
	}()
	in := make(chan struct{})
	go func() {
		defer close(in)
		s.copyStream(d.terminal, peer)
	}()
	s.awaitCommand(ctx, a, d.child)
	awaitOutput(ctx, d.terminal, out)
	_ = d.terminal.SetDeadline(past())
	_ = peer.SetDeadline(past())
	<-out
	<-in
	d.terminal.Close()
	peer.Close()
	return nil
}

// awaitOutput waits until all that was written to a terminal is out, however
// slowly it is taken; but not long for someone that the command left behind
// with the terminal in hand.
func awaitOutput(ctx context.Context, terminal *os.File, out <-chan struct{}) {
	timer := time.NewTimer(drainTime)
	defer timer.Stop()
	held := timer.C
	for {
		select {
		case <-out:
			return
		case <-ctx.Done():
			return
		case <-held:
			if gone, err := sys.HungUp(terminal); err != nil || !gone {
				return
			}
			held = nil // what is left comes to an end
		}
	}
}

// killCommand is the end of a command that nobody can be joined with.
func (s *Supervisor) killCommand(a *app, command *child) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.awaitCommand(ctx, a, command)
}

// copyStream copies until either side ends, and holds no memory while nothing
// comes.
func (s *Supervisor) copyStream(to io.Writer, from *os.File) {
	source, err := sys.NewSource(from)
	if err != nil {
		return
	}
	for {
		b, err := source.Read(s.pool.take, s.pool.give)
		if err != nil {
			return
		}
		_, err = to.Write(b)
		s.pool.give(b)
		if err != nil {
			return
		}
	}
}

// past is a deadline that is over.
func past() time.Time { return time.Unix(1, 0) }
