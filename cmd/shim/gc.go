package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/pkg/stage0"
)

func gcCommand(s *settings) *cobra.Command {
	var grace time.Duration
	c := &cobra.Command{
		Use:   "gc",
		Short: "Clean up after pods that ended and processes that died",
		Long: `Release what pods still hold whose supervisors died, sweep what was never
finished or was removed, and drop layers that no image and no app uses. Pods
that a person ran are swept once they have ended for the grace period; pods of
kubelet are removed by kubelet alone. The server does the same by itself.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := s.config()
			if err != nil {
				return err
			}
			n, err := openNode(config)
			if err != nil {
				return err
			}
			if !c.Flags().Changed("grace-period") {
				grace = config.grace()
			}
			err = n.engine.GC(c.Context(), stage0.Periods{Grace: grace, ExpirePrepared: stage0.DefaultExpirePrepared})
			if cerr := n.close(); err == nil {
				err = cerr
			}
			return err
		},
	}
	c.Flags().DurationVar(&grace, "grace-period", 0, "how long an ended pod is kept (default: gc.grace of the configuration)")
	return c
}
