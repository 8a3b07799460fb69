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
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List pods and their apps",
		Long:    "List the pods of this host and their apps, read from disk: no server needs to run.",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := s.config()
			if err != nil {
				return err
			}
			n, err := openNode(config)
			if err != nil {
				return err
			}
			pods, err := n.engine.PodsOnDisk()
			if cerr := n.close(); err == nil {
				err = cerr
			}
			if err != nil {
				return err
			}
			return writeList(c.OutOrStdout(), output, podRows(pods), podTable(output))
		},
	}
	outputFlag(c, &output)
	return c
}

type podRow struct {
	ID        string           `json:"id"`
	Namespace string           `json:"namespace,omitempty"`
	Name      string           `json:"name"`
	Creator   manifest.Creator `json:"creator"`
	State     pod.State        `json:"state"`
	IPs       []string         `json:"ips,omitempty"`
	CreatedAt time.Time        `json:"createdAt"`
	Apps      []appRow         `json:"apps,omitempty"`
}

type appRow struct {
	ID     string          `json:"id"`
	Name   string          `json:"name"`
	Image  string          `json:"image"`
	Status manifest.Status `json:"status"`
}

func podRows(pods []*pod.Snapshot) (rows []podRow) {
	for _, p := range pods {
		r := podRow{
			ID: p.Pod.ID, Namespace: p.Pod.Namespace, Name: p.Pod.Name, Creator: p.Pod.Creator,
			State: p.State, CreatedAt: time.Unix(0, p.Pod.CreatedAt).UTC(),
		}
		if p.Network != nil {
			r.IPs = p.Network.IPs
		}
		for _, a := range p.Apps {
			r.Apps = append(r.Apps, appRow{a.ID, a.Name, a.Image.Name, a.Status})
		}
		rows = append(rows, r)
	}
	return rows
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
