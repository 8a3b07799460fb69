package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func statusCommand(s *settings) *cobra.Command {
	var output form
	var wait bool
	var patience time.Duration
	pods := &podArgs{}
	c := &cobra.Command{
		Use:   "status {POD | --uuid-file FILE}",
		Short: "Show the state of a pod and what became of its apps",
		Long: `Show a pod's state, addresses and networks, the process id of its supervisor, and
for each app its state, exit code and times. POD is the pod's id, a beginning of
it that no other pod has, or its name. With -o json or yaml it is the whole
pod, as it was asked for, environments and all.

With --wait it is shown once the pod has ended. However the apps ended, the exit
code is 0: -o json has their exit codes. It is 1 when --timeout is over before.`,
		Example: `  stagelet status 3f2a
  stagelet status --wait --timeout 1m -o json 3f2a`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := pods.ids(args)
			if err != nil {
				return err
			}
			return withPods(c.Context(), s, func(n *node) error {
				for _, id := range ids {
					p, err := n.pod(id)
					if err == nil && wait {
						p, err = waitPod(c.Context(), n, p.Pod.ID, patience)
					}
					if err == nil {
						err = writeValue(c.OutOrStdout(), output, newPodStatus(p), podDetails)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	outputFlag(c, &output)
	pods.register(c)
	c.Flags().BoolVar(&wait, "wait", false, "wait until the pod has ended")
	c.Flags().DurationVar(&patience, "timeout", 0, "how long to wait at most, such as 30s; 0: for ever")
	return c
}

func waitPod(ctx context.Context, n *node, id string, patience time.Duration) (*pod.Snapshot, error) {
	if patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, patience,
			errs.New("wait", errs.Timeout, "", fmt.Errorf("it still runs after %s", patience)))
		defer cancel()
	}
	p, err := n.engine.WaitPod(ctx, id)
	if err != nil && ctx.Err() != nil {
		return nil, errs.Wrap("wait for pod", id, context.Cause(ctx))
	}
	return p, err
}

// podStatus is a pod with all that it was asked to be.
type podStatus struct {
	podRow
	Manifest podManifest `json:"manifest"`
}

type podManifest struct {
	Pod  *manifest.Pod   `json:"pod"`
	Apps []*manifest.App `json:"apps"`
}

func newPodStatus(p *pod.Snapshot) podStatus {
	m := podManifest{Pod: p.Pod, Apps: []*manifest.App{}}
	for _, a := range p.Apps {
		m.Apps = append(m.Apps, a.App)
	}
	return podStatus{newPodRow(p), m}
}

// podDetails is a pod as people read it.
func podDetails(w io.Writer, p podStatus) {
	line := func(what, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", what, value)
		}
	}
	moment := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.Format(time.RFC3339)
	}
	line("pod", p.ID)
	line("namespace", p.Namespace)
	line("name", p.Name)
	line("creator", string(p.Creator))
	line("state", string(p.State))
	line("created", moment(p.CreatedAt))
	line("started", moment(p.StartedAt))
	line("finished", moment(p.FinishedAt))
	if p.PID != 0 {
		line("pid", fmt.Sprint(p.PID))
	}
	line("addresses", strings.Join(p.IPs, " "))
	for _, n := range p.Networks {
		line("network", n.Name+" on "+n.Interface)
	}
	for _, a := range p.Apps {
		line("app", fmt.Sprintf("%s %s, %s, %s", a.ID[:shortID], a.Name, a.Image, appState(a.Status)))
		line("  started", strings.Trim(instant(a.Status.StartedAt), "-"))
		line("  finished", strings.Trim(instant(a.Status.FinishedAt), "-"))
		line("  message", image.Printable(a.Status.Message))
	}
}
