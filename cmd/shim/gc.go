package main

import (
	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/pkg/stage0"
)

func gcCommand(s *settings) *cobra.Command {
	p := stage0.Periods{}
	c := &cobra.Command{
		Use:   "gc",
		Short: "Clean up after pods that ended and processes that died",
		Long: `Release what pods still hold whose supervisors died, sweep what was never
finished or was removed, and drop layers that no image and no app uses. The
server does the same by itself.

A pod that a person ran is marked once it has ended, and swept when its grace
period is over. --grace-period also shortens that of pods marked before: 0s
sweeps all of them. A prepared pod that nobody runs is swept when it is older
than --expire-prepared. Pods of kubelet are removed by kubelet alone.`,
		Example: `  stagelet gc
  stagelet gc --grace-period 0s --expire-prepared 1h
  stagelet gc --mark-only`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withNode(s, func(config *config, n *node) error {
				p.GraceForAll = c.Flags().Changed("grace-period")
				if !p.GraceForAll {
					p.Grace = config.grace()
				}
				return n.engine.GC(c.Context(), p)
			})
		},
	}
	c.Flags().DurationVar(&p.Grace, "grace-period", 0, "how long a pod that has ended is kept (default: gc.grace of the configuration)")
	c.Flags().DurationVar(&p.ExpirePrepared, "expire-prepared", stage0.DefaultExpirePrepared, "how long a prepared pod waits to be run")
	c.Flags().BoolVar(&p.MarkOnly, "mark-only", false, "mark, and delete nothing")
	return c
}
