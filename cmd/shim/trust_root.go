package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// rootSource is where "trust update-root" takes a trusted root from.
type rootSource struct {
	file             string
	repository, root string // of TUF; "": the public sigstore's
}

func trustRootCommand(s *settings) *cobra.Command {
	from := &rootSource{}
	c := &cobra.Command{
		Use:   "update-root [FILE]",
		Short: "Update the sigstore trusted root",
		Long: `Fetch the trusted_root.json of the public sigstore, which proves certificates
and log entries: its keys change every few years. It comes from sigstore's TUF
repository, whose metadata prove it, starting from a root that is built in; what
is altered, expired or older than the last time changes nothing.

--repository takes another repository, or a mirror of the public one: an http or
https URL, or a file URL where there is no network. A private one is believed by
the root.json that --repository-root names.

With FILE nothing is fetched: FILE is the trusted root. Whoever made it can vouch
for any identity, so take it from where you can check it.`,
		Example: `  stagelet trust update-root
  stagelet trust update-root --repository https://tuf.example.com --repository-root root.json
  stagelet trust update-root trusted_root.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				from.file = args[0]
			}
			config, err := s.config()
			if err != nil {
				return err
			}
			dirs, err := s.trustDirs()
			if err != nil {
				return err
			}
			data, err := from.read(c.Context(), filepath.Join(config.Root, "tuf"), c.InOrStdin())
			if err != nil {
				return err
			}
			path, err := trust.UpdateTrustedRoot(dirs[0], data)
			if err == nil {
				fmt.Fprintln(c.OutOrStdout(), path)
			}
			return err
		},
	}
	c.Flags().StringVar(&from.repository, "repository", "", "URL of a TUF repository (default the public sigstore's)")
	c.Flags().StringVar(&from.root, "repository-root", "", "root.json that the repository is believed by (default the public sigstore's)")
	return c
}

// read gets the trusted root.
func (r *rootSource) read(ctx context.Context, cache string, in io.Reader) ([]byte, error) {
	if r.file != "" {
		if r.repository+r.root != "" {
			return nil, errs.New("update trusted root", errs.Invalid, r.file, errors.New("it is either a file or a repository"))
		}
		return readAll(in, r.file)
	}
	repository := trust.RootRepository{URL: r.repository, Cache: cache, Fetch: fetchURL}
	if r.root != "" {
		root, err := readAll(in, r.root)
		if err != nil {
			return nil, err
		}
		repository.Root = root
	}
	return trust.FetchTrustedRoot(ctx, repository)
}
