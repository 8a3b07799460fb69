package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/stage0"
)

func imageCommand(s *settings) *cobra.Command {
	c := &cobra.Command{
		Use:   "image",
		Short: "Work with the images of this host",
		Args:  cobra.NoArgs,
	}
	c.AddCommand(
		imageImportCommand(s), imageListCommand(s), imageInspectCommand(s), imageRemoveCommand(s), imageTagCommand(s),
		imagePinCommand(s, store.Pinned), imagePinCommand(s, store.Unpinned),
		imageVerifyCommand(s), imageGCCommand(s), imageExportCommand(s), imageExtractCommand(s), imageManifestCommand(s),
	)
	return c
}

func imageImportCommand(s *settings) *cobra.Command {
	var i importing
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Import an ACI, or a docker save or OCI archive",
		Long: `Import an App Container Image (ACI), the images of an archive made by "docker
save", or those of an OCI image layout packed as a tar: plain, or compressed by
gzip, zstd, xz or bzip2. "-" reads standard input. Every digest, size and diff
id is checked before an image gets its name; all images of the file are
imported, or none. What an ACI depends on has to be here already;
stagelet fetch looks for it.

Whoever may write this host's images may import: the verdict "local import" is
recorded with each image. If a signature lies beside FILE, as "gpg --armor
--detach-sign FILE" makes it, whoever made it has to be trusted with the names
of the images, and is recorded. The ids of the images are printed.`,
		Example: `  docker save busybox | stagelet image import -
  stagelet image import app.aci
  stagelet image import app.tar --name registry.example.com/app:v1
  stagelet image import app.tar --signature release/app.tar.asc`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return withImages(s, func(images *store.Store) error {
				return i.importArchive(c.Context(), images, args[0], c.OutOrStdout(), c.ErrOrStderr())
			})
		},
	}
	c.Flags().StringVar(&i.name, "name", "", "name of the image, instead of what the archive says; needed when it says none")
	c.Flags().StringVar(&i.signature, "signature", "", "detached OpenPGP signature of FILE (default FILE.asc, if it is there)")
	return c
}

func imageListCommand(s *settings) *cobra.Command {
	var output form
	var quiet bool
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List images",
		Long: `List the images of this host, a line for each name, with how each was verified.
With -o wide the rule that accepted it, and what safeguards were switched off.`,
		Example: `  stagelet image list -o wide
  stagelet image rm $(stagelet image list --quiet)`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withImages(s, func(images *store.Store) error {
				records, err := images.List()
				if err != nil {
					return err
				}
				if quiet {
					return writeIDs(c.OutOrStdout(), records, func(r *image.Record) string { return string(r.ID) })
				}
				return writeList(c.OutOrStdout(), output, imageRows(records), imageTable(output))
			})
		},
	}
	outputFlag(c, &output)
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "only whole ids, one on each line")
	c.MarkFlagsMutuallyExclusive("output", "quiet")
	return c
}

type imageRow struct {
	ID          image.Digest    `json:"id"`
	AppCID      string          `json:"appcID,omitempty"` // "sha512-…", of what was made from an ACI
	Tags        []string        `json:"tags"`
	RepoDigests []string        `json:"repoDigests,omitempty"`
	Size        int64           `json:"size"` // bytes, of the uncompressed layers
	Layers      []image.Layer   `json:"layers"`
	ImportedAt  time.Time       `json:"importedAt"`
	Pinned      bool            `json:"pinned,omitempty"`
	Insecure    []string        `json:"insecure,omitempty"`
	Verdict     image.Verdict   `json:"verdict"`
	Earlier     []image.Verdict `json:"earlier,omitempty"`
}

func imageRows(records []*image.Record) (rows []imageRow) {
	for _, r := range records {
		rows = append(rows, imageRow{r.ID, appcID(r), r.Tags, r.RepoDigests, r.Size, r.Layers, r.ImportedAt, r.Pinned, r.Insecure, r.Verdict, r.Earlier})
	}
	return rows
}

// appcID gives the id of the ACI that an image was made from, "" when it wasn't.
func appcID(r *image.Record) string {
	if r.AppC == nil {
		return ""
	}
	return appc.FormatID(r.AppC.ID)
}

// imageTable writes a line for each name of an image.
func imageTable(f form) func(io.Writer, []imageRow) {
	return func(w io.Writer, rows []imageRow) {
		if f == formWide {
			fmt.Fprintln(w, "IMAGE ID\tNAME\tSIZE\tLAYERS\tPINNED\tIMPORTED\tVERIFIED BY\tRULE\tINSECURE OPTIONS\tACI")
		} else {
			fmt.Fprintln(w, "IMAGE ID\tNAME\tSIZE\tLAYERS\tVERIFIED BY\tAGE")
		}
		for _, r := range rows {
			names := r.Tags
			if f == formWide {
				names = slices.Concat(r.Tags, r.RepoDigests)
			}
			if len(names) == 0 {
				names = []string{"<none>"}
			}
			size := float64(r.Size) / 1e6
			for _, name := range names {
				if f == formWide {
					fmt.Fprintf(w, "%s\t%s\t%.1f MB\t%d\t%t\t%s\t%s\t%s\t%s\t%s\n", r.ID, name, size, len(r.Layers), r.Pinned,
						r.ImportedAt.Format(time.RFC3339), r.Verdict.Kind, r.Verdict.Rule, dash(strings.Join(r.Insecure, ",")), dash(r.AppCID))
					continue
				}
				fmt.Fprintf(w, "%s\t%s\t%.1f MB\t%d\t%s\t%s\n", r.ID.Encoded()[:shortID], name, size, len(r.Layers), r.Verdict.Kind, age(r.ImportedAt))
			}
		}
	}
}

// imageDetails is all that is known of an image.
type imageDetails struct {
	imageRow
	Config any `json:"config"`
}

func imageInspectCommand(s *settings) *cobra.Command {
	var output form
	c := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Print all that is known of an image",
		Long: `Print an image's record and configuration. IMAGE is a name, an id, or a unique
beginning of one. As a table it is what image list says of it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return withImages(s, func(images *store.Store) error {
				r, err := images.Resolve(args[0])
				if err != nil {
					return err
				}
				d := imageDetails{imageRows([]*image.Record{r})[0], r.Config}
				return writeValue(c.OutOrStdout(), output, d, func(w io.Writer, d imageDetails) {
					imageTable(output)(w, []imageRow{d.imageRow})
				})
			})
		},
	}
	outputFlag(c, &output)
	output = formJSON
	c.Flags().Lookup("output").DefValue = string(formJSON)
	return c
}

func imageRemoveCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:     "rm IMAGE...",
		Aliases: []string{"remove"},
		Short:   "Remove images, or one of their names",
		Long: `Remove images: those that are named by their ids, with all of their names. Of an
image that has other names, too, only the name that was given is taken away.

What an app still uses of an image stays on disk until that app is gone. An image
that a prepared pod is going to be run with is not removed.`,
		Example: `  stagelet image rm registry.example.com/team/app:v1
  stagelet image rm 36b4a76a`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			config, err := s.config()
			if err != nil {
				return err
			}
			pods, err := stage0.OpenPods(config.Root, config.Run)
			if err != nil {
				return err
			}
			return withImages(s, func(images *store.Store) error {
				for _, ref := range args {
					if err := removeImage(c.Context(), images, pods, ref); err != nil {
						return err
					}
				}
				return images.GC(c.Context())
			})
		},
	}
}

// removeImage removes the image that ref means, or only the name that ref is
// when it has others.
func removeImage(ctx context.Context, images *store.Store, pods *pod.Store, ref string) error {
	r, err := images.Resolve(ref) // Remove itself is content
	if err != nil {
		return err
	}
	if tag, is := r.Tag(ref); is && len(r.Tags) > 1 {
		return images.Untag(ctx, tag)
	}
	return stage0.RemoveImage(images, pods, ref)
}
