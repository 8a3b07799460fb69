// Package spool takes in files that bring images: archives, ACIs. Whatever
// reads one has it as an uncompressed regular file; what is signed is the file
// as it was transferred, kept where nobody else can change it.
package spool

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

const op = "import image"

// Store gives room for files.
type Store interface {
	// Spool gives an empty file that is gone once it is closed.
	Spool() (*os.File, error)
}

// File is a file that was taken in. Whoever made it closes it.
type File struct {
	// Plain is the file, uncompressed.
	Plain *os.File
	// Signed is the file as it was transferred, with its signature; nil when
	// there is none.
	Signed *image.SignedFile
	// Transferred is how many bytes it had then.
	Transferred int64

	own []*os.File
}

// Close gives up what was spooled.
func (f *File) Close() (err error) {
	for _, one := range f.own {
		err = errors.Join(err, one.Close())
	}
	return err
}

// Take takes in the file r: plain, or compressed by gzip, zstd, xz or bzip2.
// An uncompressed regular file is read in place, unless somebody signed it;
// anything else is spooled, as readers go back and forth in it. The signature
// is a detached one of the file as it is read; nil: there is none.
func Take(ctx context.Context, store Store, r io.Reader, signature []byte) (_ *File, err error) {
	f := &File{}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if signature != nil {
		kept, err := f.keep(ctx, store, r)
		if err != nil {
			return nil, err
		}
		r, f.Signed = kept, signedFile(kept, signature)
	}
	return f, f.unpack(ctx, store, r)
}

// bufferBytes is how much is read of a file at once.
const bufferBytes = 64 << 10

// unpack gives the file its plain form: r itself if it is one.
func (f *File) unpack(ctx context.Context, store Store, r io.Reader) error {
	if given, ok := r.(*os.File); ok && isPlainFile(given) {
		magic := make([]byte, image.SniffLen)
		n, err := given.ReadAt(magic, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return errs.Wrap(op, "file", err)
		}
		if c, err := sniff(magic[:n]); err != nil || c == image.Uncompressed {
			f.Plain = given
			return errors.Join(err, f.measure())
		}
	}
	in := &counter{ended: ctx.Err, r: r}
	buffered := bufio.NewReaderSize(in, bufferBytes)
	magic, err := buffered.Peek(image.SniffLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return errs.Wrap(op, "file", err)
	}
	c, err := sniff(magic)
	if err != nil {
		return err
	}
	f.Plain, err = f.spooled(store, buffered, in, c)
	f.Transferred = in.n.Load()
	return err
}

func (f *File) measure() error {
	fi, err := f.Plain.Stat()
	if err == nil {
		f.Transferred = fi.Size()
	}
	return errs.Wrap(op, "file", err)
}

// keep copies a file as it is to where nobody else can change it.
func (f *File) keep(ctx context.Context, store Store, r io.Reader) (*os.File, error) {
	in := &counter{ended: ctx.Err, r: r}
	kept, err := f.spooled(store, bufio.NewReaderSize(in, bufferBytes), in, image.Uncompressed)
	if err != nil {
		return nil, err
	}
	_, err = kept.Seek(0, io.SeekStart)
	return kept, errs.Wrap(op, "file", err)
}

// signedFile is a file with its signature.
func signedFile(f *os.File, signature []byte) *image.SignedFile {
	return &image.SignedFile{Signature: signature, Open: func() (io.ReadCloser, error) {
		fi, err := f.Stat()
		if err != nil {
			return nil, errs.Wrap(op, "file", err)
		}
		return io.NopCloser(io.NewSectionReader(f, 0, fi.Size())), nil
	}}
}

// spooled writes r, unpacked, into a file of the store.
func (f *File) spooled(store Store, r *bufio.Reader, in *counter, c image.Compression) (*os.File, error) {
	to, err := store.Spool()
	if err != nil {
		return nil, err
	}
	f.own = append(f.own, to)
	return to, copyPlain(to, r, in, c)
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

func copyPlain(f *os.File, r *bufio.Reader, in *counter, c image.Compression) error {
	plain, release, err := reader(c, r)
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

// packError tells what is wrong with the file from what is wrong with getting
// it.
func packError(in *counter, err error) error {
	if own := in.err.Load(); own != nil {
		return errs.Wrap(op, "archive", *own)
	}
	switch {
	case isTooLarge(err):
		return image.Refuse(op, image.TooLarge, "archive", "%w", err)
	case isTruncated(err):
		return image.Refuse(op, image.Truncated, "archive", "its compressed data ends too early")
	}
	return image.Refuse(op, image.Malformed, "archive", "%w", err)
}

// CheckPadding checks that only zeros follow the end of a tar.
func CheckPadding(rest io.Reader) error {
	buf := make([]byte, bufferBytes)
	for {
		n, err := rest.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return image.Refuse(op, image.Trailing, "archive", "something follows its end")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return errs.Wrap(op, "archive", err)
		}
	}
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
