package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/pkg/cri"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// release is the version of this source; commit is set by the linker (see the
// Makefile).
const release = "0.1.0"

var commit = "unknown" //nolint:gochecknoglobals // the linker has no other place

// version is what kubelet parses: it begins with major.minor.patch.
func version() string { return release + "+" + commit }

// versions are those of all that others have to agree with.
type versions struct {
	Stagelet string `json:"stagelet"`
	CRI      string `json:"cri"`    // of the Container Runtime Interface
	AppC     string `json:"appc"`   // of the App Container specification
	Stage1   string `json:"stage1"` // of the protocol between stagelet and supervisors
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func versionCommand() *cobra.Command {
	var output form
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of the program and of what it speaks",
		Long: `Print the version of this program, and those of the interfaces that it speaks:
CRI with kubelet, AppC images, the stage1 protocol with the supervisors of pods.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v := versions{
				Stagelet: version(), CRI: cri.RuntimeAPIVersion, AppC: appc.SpecVersion,
				Stage1: fmt.Sprintf("%d.%d", wire.Major, wire.Minor),
				Go:     runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
			}
			return writeValue(c.OutOrStdout(), output, v, versionTable)
		},
	}
	outputFlag(c, &output)
	return c
}

func versionTable(w io.Writer, v versions) {
	for _, line := range [][2]string{
		{"stagelet", v.Stagelet}, {"cri", v.CRI}, {"appc", v.AppC}, {"stage1", v.Stage1}, {"go", v.Go + " " + v.Platform},
	} {
		fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
	}
}
