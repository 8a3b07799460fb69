package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// minPartial is the size from which on a layer is kept while it is fetched, in
// bytes: less is soon fetched again.
const minPartial = 1 << 20

// partial reads a layer as distributed: first what an earlier pull has left of
// it on disk, then the rest, which it writes there too. Close may be called
// during Read.
type partial struct {
	path string
	file *os.File
	have int64 // bytes that were on disk
	size int64 // of the whole
	at   int64 // how far it was read
	open func(offset int64) (io.ReadCloser, error)

	mu     sync.Mutex
	closed bool
	rest   io.ReadCloser // nil until all that was on disk is read
}

// openPartial opens what there is of the i-th layer of a pull.
func (x *session) openPartial(ctx context.Context, p *image.Plan, i int, d v1.Descriptor) (*partial, error) {
	path := filepath.Join(x.dir, partialLayers, image.FileName(d.Digest))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errs.Wrap(opAdmit, path, err)
	}
	b := &partial{
		path: path, file: f, size: d.Size,
		open: func(offset int64) (io.ReadCloser, error) { return p.OpenAt(ctx, i, offset) },
	}
	fi, err := f.Stat()
	if err == nil {
		b.have = fi.Size()
		if b.have > b.size {
			b.have, err = 0, f.Truncate(0)
		}
	}
	if err != nil {
		return nil, errs.Wrap(opAdmit, path, errors.Join(err, f.Close()))
	}
	return b, nil
}

// Read gives the layer.
func (b *partial) Read(buf []byte) (n int, err error) {
	if b.at < b.have {
		n, err = b.file.ReadAt(buf[:min(int64(len(buf)), b.have-b.at)], b.at)
		b.at += int64(n)
		if n > 0 || err == nil {
			return n, nil
		}
		return 0, errs.Wrap(opAdmit, b.path, err)
	}
	rest, err := b.fetch()
	if rest == nil {
		return 0, err
	}
	n, err = rest.Read(buf)
	if n > 0 {
		if _, werr := b.file.WriteAt(buf[:n], b.at); werr != nil {
			return 0, errs.Wrap(opAdmit, b.path, werr)
		}
		b.at += int64(n)
		crash.Point("store.partial-grown")
	}
	if errors.Is(err, io.EOF) && b.at < b.size {
		err = errs.New(opAdmit, errs.Unavailable, filepath.Base(b.path), fmt.Errorf("it ended after %d of %d bytes", b.at, b.size))
	}
	return n, err
}

// fetch gives the reader of what is not on disk; io.EOF when all is.
func (b *partial) fetch() (io.ReadCloser, error) {
	b.mu.Lock()
	rest := b.rest
	b.mu.Unlock()
	if rest != nil {
		return rest, nil
	}
	if b.at == b.size {
		return nil, io.EOF
	}
	rest, err := b.open(b.at)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errors.Join(os.ErrClosed, rest.Close())
	}
	b.rest = rest
	return rest, nil
}

// Close ends it. What is on disk stays.
func (b *partial) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	err := b.file.Close()
	if b.rest != nil {
		err = errors.Join(err, b.rest.Close())
	}
	return err
}

// dropPartial removes what is on disk of a layer as distributed.
func (x *session) dropPartial(d image.Digest) error {
	return errs.Wrap(opAdmit, string(d), removeFile(filepath.Join(x.dir, partialLayers, image.FileName(d))))
}
