package archive

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// seekable gives the uncompressed archive as a file: r itself if it is one.
func seekable(ctx context.Context, store Store, r io.Reader) (f *os.File, release func(), err error) {
	in := &counter{ended: ctx.Err, r: r}
	buffered := bufio.NewReaderSize(in, 64<<10)
	if given, ok := r.(*os.File); ok && isPlainFile(given) {
		magic := make([]byte, image.SniffLen)
		n, err := given.ReadAt(magic, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, nil, errs.Wrap(op, "archive", err)
		}
		if c, err := image.Sniff(magic[:n]); err != nil || c == image.Uncompressed {
			return given, func() {}, err
		}
	}
	magic, err := buffered.Peek(image.SniffLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, errs.Wrap(op, "archive", err)
	}
	c, err := image.Sniff(magic)
	if err != nil {
		return nil, nil, err
	}
	f, err = store.Spool()
	if err != nil {
		return nil, nil, err
	}
	release = func() { _ = f.Close() }
	if err := spool(f, buffered, in, c); err != nil {
		release()
		return nil, nil, err
	}
	return f, release, nil
}

// isPlainFile says that f is a regular file, still at its beginning.
func isPlainFile(f *os.File) bool {
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return false
	}
	at, err := f.Seek(0, io.SeekCurrent)
	return err == nil && at == 0
}

func spool(f *os.File, r *bufio.Reader, in *counter, c image.Compression) error {
	plain, release, err := c.NewReader(r)
	if err != nil {
		return packError(in, err)
	}
	defer release()
	buf := make([]byte, 256<<10)
	for total := int64(0); ; {
		n, err := plain.Read(buf)
		total += int64(n)
		if total > image.MaxArchiveBytes || c != image.Uncompressed && total > image.Growth(in.n.Load()) {
			return image.Refuse(op, image.TooLarge, "archive", "more than %d bytes, or more than %d-fold what it is compressed",
				int64(image.MaxArchiveBytes), image.MaxRatio)
		}
		if _, err := f.Write(buf[:n]); err != nil {
			return errs.Wrap(op, "archive", err)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return packError(in, err)
		}
	}
}

// packError tells what is wrong with the archive from what is wrong with
// getting it.
func packError(in *counter, err error) error {
	if own := in.err.Load(); own != nil {
		return errs.Wrap(op, "archive", *own)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return image.Refuse(op, image.Truncated, "archive", "its compressed data ends too early")
	}
	return image.Refuse(op, image.Malformed, "archive", "%w", err)
}

// counter counts what is read, keeps the error that reading gave, and ends
// when ended says so.
type counter struct {
	ended func() error
	r     io.Reader
	n     atomic.Int64
	err   atomic.Pointer[error]
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := 0, c.ended()
	if err == nil {
		n, err = c.r.Read(p)
	}
	c.n.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		c.err.Store(&err)
	}
	return n, err
}
