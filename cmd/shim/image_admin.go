package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/archive"
	"github.com/stagelet/stagelet/pkg/image/store"
)

func imageTagCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "tag IMAGE NAME",
		Short: "Give an image one more name",
		Long: `Give an image one more name; an image that has the name loses it. Pods that use
the image by that name need a rule that accepts it under that name.`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			name, err := image.ParseTag(args[1])
			if err != nil {
				return err
			}
			return withImages(s, func(images *store.Store) error { return images.Tag(c.Context(), args[0], name) })
		},
	}
}

func imagePinCommand(s *settings, p store.Pinning) *cobra.Command {
	c := &cobra.Command{
		Use:   "pin IMAGE...",
		Short: "Keep images from kubelet's image collection",
		Long: `Keep images from being collected by kubelet, which removes those that no pod uses
when the disk fills up. Whoever removes one by name still does.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return withImages(s, func(images *store.Store) error {
				for _, ref := range args {
					if err := images.Pin(c.Context(), ref, p); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	if p == store.Unpinned {
		c.Use, c.Short = "unpin IMAGE...", "Give pinned images back to kubelet's image collection"
		c.Long = "Let kubelet collect images again that were pinned."
	}
	return c
}

func imageVerifyCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "verify [IMAGE...]",
		Short: "Read every byte of images and check it",
		Long: `Read every byte of images, all of them when none is named, and check that it is
what was verified when the image came. The image's id covers its configuration,
that names each layer by the digest of its tar; the tar is put together again
from the layer's files, and digested. The exit code is 1 when something is
damaged: remove the image then, and fetch it again.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			return withImages(s, func(images *store.Store) error {
				return verifyImages(c.Context(), images, args, c.OutOrStdout())
			})
		},
	}
}

func verifyImages(ctx context.Context, images *store.Store, refs []string, out io.Writer) error {
	records, err := chosen(images, refs)
	if err != nil {
		return err
	}
	damaged := 0
	for _, r := range records {
		bad := false
		fmt.Fprintf(out, "%s %s\n", r.ID.Encoded()[:shortID], title(r))
		err := images.Verify(ctx, r, func(p store.Part) {
			what := fmt.Sprintf("  %-13s %s", p.What, p.Digest)
			switch {
			case p.Err != nil:
				bad = true
				fmt.Fprintf(out, "%s DAMAGED: %v\n", what, p.Err)
			case p.Proof != "":
				fmt.Fprintf(out, "%s ok, by %s\n", what, p.Proof)
			default:
				fmt.Fprintf(out, "%s ok\n", what)
			}
		})
		if err != nil {
			return err
		}
		if bad {
			damaged++
		}
	}
	if damaged > 0 {
		return errs.New("verify images", errs.Corrupt, "", fmt.Errorf("%d of %d damaged", damaged, len(records)))
	}
	return nil
}

func title(r *image.Record) string {
	if len(r.Tags) > 0 {
		return r.Tags[0]
	}
	if len(r.RepoDigests) > 0 {
		return r.RepoDigests[0]
	}
	return "<none>"
}

func imageGCCommand(s *settings) *cobra.Command {
	var interrupted bool
	c := &cobra.Command{
		Use:   "gc",
		Short: "Drop what no image needs",
		Long: `Drop layers and documents that no image and no app needs, and what processes
that died left. What interrupted fetches have got is kept for an hour, for the
next one to go on with, unless --interrupted is given.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withImages(s, func(images *store.Store) error {
				if interrupted {
					return images.Forget(c.Context())
				}
				return images.GC(c.Context())
			})
		},
	}
	c.Flags().BoolVar(&interrupted, "interrupted", false, "also drop what interrupted fetches have got")
	return c
}

func imageManifestCommand(s *settings) *cobra.Command {
	var config, oci bool
	c := &cobra.Command{
		Use:   "cat-manifest IMAGE",
		Short: "Print the manifest of an image, to the byte",
		Long: `Print the manifest of an image, to the byte: that of the ACI, if it was made
from one.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return withImages(s, func(images *store.Store) error {
				r, err := images.Resolve(args[0])
				if err != nil {
					return err
				}
				read := images.Manifest
				switch {
				case config:
					read = images.ConfigBytes
				case r.AppC != nil && !oci:
					read = images.AppCManifest
				}
				data, err := read(r)
				if err != nil {
					return err
				}
				_, err = c.OutOrStdout().Write(data)
				return err
			})
		},
	}
	c.Flags().BoolVar(&config, "configuration", false, "print the configuration instead")
	c.Flags().BoolVar(&oci, "oci", false, "print the OCI manifest, also of what was made from an ACI")
	c.MarkFlagsMutuallyExclusive("configuration", "oci")
	return c
}

func imageExportCommand(s *settings) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "export IMAGE...",
		Short: "Write images as a docker save and OCI archive",
		Long: `Write images as one tar that "docker load", "stagelet image import" and readers
of OCI image layouts take. The layers in it are the very bytes that the image's
configuration names by their diff ids, so the image keeps its id. An image named
by a tag has that tag in the archive, any other all of its tags.`,
		Example: "  stagelet image export busybox -o busybox.tar",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return withImages(s, func(images *store.Store) error {
				return exportImages(c.Context(), images, args, file, c.OutOrStdout())
			})
		},
	}
	archiveFlag(c, &file)
	return c
}

func exportImages(ctx context.Context, images *store.Store, refs []string, file string, out io.Writer) error {
	const op = "export images"
	exports, give, err := borrow(ctx, images, refs)
	if err != nil {
		return err
	}
	defer give()
	return writeArchive(op, file, out, func(w io.Writer) error { return archive.Write(ctx, images, w, exports...) })
}

// borrow finds images and keeps them until give is called.
func borrow(ctx context.Context, images *store.Store, refs []string) (exports []archive.Export, give func(), err error) {
	var given []func()
	give = func() {
		for _, g := range given {
			g()
		}
	}
	for _, ref := range refs {
		r, err := images.Resolve(ref)
		if err != nil {
			give()
			return nil, nil, err
		}
		back, err := images.Borrow(ctx, r)
		if err != nil {
			give()
			return nil, nil, err
		}
		given = append(given, back)
		names, err := exportNames(r, ref)
		if err != nil {
			give()
			return nil, nil, err
		}
		at := slices.IndexFunc(exports, func(e archive.Export) bool { return e.Record.ID == r.ID })
		if at < 0 {
			exports = append(exports, archive.Export{Record: r, Names: names})
			continue
		}
		for _, n := range names {
			if !slices.ContainsFunc(exports[at].Names, func(o image.Ref) bool { return o.String() == n.String() }) {
				exports[at].Names = append(exports[at].Names, n)
			}
		}
	}
	return exports, give, nil
}

// exportNames gives the tag that ref is, else all tags of the image.
func exportNames(r *image.Record, ref string) (names []image.Ref, err error) {
	if tag, is := r.Tag(ref); is {
		return []image.Ref{tag}, nil
	}
	for _, tag := range r.Tags {
		name, err := image.ParseTag(tag)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}
