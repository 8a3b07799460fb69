package main

import (
	"bufio"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/outfile"
)

func exportCommand(s *settings) *cobra.Command {
	var file, name string
	c := &cobra.Command{
		Use:   "export {POD | APP}",
		Short: "Write the root file system of an app as a tar",
		Long: `Write the root file system of an app as it stands, running or ended: its image,
and what the app changed in it, with owners, hard links and extended attributes.
Volumes are not in it. What an app that runs changes meanwhile is written as it
is met; stop it first to get one state.

The tar is a layer that makes an image by itself, and can be unpacked by tar.`,
		Example: `  stagelet export 3f2a -o web.tar
  stagelet export --app web 3f2a | tar -tv`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return withPods(c.Context(), s, func(n *node) error {
				a, err := oneApp(n, args[0], name)
				if err != nil {
					return err
				}
				return writeArchive("export app", file, c.OutOrStdout(), func(w io.Writer) error {
					return n.engine.ExportApp(c.Context(), a.ID, w)
				})
			})
		},
	}
	archiveFlag(c, &file)
	c.Flags().StringVar(&name, "app", "", "name of the app, of several in the pod")
	return c
}

func archiveFlag(c *cobra.Command, file *string) {
	c.Flags().StringVarP(file, "output", "o", "-", `file to write; "-": standard output`)
}

// writeArchive has an archive written to file, as outfile.Write does it, or to
// out where file is "-".
func writeArchive(op, file string, out io.Writer, write func(io.Writer) error) error {
	buffered := func(to io.Writer) error {
		w := bufio.NewWriterSize(to, 1<<20)
		return errors.Join(write(w), w.Flush())
	}
	if file != "-" {
		return errs.Wrap("write", file, outfile.Write(file, 0o644, buffered))
	}
	if isTerminal(out) {
		return errs.New(op, errs.Invalid, "", errors.New("an archive is nothing for a terminal: name a file with -o"))
	}
	return buffered(out)
}
