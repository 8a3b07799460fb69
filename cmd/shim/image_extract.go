package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image/layer"
	"github.com/stagelet/stagelet/pkg/image/store"
)

func imageExtractCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:     "extract IMAGE DIR",
		Aliases: []string{"render"},
		Short:   "Write the root file system of an image into a directory",
		Long: `Write the root file system that an app of the image sees into DIR, which must not
exist, or be empty: files with their owners, modes, times and attributes. DIR is
there whole or not at all.`,
		Example: "  stagelet image extract busybox /srv/rootfs",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return withImages(s, func(images *store.Store) error {
				return extractImage(c.Context(), images, args[0], args[1])
			})
		},
	}
}

func extractImage(ctx context.Context, images *store.Store, ref, dir string) (err error) {
	const op = "extract image"
	r, err := images.Resolve(ref)
	if err != nil {
		return err
	}
	give, err := images.Borrow(ctx, r)
	if err != nil {
		return err
	}
	defer give()
	if dir, err = filepath.Abs(dir); err != nil {
		return errs.Wrap(op, dir, err)
	}
	if entries, err := os.ReadDir(dir); len(entries) > 0 {
		return errs.New(op, errs.Exists, dir, errors.New("the directory is not empty: name another"))
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errs.Wrap(op, dir, err)
	}
	paths, err := images.LayerPaths(r)
	if err != nil {
		return err
	}
	trees := make([]string, len(paths))
	for i, p := range paths {
		trees[i] = p.Path
	}
	half := atomicfile.TempName(dir)
	defer func() { err = errors.Join(err, sys.RemoveTree(half)) }()
	flat, w := io.Pipe()
	var flattening sync.WaitGroup
	flattening.Go(func() { w.CloseWithError(layer.Flatten(ctx, trees, layer.Owners{}, w)) })
	defer flattening.Wait() // it reads what give gives back
	if _, err := layer.Unpack(ctx, half, flat, layer.Want{}); err != nil {
		return errs.Wrap(op, dir, err)
	}
	return errs.Wrap(op, dir, syscall.Rename(layer.Tree(half), dir)) // that of os takes no empty directory
}
