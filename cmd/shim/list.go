package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// shortID is how much of an id a table shows.
const shortID = 12

func listCommand(s *settings) *cobra.Command {
	var output form
	var mine, quiet bool
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List pods and their apps",
		Long: `List the pods of this host and their apps, oldest first: those that people run
and those of kubelet, whether they run, are prepared, or have ended. They are
asked themselves: no server needs to run.

STATE is prepared, running, exited, or marked: it has ended, and is kept for the
grace period only.`,
		Example: `  stagelet list
  stagelet list --mine -o json
  stagelet rm $(stagelet list --mine --quiet)`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withPods(c.Context(), s, func(n *node) error {
				pods := n.pods()
				if mine {
					pods = n.engine.Pods(manifest.CreatorCLI)
				}
				rows := podRows(pods)
				if quiet {
					return writeIDs(c.OutOrStdout(), rows, func(r podRow) string { return r.ID })
				}
				return writeList(c.OutOrStdout(), output, rows, podTable(output))
			})
		},
	}
	outputFlag(c, &output)
	c.Flags().BoolVar(&mine, "mine", false, "leave out pods of kubelet")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "only whole ids, one on each line")
	c.MarkFlagsMutuallyExclusive("output", "quiet")
	return c
}

// writeIDs writes the ids of rows only, for other commands to take.
func writeIDs[R any](w io.Writer, rows []R, id func(R) string) error {
	for _, r := range rows {
		if _, err := fmt.Fprintln(w, id(r)); err != nil {
			return err
		}
	}
	return nil
}

type podRow struct {
	ID        string           `json:"id"`
	Namespace string           `json:"namespace,omitempty"`
	Name      string           `json:"name"`
	Creator   manifest.Creator `json:"creator"`
	State     pod.State        `json:"state"`
	PID       int              `json:"pid,omitempty"` // of the supervisor
	IPs       []string         `json:"ips,omitempty"`
	Networks  []networkRow     `json:"networks,omitempty"`
	CreatedAt time.Time        `json:"createdAt"`
	// StartedAt is when the first app was started, FinishedAt when the last one
	// ended; zero as long as it isn't so.
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	Apps       []appRow  `json:"apps"`
}

type networkRow struct {
	Name      string `json:"name"`
	Interface string `json:"interface"`
}

type appRow struct {
	ID     string          `json:"id"`
	Name   string          `json:"name"`
	Image  string          `json:"image"`
	Status manifest.Status `json:"status"`
}

func podRows(pods []*pod.Snapshot) []podRow {
	rows := make([]podRow, len(pods))
	for i, p := range pods {
		rows[i] = newPodRow(p)
	}
	return rows
}

func newPodRow(p *pod.Snapshot) podRow {
	r := podRow{
		ID: p.Pod.ID, Namespace: p.Pod.Namespace, Name: p.Pod.Name, Creator: p.Pod.Creator,
		State: p.State, PID: p.Supervisor, CreatedAt: time.Unix(0, p.Pod.CreatedAt).UTC(), Apps: []appRow{},
	}
	if p.Network != nil {
		r.IPs = p.Network.IPs
		for _, a := range p.Network.Attachments {
			r.Networks = append(r.Networks, networkRow{a.Network, a.Interface})
		}
	}
	ended := len(p.Apps) > 0 && p.State != pod.Running
	for _, a := range p.Apps {
		r.Apps = append(r.Apps, appRow{a.ID, a.Name, a.Image.Name, a.Status})
		if at := time.Unix(0, a.Status.StartedAt).UTC(); a.Status.StartedAt != 0 && (r.StartedAt.IsZero() || at.Before(r.StartedAt)) {
			r.StartedAt = at
		}
		if at := time.Unix(0, a.Status.FinishedAt).UTC(); ended && a.Status.FinishedAt != 0 && at.After(r.FinishedAt) {
			r.FinishedAt = at
		}
	}
	return r
}

// podTable writes a line for each app, and one for a pod that has none.
func podTable(f form) func(io.Writer, []podRow) {
	return func(w io.Writer, rows []podRow) {
		if f == formWide {
			fmt.Fprintln(w, "POD\tNAMESPACE\tNAME\tCREATOR\tSTATE\tADDRESS\tCREATED\tAPP ID\tAPP\tAPP STATE\tSTARTED\tFINISHED\tIMAGE")
		} else {
			fmt.Fprintln(w, "POD\tNAME\tSTATE\tADDRESS\tAPP\tAPP STATE\tIMAGE\tAGE")
		}
		for _, p := range rows {
			line := p.line
			if f == formWide {
				line = p.wideLine
			}
			if len(p.Apps) == 0 {
				fmt.Fprintln(w, line(nil))
			}
			for i := range p.Apps {
				fmt.Fprintln(w, line(&p.Apps[i]))
			}
		}
	}
}

func (p *podRow) line(a *appRow) string {
	address := ""
	if len(p.IPs) > 0 {
		address = p.IPs[0]
	}
	app := "-\t-\t-"
	if a != nil {
		app = fmt.Sprintf("%s\t%s\t%s", a.Name, appState(a.Status), a.Image)
	}
	return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s", p.ID[:shortID], dash(p.Name), p.State, dash(address), app, age(p.CreatedAt))
}

func (p *podRow) wideLine(a *appRow) string {
	app := "-\t-\t-\t-\t-\t-"
	if a != nil {
		app = fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s", a.ID[:shortID], a.Name, appState(a.Status), instant(a.Status.StartedAt), instant(a.Status.FinishedAt), a.Image)
	}
	return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", p.ID, dash(p.Namespace), dash(p.Name), p.Creator, p.State,
		dash(strings.Join(p.IPs, ",")), p.CreatedAt.Format(time.RFC3339), app)
}

// instant is a time in ns since the Unix epoch, as a table has it.
func instant(ns int64) string {
	if ns == 0 {
		return "-"
	}
	return time.Unix(0, ns).UTC().Format(time.RFC3339)
}

func appState(s manifest.Status) string {
	if s.State == manifest.AppExited {
		return fmt.Sprintf("exited %d (%s)", s.ExitCode, s.Reason)
	}
	return string(s.State)
}
