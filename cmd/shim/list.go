package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// shortID is how much of an id a table shows.
const shortID = 12

func listCommand(s *settings) *cobra.Command {
	var output string
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
			return writeList(c.OutOrStdout(), output, podRows(pods), podTable)
		},
	}
	outputFlag(c, &output)
	return c
}

func outputFlag(c *cobra.Command, output *string) {
	c.Flags().StringVarP(output, "output", "o", "table", "table or json")
}

// writeList writes rows as -o asks.
func writeList[T any](w io.Writer, output string, rows []T, table func(io.Writer, []T)) error {
	switch output {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		if rows == nil {
			rows = []T{}
		}
		return e.Encode(rows)
	case "table":
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		table(t, rows)
		return t.Flush()
	}
	return errs.New("write list", errs.Invalid, output, fmt.Errorf("-o takes table or json"))
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

func podTable(w io.Writer, rows []podRow) {
	fmt.Fprintln(w, "POD\tNAME\tSTATE\tADDRESS\tAPP\tAPP STATE\tIMAGE\tAGE")
	for _, p := range rows {
		address := "-"
		if len(p.IPs) > 0 {
			address = p.IPs[0]
		}
		head := fmt.Sprintf("%s\t%s\t%s\t%s", p.ID[:shortID], p.Name, p.State, address)
		age := time.Since(p.CreatedAt).Round(time.Second)
		if len(p.Apps) == 0 {
			fmt.Fprintf(w, "%s\t-\t-\t-\t%s\n", head, age)
		}
		for _, a := range p.Apps {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", head, a.Name, appState(a.Status), a.Image, age)
			head = "\t\t\t"
		}
	}
}

func appState(s manifest.Status) string {
	if s.State == manifest.AppExited {
		return fmt.Sprintf("exited %d (%s)", s.ExitCode, s.Reason)
	}
	return string(s.State)
}
