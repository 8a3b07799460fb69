// Command busybox-image writes the archive of an image made of the machine's
// own busybox to standard output, as "docker save" would.
//
//	busybox-image [-oci] NAME > FILE
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/stagelet/stagelet/internal/testutil/busybox"
)

func main() {
	oci := flag.Bool("oci", false, "write an OCI image layout instead")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: busybox-image [-oci] NAME > FILE")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	image := busybox.Image{Name: flag.Arg(0)}
	write := image.WriteDocker
	if *oci {
		write = image.WriteOCI
	}
	if err := write(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "busybox-image:", err)
		os.Exit(1)
	}
}
