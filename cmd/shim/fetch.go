package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

func fetchCommand(s *settings) *cobra.Command {
	var from bringFlags
	var output form
	c := &cobra.Command{
		Use:   "fetch IMAGE...",
		Short: "Fetch images, verify them, and store them",
		Long: `Fetch images, verify them, and store them. An image gets its name only if a
rule of this machine accepts it: one that nobody signed is refused, unless an
exception is written down for its name. A server that runs on the same
directories sees it at once.

IMAGE is
  docker://NAME, oci://NAME  an image of a registry
  appc://NAME                an AppC image, where the web pages of NAME say that
                             it is; NAME may have labels: NAME:v1,os=linux
  NAME                       an image of a registry, or of AppC where the host
                             of NAME speaks no registry protocol
  PATH                       a file, with / or . at its beginning, or one that is
                             there: an ACI, what "docker save" wrote, an OCI
                             archive; its signature is looked for beside it, as
                             PATH.asc
  https://HOST/FILE          such a file, with its signature beside it
  sha256:…, sha512-…         an id, or the beginning of one, of what is here

What an ACI depends on is fetched too, each image with its own signature. A
signature is fetched first: of an image that nobody could accept, nothing is.

Layers that are there already are not fetched. A fetch that is interrupted goes
on where it was when it is run again within the hour. The ids of the images are
printed.

--insecure-options switches safeguards off for this once, and is recorded with
the image: image takes what nobody signed, tls doesn't check the certificates
of servers, http doesn't ask them for TLS.`,
		Example: `  stagelet fetch registry.k8s.io/pause:3.10
  stagelet fetch quay.io/prometheus/busybox@sha256:…
  stagelet fetch --insecure-options=image docker://busybox`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			config, err := s.config()
			if err != nil {
				return err
			}
			records, err := fetch(c.Context(), config, from, args, c.ErrOrStderr())
			if err != nil && len(records) == 0 {
				return err
			}
			if output == "" {
				return errors.Join(err, writeImported(c.OutOrStdout(), records))
			}
			return errors.Join(err, writeList(c.OutOrStdout(), output, imageRows(records), imageTable(output)))
		},
	}
	from.register(c.Flags(), pullAlways)
	c.Flags().VarP(&output, "output", "o", "what to print of the images, as image list does (default: ids and names)")
	return c
}

// fetch brings all that is named, and gives what there was before an error.
func fetch(ctx context.Context, c *config, from bringFlags, names []string, progress io.Writer) (records []*image.Record, err error) {
	off, err := from.switches()
	if err != nil {
		return nil, err
	}
	images, err := openImagesWith(c, off)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, images.Close()) }()
	b, err := from.open(c, images, progress)
	if err != nil {
		return nil, err
	}
	if from.signature != "" && len(names) > 1 {
		return nil, errs.New("check flags", errs.Invalid, "--signature", errors.New("it is for one image: name one"))
	}
	for _, name := range names {
		all, err := b.bring(ctx, name)
		if err != nil {
			return records, err
		}
		for _, found := range all {
			records = append(records, found.Record)
		}
	}
	return records, nil
}
