// Stagelet-stage1 is the supervisor of one pod. stage0 starts it; it is of no
// use to people but for its version.
//
//	stagelet-stage1 run <pod directory> <run-time directory>
//	stagelet-stage1 init
//	stagelet-stage1 version
//
// The Go runtime is not to look how many processors its cgroup has: it is
// given one, by GOMAXPROCS.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"fmt"
	"os"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/supervisor"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// commit is set by the linker.
var commit = "unknown" //nolint:gochecknoglobals // the linker has no other place

const usage = `usage: stagelet-stage1 run <pod directory> <run-time directory>
       stagelet-stage1 init
       stagelet-stage1 version`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "stagelet-stage1:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "run":
		return supervisor.Run(manifest.Dir(args[1]), manifest.RunDir(args[2]))
	case len(args) == 1 && args[0] == "init":
		return supervisor.Init()
	case len(args) == 1 && args[0] == "version":
		fmt.Printf("stagelet-stage1 %s (protocol %d.%d)\n", commit, wire.Major, wire.Minor)
		return nil
	}
	return fmt.Errorf("%s", usage)
}
