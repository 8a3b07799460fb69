package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/cmd/shim/internal/terminal"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/outfile"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

func runCommand(s *settings) *cobra.Command {
	var r running
	c := &cobra.Command{
		Use:                   "run [FLAGS] IMAGE [FLAGS] [-- ARGS...] [--- IMAGE...]",
		DisableFlagsInUseLine: true,
		Short:                 "Run a pod of images",
		Long: `Run a pod: one app for each IMAGE. Images are fetched if they aren't there,
and verified as "stagelet fetch" does: by name, id, file or URL.

Flags before the first image are the pod's, or count for all apps; flags behind
an image are that app's, and stronger. Behind "--" stand the arguments of an
app, and "---" begins the next one.

The apps' output is shown until the last of them has ended; that of several has
each app's name before each line. Then the pod stays listed, with its logs,
until "stagelet rm" or gc removes it; with --rm nothing stays. ^C, or SIGTERM,
asks the apps to end, and once more ends them by force. With -it the app has a
terminal: all keys are its own, but ^] three times within a second ends the pod
by force, and --detach-keys leaves it running.

` + appExitText + `
Of several apps it is the first one's, in the order of the command line, that is
not 0. With --detach it is the one of the command itself.`,
		Example: `  stagelet run docker://busybox -- echo hello
  stagelet run --rm -it registry.example.com/debian:12 -- bash
  stagelet run -d --port=8080:80 --memory=256Mi registry.example.com/web:v1
  stagelet run --volume=data,kind=empty \
    example.com/db --mount=volume=data,target=/var/lib/db --- \
    example.com/backup --mount=volume=data,target=/data -- --every=1h
  stagelet run --pod-manifest=pod.yaml`,
		RunE: func(c *cobra.Command, args []string) error {
			return r.run(c.Context(), s, commandLine{args, c.ArgsLenAtDash()}, streamsOf(c))
		},
	}
	r.register(c)
	c.Flags().BoolVarP(&r.detach, "detach", "d", false, "leave the pod running, and print its id")
	r.term.register(c.Flags(), "app")
	r.term.registerKeys(c.Flags())
	outputFlag(c, &r.output)
	return c
}

// commandLine is what follows the flags; dash is where "--" stood in it, -1
// for nowhere.
type commandLine struct {
	args []string
	dash int
}

// running is what the flags of run say.
type running struct {
	asking
	detach bool
	term   termFlags
	output form
}

func (r *running) run(ctx context.Context, s *settings, line commandLine, to streams) error {
	r.own = ours
	if r.detach {
		r.own = func(err error) error { return err }
	}
	q, err := r.read(line)
	if err == nil && r.file == "" {
		err = r.term.only(len(q.apps))
	}
	if err != nil {
		return err
	}
	keys, err := r.term.keys()
	if err != nil {
		return err
	}
	config, err := s.config()
	if err != nil {
		return err
	}
	return r.withEngine(config, to.err, func(n *node, b *bringer) error {
		plan, err := q.plan(ctx, config, n, b, to.err)
		if err != nil {
			return err
		}
		if err := portsFree(n, plan.Pod.Ports); err != nil {
			return r.own(err)
		}
		size := to.terminal().Size()
		if err := r.term.fit(&plan, size); err != nil {
			return err
		}
		if !r.detach {
			r.term.once(&plan)
		}
		l, err := n.engine.Launch(context.WithoutCancel(ctx), plan)
		if err == nil {
			err = r.launched(ctx, n, l.Pod)
		}
		switch {
		case err != nil:
			return r.own(hintNetwork(err, r.otherNetwork()))
		case r.detach:
			return leave(ctx, n, l, to.out, r.output)
		}
		return show(ctx, n.engine, l, to, size, keys)
	})
}

// otherNetwork says how the pod runs where no network is configured.
func (r *asking) otherNetwork() string {
	if r.file != "" {
		return "run it with --network-default=bridge"
	}
	return "run it with --network-default=bridge, --net=host or --net=none"
}

// launched goes on with what was launched, whoever interrupted that: the pod
// is taken back when its id can't be saved, or nobody wants it any more.
func (r *asking) launched(ctx context.Context, n *node, pod string) error {
	err := unlessInterrupted(ctx, n, pod)
	if err != nil {
		return err
	}
	if err = r.saveID(pod); err != nil {
		err = errors.Join(err, n.engine.RemovePod(context.WithoutCancel(ctx), pod))
	}
	return err
}

// unlessInterrupted takes a pod back that nobody wants any more.
func unlessInterrupted(ctx context.Context, n *node, pod string) error {
	if ctx.Err() == nil {
		return nil
	}
	return errors.Join(errs.Wrap("make pod", pod[:shortID], context.Cause(ctx)), n.engine.RemovePod(context.WithoutCancel(ctx), pod))
}

func (r *asking) saveID(id string) error {
	if r.idFile == "" {
		return nil
	}
	return errs.Wrap("save id of pod", r.idFile, outfile.Write(r.idFile, 0o644, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, id)
		return err
	}))
}

// leave starts all apps and prints the pod's id.
func leave(ctx context.Context, n *node, l stage0.Launched, out io.Writer, f form) error {
	if err := startAll(ctx, n.engine, l); err != nil {
		return errors.Join(err, n.engine.StopPod(context.WithoutCancel(ctx), l.Pod))
	}
	return writePod(out, f, n, l.Pod)
}

// writePod prints the id of a new pod, or all of it as -o asks.
func writePod(out io.Writer, f form, n *node, id string) error {
	p, err := n.engine.Pod(id)
	if err != nil {
		return err
	}
	if f == formTable || f == formWide {
		_, err := fmt.Fprintln(out, id)
		return err
	}
	return writeValue(out, f, newPodStatus(p), podDetails)
}

// startAll starts the apps of a pod in their order, those of Init each once
// the one before has ended well, and all once they can ask who they are.
func startAll(ctx context.Context, e *stage0.Engine, l stage0.Launched) error {
	if err := awaitMetadata(ctx, e, l.Pod); err != nil {
		return err
	}
	for _, id := range l.Init {
		if err := e.StartApp(ctx, id); err != nil {
			return err
		}
		status, err := e.WaitApp(ctx, id)
		if err != nil {
			return err
		}
		if status.ExitCode != 0 {
			return appExit{status.ExitCode, errs.New("initialise pod", errs.Precondition, l.Pod, exitReason(status))}
		}
	}
	for _, id := range l.Apps {
		if err := e.StartApp(ctx, id); err != nil {
			return err
		}
	}
	e.FinishLaunch(l)
	return nil
}

func exitReason(s manifest.Status) error {
	return errors.New("an app that has to end well before the others start " + appState(s))
}

// streams are those of the command.
type streams struct {
	in       *os.File
	out, err io.Writer
}

func streamsOf(c *cobra.Command) streams {
	in, _ := c.InOrStdin().(*os.File)
	return streams{in, c.OutOrStdout(), c.ErrOrStderr()}
}

// terminal is who sits at standard input; nil when that is no terminal.
func (s streams) terminal() *terminal.Terminal { return terminal.Of(s.in) }
