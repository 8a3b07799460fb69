package appc

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"path"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// tree is the files of one image, as the tar of a layer.
type tree struct {
	diffID image.Digest
	size   int64 // of the tar, in bytes
	// write writes the tar, the same one each time, until ctx ends.
	write func(ctx context.Context, w io.Writer) error
}

// open gives the tar to be read. Closing it waits until nothing of it runs any
// more.
func (t tree) open(ctx context.Context) io.ReadCloser {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	p := &piped{PipeReader: r, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = w.CloseWithError(t.write(ctx, w)) // never fails
	}()
	return p
}

type piped struct {
	*io.PipeReader
	cancel func()
	done   chan struct{}
}

func (p *piped) Close() error {
	p.cancel()
	err := p.PipeReader.Close()
	<-p.done
	return err
}

// each calls visit for each entry of the tree, with its clean name. Whether the
// tar is what it has to be, shows at its end.
func (t tree) each(ctx context.Context, visit func(name string, h *tar.Header, content io.Reader) error) error {
	in := t.open(ctx)
	defer in.Close()
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, in)
			return errs.Wrap(op, "layer "+string(t.diffID), err)
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return tarError("layer "+string(t.diffID), err)
		}
		if err := visit(path.Clean("/" + h.Name)[1:], h, r); err != nil {
			return err
		}
	}
}

// owner gives the numbers of whom the file at name belongs to in trees, the
// highest first.
func owner(ctx context.Context, trees []tree, name string) (uid, gid int, err error) {
	name = path.Clean(name)[1:]
	for i := len(trees) - 1; i >= 0; i-- {
		found := false
		err := trees[i].each(ctx, func(is string, h *tar.Header, _ io.Reader) error {
			if is == name {
				uid, gid, found = h.Uid, h.Gid, true
			}
			return nil
		})
		if err != nil || found {
			return uid, gid, err
		}
	}
	return 0, 0, image.Refuse(op, image.Incomplete, "/"+name, "its owner is whom the app runs as, and the image doesn't have it")
}
