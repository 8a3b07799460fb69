package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func rmCommand(s *settings) *cobra.Command {
	var force bool
	pods := &podArgs{}
	c := &cobra.Command{
		Use:     "rm {POD... | --uuid-file FILE}",
		Aliases: []string{"remove"},
		Short:   "Remove pods that have ended, with all they wrote",
		Long: `Remove pods that people made, once they have ended or before they are run, with
their logs and all that their apps wrote. gc does so by itself after a grace
period. Pods of kubelet are kubelet's to remove.`,
		Example: `  stagelet rm 3f2a
  stagelet rm --force $(stagelet list --mine --quiet)`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			return pods.eachPod(c, s, args, func(n *node, p *pod.Snapshot) error {
				if p.State == pod.Running && p.Pod.Creator == manifest.CreatorCLI && !force {
					return errs.New("remove pod", errs.Precondition, p.Pod.ID,
						errors.New(`it runs: stop it first with "stagelet stop", or use --force`))
				}
				return n.engine.RemovePodOf(c.Context(), manifest.CreatorCLI, p.Pod.ID)
			})
		},
	}
	pods.register(c)
	c.Flags().BoolVarP(&force, "force", "f", false, "kill pods that run")
	return c
}
