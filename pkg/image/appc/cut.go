package appc

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"io"
	"path"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// whitelist is what is left of an image and its dependencies (ace.md,
// "Filesystem Setup"): paths as they are named in layers, and the directories
// on the way to those of them that are there.
type whitelist struct {
	paths map[string]bool
	above map[string]bool
}

func newWhitelist(paths []string) *whitelist {
	l := &whitelist{paths: map[string]bool{}, above: map[string]bool{"": true}}
	for _, p := range paths {
		l.paths[path.Clean(p)[1:]] = true
	}
	return l
}

// leaves says whether an entry is left.
func (l *whitelist) leaves(name string, h *tar.Header) bool {
	return l.paths[name] || h.Typeflag == tar.TypeDir && l.above[name]
}

// lead notes the directories on the way to name.
func (l *whitelist) lead(name string) {
	for name != "" && !l.above[parentOf(name)] {
		name = parentOf(name)
		l.above[name] = true
	}
}

func parentOf(name string) string { return path.Dir("/" + name)[1:] }

// apply gives what the list leaves of trees, lowest first. One that nothing is
// left of is dropped.
func (l *whitelist) apply(ctx context.Context, trees []tree) ([]tree, error) {
	cuts := make([]*cut, len(trees))
	for i, t := range trees {
		cuts[i] = &cut{list: l, from: t, files: map[string]string{}, moved: map[string]string{}}
		if err := t.each(ctx, cuts[i].look); err != nil {
			return nil, err
		}
	}
	var left []tree
	for _, c := range cuts {
		sum, size := sha256.New(), &counted{}
		kept, err := c.copy(ctx, io.MultiWriter(sum, size))
		if err != nil {
			return nil, err
		}
		if kept > 0 {
			left = append(left, tree{diffID: digest.NewDigest(digest.SHA256, sum), size: size.n, write: c.write})
		}
	}
	return left, nil
}

// cut is what a list leaves of one tree.
type cut struct {
	list *whitelist
	from tree
	// files are the files that hard links are further names of.
	files     map[string]string
	linkBytes int
	// moved are the files that the list doesn't leave, while it does a hard link
	// to them: the first of those, which takes the file's place.
	moved map[string]string
}

// maxLinkBytes bounds the names that are remembered of a tree's hard links, in
// bytes.
const maxLinkBytes = 64 << 20

// look notes one entry.
func (c *cut) look(name string, h *tar.Header, _ io.Reader) error {
	left := c.list.paths[name]
	if left {
		c.list.lead(name)
	}
	if h.Typeflag != tar.TypeLink {
		return nil
	}
	if c.linkBytes += len(name) + len(h.Linkname); c.linkBytes > maxLinkBytes {
		return image.Refuse(op, image.TooLarge, name, "the names of its hard links have more than %d bytes", maxLinkBytes)
	}
	file := h.Linkname
	if further, is := c.files[file]; is {
		file = further
	}
	c.files[name] = file
	if left && !c.list.paths[file] && c.moved[file] == "" {
		c.moved[file] = name
	}
	return nil
}

func (c *cut) write(ctx context.Context, w io.Writer) error {
	_, err := c.copy(ctx, w)
	return err
}

// copy writes what is left, and says how many entries that is.
func (c *cut) copy(ctx context.Context, w io.Writer) (kept int, err error) {
	out := tar.NewWriter(w)
	moved := 0
	err = c.from.each(ctx, func(name string, h *tar.Header, content io.Reader) error {
		to := headerAs(name, h)
		switch {
		case h.Typeflag == tar.TypeLink:
			file := c.files[name]
			if !c.list.paths[name] || c.moved[file] == name {
				return nil
			}
			to.Linkname = file
			if instead := c.moved[file]; instead != "" {
				to.Linkname = instead
			}
		case c.list.leaves(name, h):
		case c.moved[name] != "":
			to = headerAs(c.moved[name], h)
			moved++
		default:
			return nil
		}
		kept++
		return writeEntry(out, to, content)
	})
	if err == nil && moved < len(c.moved) {
		err = image.Refuse(op, image.BadLink, "ACI", "a hard link to a file that is not in it")
	}
	if err != nil {
		return 0, err
	}
	return kept, errs.Wrap(op, "ACI", out.Close())
}
