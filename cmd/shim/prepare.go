package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/cmd/shim/internal/terminal"
)

func prepareCommand(s *settings) *cobra.Command {
	var p preparing
	c := &cobra.Command{
		Use:                   "prepare [FLAGS] IMAGE [FLAGS] [-- ARGS...] [--- IMAGE...]",
		DisableFlagsInUseLine: true,
		Short:                 "Prepare a pod of images, to be run later",
		Long: `Prepare a pod as "stagelet run" would run it, with the same images, flags and
arguments, and print its id: images are fetched and verified now, and kept for
the pod. "stagelet run-prepared" runs it. One that nobody runs is removed by
"stagelet rm", or by gc after --expire-prepared.`,
		Example: `  stagelet prepare --hostname=web registry.example.com/web:v1 -- --verbose
  stagelet prepare --pod-manifest=pod.yaml
  stagelet run-prepared $(stagelet prepare docker://busybox -- echo hello)`,
		RunE: func(c *cobra.Command, args []string) error {
			return p.run(c.Context(), s, commandLine{args, c.ArgsLenAtDash()}, streamsOf(c))
		},
	}
	p.register(c)
	p.term.register(c.Flags(), "app")
	outputFlag(c, &p.output)
	return c
}

// preparing is what the flags of prepare say.
type preparing struct {
	asking
	term   termFlags
	output form
}

func (p *preparing) run(ctx context.Context, s *settings, line commandLine, to streams) error {
	p.own = func(err error) error { return err }
	q, err := p.read(line)
	if err == nil && p.file == "" {
		err = p.term.only(len(q.apps))
	}
	if err != nil {
		return err
	}
	config, err := s.config()
	if err != nil {
		return err
	}
	return p.withEngine(config, to.err, func(n *node, b *bringer) error {
		plan, err := q.plan(ctx, config, n, b, to.err)
		if err != nil {
			return err
		}
		if err := p.term.fit(&plan, terminal.Size{}); err != nil {
			return err
		}
		p.term.once(&plan)
		id, err := n.engine.Prepare(ctx, plan)
		if err == nil {
			err = p.launched(ctx, n, id)
		}
		if err != nil {
			return err
		}
		return writePod(to.out, p.output, n, id)
	})
}

func runPreparedCommand(s *settings) *cobra.Command {
	var r runningPrepared
	c := &cobra.Command{
		Use:   "run-prepared POD",
		Short: "Run a pod that was prepared",
		Long: `Run a pod that "stagelet prepare" prepared, as "stagelet run" does: in the
foreground, or left running with --detach. It can be run once.

` + appExitText,
		Example: `  stagelet run-prepared 3f2a
  stagelet run-prepared -d 3f2a`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return r.run(c.Context(), s, args[0], streamsOf(c))
		},
	}
	c.Flags().BoolVarP(&r.detach, "detach", "d", false, "leave the pod running, and print its id")
	r.term.registerKeys(c.Flags())
	outputFlag(c, &r.output)
	return c
}

// runningPrepared is what the flags of run-prepared say.
type runningPrepared struct {
	detach bool
	term   termFlags
	output form
}

func (r *runningPrepared) run(ctx context.Context, s *settings, id string, to streams) error {
	keys, err := r.term.keys()
	if err != nil {
		return err
	}
	err = withPods(context.WithoutCancel(ctx), s, func(n *node) error {
		p, err := n.pod(id)
		if err != nil {
			return err
		}
		l, err := n.engine.RunPrepared(context.WithoutCancel(ctx), p.Pod.ID)
		if err != nil {
			return hintNetwork(err, "prepare it anew: with --net=host or --net=none, or run it with --network-default=bridge")
		}
		if err := unlessInterrupted(ctx, n, l.Pod); err != nil {
			return err
		}
		if r.detach {
			return leave(ctx, n, l, to.out, r.output)
		}
		return show(ctx, n.engine, l, to, terminal.Size{}, keys)
	})
	if r.detach {
		return err
	}
	return ours(err)
}
