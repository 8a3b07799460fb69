package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// stopGrace is how long the apps of a pod may take to end by themselves.
const stopGrace = 10 * time.Second

func stopCommand(s *settings) *cobra.Command {
	var force bool
	var signal string
	how := stage0.Stopping{}
	pods := &podArgs{}
	c := &cobra.Command{
		Use:   "stop {POD... | --uuid-file FILE}",
		Short: "Stop pods",
		Long: `Send each app of the pods its stop signal, or the one of --signal, SIGKILL to
what is left of it after the grace time, and end the pods. What they wrote, their
logs and their exit codes stay: see status, logs, export. A pod that has ended is
fine.

Kubelet starts a pod of its own again: delete that in Kubernetes. The ids of the
pods are printed as they end.`,
		Example: `  stagelet stop 3f2a
  stagelet stop --time 1m --uuid-file /run/web.uuid
  stagelet stop --signal INT 3f2a
  stagelet stop --force 3f2a 77c0`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) (err error) {
			if signal != "" {
				if how.Signal, err = stage0.ParseSignal(signal); err != nil {
					return err
				}
			}
			return pods.eachPod(c, s, args, func(n *node, p *pod.Snapshot) error {
				if force {
					return n.engine.StopPod(c.Context(), p.Pod.ID)
				}
				how := how
				if !c.Flags().Changed("time") && p.Pod.StopGrace > 0 {
					how.Grace = time.Duration(p.Pod.StopGrace) * time.Second
				}
				return n.engine.StopPodGently(c.Context(), p.Pod.ID, how)
			})
		},
	}
	pods.register(c)
	c.Flags().BoolVarP(&force, "force", "f", false, "kill at once")
	c.Flags().DurationVarP(&how.Grace, "time", "t", stopGrace, "grace time between the stop signal and SIGKILL, unless the pod has one of its own")
	c.Flags().StringVarP(&signal, "signal", "s", "", "signal that asks all apps to end, by name or number (default: each app's own)")
	c.MarkFlagsMutuallyExclusive("force", "time")
	c.MarkFlagsMutuallyExclusive("force", "signal")
	return c
}
