package appc

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

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

// parentOf gives the directory that a clean name is in; "" is the root, and in
// itself.
func parentOf(name string) string { return name[:max(0, strings.LastIndexByte(name, '/'))] }

// apply gives what the list leaves of trees, lowest first. One that nothing is
// left of is dropped.
func (l *whitelist) apply(ctx context.Context, trees []tree) ([]tree, error) {
	cuts := make([]*cut, len(trees))
	for i, t := range trees {
		cuts[i] = &cut{
			list: l, from: t, files: map[string]string{}, moved: map[string]string{},
			entries: map[string]*tar.Header{}, implied: map[string]bool{},
		}
		if err := t.each(ctx, cuts[i].look); err != nil {
			return nil, err
		}
	}
	l.complete(cuts)
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

// complete gives an entry to directories that are left, but are in their tree
// only because something lies in them that may be cut off. They look as they do
// below.
func (l *whitelist) complete(cuts []*cut) {
	looks := map[string]*tar.Header{}
	for _, c := range cuts {
		for _, name := range slices.Sorted(maps.Keys(c.implied)) {
			if c.entries[name] != nil {
				continue
			}
			h := looks[name]
			if h == nil || h.Typeflag != tar.TypeDir {
				h = &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}
			}
			c.entries[name] = headerAs(name, h)
			c.missing = append(c.missing, c.entries[name])
			l.lead(name)
		}
		maps.Copy(looks, c.entries)
	}
}

// cut is what a list leaves of one tree.
type cut struct {
	list *whitelist
	from tree
	// files are the files that hard links are further names of.
	files map[string]string
	// moved are the files that the list doesn't leave, while it does a hard link
	// to them: the first of those, which takes the file's place.
	moved map[string]string
	// entries are those of listed paths, of what isn't a directory the type
	// alone; implied are listed directories that something lies in.
	entries map[string]*tar.Header
	implied map[string]bool
	// missing are directories that get an entry.
	missing []*tar.Header

	remembered int // bytes
}

// maxRemembered bounds what is remembered of a tree's entries, in bytes.
const maxRemembered = 64 << 20

// remember counts what is remembered.
func (c *cut) remember(name string, all ...string) error {
	for _, s := range all {
		c.remembered += len(s)
	}
	if c.remembered > maxRemembered {
		return image.Refuse(op, image.TooLarge, name, "its directories and hard links have more than %d bytes of names and attributes", maxRemembered)
	}
	return nil
}

// look notes one entry.
func (c *cut) look(name string, h *tar.Header, _ io.Reader) error {
	left := c.list.paths[name]
	if left {
		c.list.lead(name)
		if err := c.note(name, h); err != nil {
			return err
		}
	}
	for dir := name; dir != ""; {
		if dir = parentOf(dir); c.list.paths[dir] {
			c.implied[dir] = true
		}
	}
	if h.Typeflag != tar.TypeLink {
		return nil
	}
	if err := c.remember(name, name, h.Linkname); err != nil {
		return err
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

// note remembers the entry of a listed path.
func (c *cut) note(name string, h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		c.entries[name] = &tar.Header{Typeflag: h.Typeflag}
		return nil
	}
	c.entries[name] = headerAs(name, h)
	for key, value := range h.PAXRecords {
		if err := c.remember(name, key, value); err != nil {
			return err
		}
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
	for _, h := range c.missing {
		if err == nil {
			kept, err = kept+1, writeEntry(out, h, nil)
		}
	}
	if err != nil {
		return 0, err
	}
	return kept, errs.Wrap(op, "ACI", out.Close())
}
