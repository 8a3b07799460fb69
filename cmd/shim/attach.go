package main

import (
	"context"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/cmd/shim/internal/terminal"
	"github.com/stagelet/stagelet/internal/pipes"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/stage0"
)

func attachCommand(s *settings) *cobra.Command {
	var x attachment
	c := &cobra.Command{
		Use:   "attach {POD | APP}",
		Short: "Join the input and output of an app that runs",
		Long: `Join the input and output of an app, from now on until it ends; "stagelet logs"
has what it wrote before. Any number may be attached at the same time. What is
typed goes to an app that was run with -i, be it the first one who was attached
or not.

An app with a terminal is shown on the caller's, in raw mode: all keys are the
app's, but --detach-keys leave it running, and ^] three times within a second
ends its pod by force. Otherwise ^C leaves; the app goes on.

The exit code is the app's if it ended, 0 if it was left by keys, and 125 when
it can't be joined.`,
		Example: `  stagelet attach 3f2a
  stagelet attach --app=db --no-stdin 3f2a`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return x.run(c.Context(), s, args[0], streamsOf(c))
		},
	}
	c.Flags().StringVar(&x.app, "app", "", "name of the app, of several in the pod")
	c.Flags().BoolVar(&x.mute, "no-stdin", false, "send nothing to the app")
	x.term.registerKeys(c.Flags())
	return c
}

// attachment is what the flags of attach say.
type attachment struct {
	app  string
	mute bool
	term termFlags
}

func (x *attachment) run(ctx context.Context, s *settings, id string, to streams) error {
	keys, err := x.term.keys()
	if err != nil {
		return err
	}
	return ours(withPods(context.WithoutCancel(ctx), s, func(n *node) error {
		a, err := oneApp(n, id, x.app)
		if err != nil {
			return err
		}
		x.term.tty, x.term.interactive = a.TTY, a.Stdin && !x.mute
		return x.join(ctx, n.engine, a, keys, to)
	}))
}

// join shows the app until it ends or is left; the error has its exit code.
func (x *attachment) join(ctx context.Context, e *stage0.Engine, a pod.App, keys []byte, to streams) error {
	interrupted := ctx
	ctx = context.WithoutCancel(ctx)
	watch, leave := context.WithCancel(ctx)
	defer leave()
	var left atomic.Bool
	var signalled atomic.Int32
	defer onSignal(interrupted, func(sig syscall.Signal) {
		signalled.Store(int32(sig))
		leave()
	})()
	s, err := newSession(to, x.term, keys, func(w terminal.Wish) {
		if w == terminal.Kill {
			if err := e.StopPod(ctx, a.PodID); err != nil {
				warn(err, "stop the pod")
			}
			return
		}
		left.Store(true)
		leave()
	})
	defer s.end()
	if err != nil {
		return err
	}
	err = x.show(watch, e, a, s)
	s.end()
	switch {
	case left.Load():
		return nil
	case signalled.Load() != 0:
		return ended(signalExit + int(signalled.Load()))
	case err != nil:
		return err
	}
	status, err := e.WaitApp(ctx, a.ID)
	if err != nil {
		return err
	}
	return ended(status.ExitCode)
}

func (x *attachment) show(ctx context.Context, e *stage0.Engine, a pod.App, s *session) error {
	to := pipes.Client{In: s.input(x.term), Out: sink{Writer: s.to.out}, Err: sink{Writer: s.to.err}}
	if a.TTY {
		to.Err = nil
	}
	p, err := pipes.Join(to)
	if err != nil {
		return err
	}
	defer p.Close()
	go s.term.Guard(func() {
		s.resized(ctx, terminal.Size{}, func(size stage0.TerminalSize) { _ = e.Resize(ctx, a.ID, "", size) })
	})
	err = e.Attach(ctx, a.ID, stage0.AttachRequest{Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr})
	drain(ctx, p)
	return err
}
