package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stagelet/stagelet/cmd/shim/internal/terminal"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/pipes"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/stage0"
)

func execCommand(s *settings) *cobra.Command {
	var x execution
	c := &cobra.Command{
		Use:     "exec {POD | APP} [-- COMMAND [ARGS...]]",
		Aliases: []string{"enter"},
		Short:   "Run a command in an app that runs",
		Long: `Run a command in an app: /bin/sh when none is given. It is confined just as the
app is: its user, capabilities, filter of system calls, limits, cgroup and
namespaces. It sees no file of the caller's but those of the app: its input and
output are pipes or, with -t, a terminal of its own.

An app is named by the beginning of its id, or its pod's; of several apps in a
pod --app says which. ^C ends the command, with -it ^] three times within a
second does, by force.

` + appExitText,
		Example: `  stagelet exec 3f2a -- ps
  stagelet exec -it 3f2a
  stagelet exec --app=db 3f2a -- cat /etc/passwd
  tar c . | stagelet exec -i 3f2a -- tar x -C /data`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, set := args[0], c.Flags()
			if err := set.Parse(args[1:]); err != nil { // people write flags behind it, too
				return errs.New("read command line", errs.Invalid, "", hintFlag(c, err))
			}
			if set.Changed("help") {
				return pflag.ErrHelp
			}
			return x.run(c.Context(), s, id, set.Args(), streamsOf(c))
		},
	}
	c.Flags().SetInterspersed(false) // flags of the command are its own
	c.Flags().StringVar(&x.app, "app", "", "name of the app, of several in the pod")
	x.term.register(c.Flags(), "command")
	return c
}

// execution is what the flags of exec say.
type execution struct {
	app  string
	term termFlags
}

// defaultCommand is rkt's, of enter.
const defaultCommand = "/bin/sh"

func (x *execution) run(ctx context.Context, s *settings, id string, command []string, to streams) error {
	if len(command) == 0 {
		command = []string{defaultCommand}
	}
	return ours(withPods(context.WithoutCancel(ctx), s, func(n *node) error {
		a, err := oneApp(n, id, x.app)
		if err != nil {
			return err
		}
		return x.enter(ctx, n.engine, a, command, to)
	}))
}

// oneApp finds an app by the beginning of its id or of its pod's.
func oneApp(n *node, id, name string) (pod.App, error) {
	apps, err := appsNamed(n, id, name)
	if err != nil {
		return pod.App{}, err
	}
	if len(apps) > 1 {
		var names []string
		for _, a := range apps {
			names = append(names, a.Name)
		}
		return pod.App{}, errs.New("find app", errs.Invalid, fmt.Sprintf("%.80q", id),
			errors.New("its apps are "+strings.Join(names, ", ")+": say which with --app"))
	}
	return apps[0], nil
}

// enter runs the command until it ends; the error has its exit code.
func (x *execution) enter(ctx context.Context, e *stage0.Engine, a pod.App, command []string, to streams) error {
	interrupted := ctx
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var signalled atomic.Int32
	defer onSignal(interrupted, func(sig syscall.Signal) {
		signalled.CompareAndSwap(0, int32(sig))
		cancel()
	})()
	s, err := newSession(to, x.term, nil, func(terminal.Wish) {
		signalled.CompareAndSwap(0, int32(syscall.SIGKILL))
		cancel()
	})
	defer s.end()
	if err != nil {
		return err
	}
	heard := &overheard{Writer: s.to.err}
	s.to.err = heard
	code, err := 0, ctx.Err()
	if err == nil {
		code, err = x.join(ctx, e, a, command, s)
	}
	if sig := signalled.Load(); sig != 0 {
		return ended(signalExit + int(sig))
	}
	switch {
	case err == nil:
		return ended(code)
	case errors.Is(err, errs.Invalid) && heard.ends(err):
		return ended(stage0.CommandExitCode(err))
	}
	return notRun(err)
}

// overheard is output whose end is remembered: an OCI runtime may say why a
// command can't be run in its log and on the command's own streams.
type overheard struct {
	io.Writer
	last []byte
}

// maxOverheard is how much of the end is remembered, in bytes.
const maxOverheard = 4 << 10

func (o *overheard) Write(p []byte) (int, error) {
	o.last = append(o.last, p...)
	o.last = o.last[max(0, len(o.last)-maxOverheard):]
	return o.Writer.Write(p)
}

// ends says that the output ended with a line that err ends with, too.
func (o *overheard) ends(err error) bool {
	text := strings.TrimSpace(string(o.last))
	line := text[strings.LastIndexByte(text, '\n')+1:]
	return line != "" && strings.HasSuffix(err.Error(), line)
}

// signalExit is what a shell adds to the number of a signal that ended
// something.
const signalExit = 128

func (x *execution) join(ctx context.Context, e *stage0.Engine, a pod.App, command []string, s *session) (code int, err error) {
	out := pipes.Client{In: s.inputOnce(ctx, x.term), Out: sink{Writer: s.to.out}, Err: sink{Writer: s.to.err}}
	join := pipes.Join
	if x.term.tty {
		join, out.Err = pipes.JoinSocket, nil
	}
	p, err := join(out)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	r := stage0.ExecRequest{Args: command, TTY: x.term.tty, Name: pod.NewID(), Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr}
	if x.term.tty {
		first := s.screen.Size()
		r.Size = stage0.TerminalSize{Rows: first.Rows, Cols: first.Cols}
		go s.term.Guard(func() {
			s.resized(ctx, first, func(size stage0.TerminalSize) { _ = e.Resize(ctx, a.ID, r.Name, size) })
		})
	}
	code, err = e.Exec(ctx, a.ID, r)
	drain(ctx, p)
	return code, err
}

// onSignal has the signals that end a program told to do; undo ends that. One
// that came before, and so ended the context of the command, counts too.
func onSignal(interrupted context.Context, do func(syscall.Signal)) (undo func()) {
	come := make(chan os.Signal, 2)
	signal.Notify(come, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	if interrupted.Err() != nil && len(come) == 0 {
		do(syscall.SIGTERM) // whichever it was
	}
	over := make(chan struct{})
	go func() {
		for {
			select {
			case sig := <-come:
				if number, ok := sig.(syscall.Signal); ok {
					do(number)
				}
			case <-over:
				return
			}
		}
	}()
	return func() {
		signal.Stop(come)
		close(over)
	}
}
