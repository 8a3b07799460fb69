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
	in := &counter{ended: ctx.Err, r: r}
	buffered := bufio.NewReaderSize(in, bufferBytes)
	magic, err := buffered.Peek(image.SniffLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, errs.Wrap(op, "archive", err)
	}
	c, err := image.Sniff(magic)
	if err != nil {
		return nil, nil, err
	}
	f, err = spooled(store, buffered, in, c)
	if err != nil {
		return nil, nil, err
	}
	return f, func() { _ = f.Close() }, nil
}

// bufferBytes is how much is read of an archive at once.
const bufferBytes = 64 << 10

// keep copies an archive as it is to where nobody else can change it.
func keep(ctx context.Context, store Store, r io.Reader) (*os.File, error) {
	in := &counter{ended: ctx.Err, r: r}
	f, err := spooled(store, bufio.NewReaderSize(in, bufferBytes), in, image.Uncompressed)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		_ = f.Close()
		return nil, errs.Wrap(op, "archive", err)
	}
	return f, nil
}

// signedFile is an archive with its signature.
func signedFile(f *os.File, signature []byte) *image.SignedFile {
	return &image.SignedFile{Signature: signature, Open: func() (io.ReadCloser, error) {
		fi, err := f.Stat()
		if err != nil {
			return nil, errs.Wrap(op, "archive", err)
		}
		return io.NopCloser(io.NewSectionReader(f, 0, fi.Size())), nil
	}}
}

// spooled writes r, unpacked, into a file of the store.
func spooled(store Store, r *bufio.Reader, in *counter, c image.Compression) (*os.File, error) {
	f, err := store.Spool()
	if err != nil {
		return nil, err
	}
	if err := spool(f, r, in, c); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
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
