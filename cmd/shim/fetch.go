package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/stage0"
)

func fetchCommand(s *settings) *cobra.Command {
	var options []string
	c := &cobra.Command{
		Use:   "fetch IMAGE...",
		Short: "Fetch images from registries",
		Long: `Fetch images from their registries, verify them, and store them. An image gets
its name only if a rule of this machine accepts it: one that nobody signed is
refused, unless an exception is written down for its name. A server that runs
on the same directories sees it at once.

What is there already is not fetched. A fetch that is interrupted goes on where
it was when it is run again within the hour. The ids of the images are printed.

--insecure-options switches safeguards off for this once, and is recorded with
the image: image takes what nobody signed, tls doesn't check the certificates
of registries, http doesn't ask them for TLS.`,
		Example: `  stagelet fetch registry.k8s.io/pause:3.10
  stagelet fetch quay.io/prometheus/busybox@sha256:…
  stagelet fetch --insecure-options=image docker.io/library/busybox`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			config, err := s.config()
			if err != nil {
				return err
			}
			off, err := parseInsecure(options)
			if err != nil {
				return err
			}
			return fetch(c.Context(), config, off, args, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	c.Flags().StringSliceVar(&options, "insecure-options", nil, "safeguards to switch off: image, tls, http")
	return c
}

func fetch(ctx context.Context, c *config, off switches, names []string, out, progress io.Writer) (err error) {
	refs := make([]image.Ref, len(names))
	for i, name := range names {
		if refs[i], err = fetchRef(name); err != nil {
			return err
		}
	}
	images, err := openImagesWith(c, off)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, images.Close()) }()
	puller := stage0.NewPuller(images, finder(c, off), off.list()...)
	for _, ref := range refs {
		bars := newBars(progress, ref.Familiar())
		r, err := puller.Pull(ctx, stage0.PullRequest{Ref: ref, Progress: bars.layer})
		bars.end()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s\t%s\n", r.ID, strings.Join(r.Tags, " "))
	}
	return nil
}
