package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// Want is what a layer has to turn out to be. What is zero is not known and
// is measured; BlobSize counts only together with Blob.
type Want struct {
	DiffID      image.Digest
	Blob        image.Digest
	BlobSize    int64
	Compression image.Compression
}

// Measured is what a layer turned out to be.
type Measured struct {
	DiffID      image.Digest
	Size        int64 // of the uncompressed tar, in bytes
	Blob        image.Digest
	BlobSize    int64
	Compression image.Compression
}

// stream is one pass over a layer's blob: read, hash, decompress, hash, each
// on a goroutine of its own; its reader gets the uncompressed tar.
type stream struct {
	blob   io.ReadCloser
	source *source
	packed *ahead   // the blob
	plain  *limited // the tar, with the limits on it
	out    *ahead   // the tar again, hashed; nil when it is the blob itself

	want    Want
	seen    image.Compression
	release func()
}

// openStream starts the pass. It closes blob in any case: on an error at
// once, else in close.
func openStream(ctx context.Context, blob io.ReadCloser, want Want) (*stream, error) {
	s := &stream{blob: blob, want: want, release: func() {}}
	s.source = &source{ended: ctx.Err, r: blob, max: -1}
	if want.Blob != "" {
		s.source.max = want.BlobSize
	}
	s.packed = newAhead(s.source, algorithm(want.Blob).Hash())
	if err := s.decompress(ctx); err != nil {
		err = s.classify(s.subject(), err)
		s.close()
		return nil, err
	}
	return s, nil
}

func algorithm(d image.Digest) digest.Algorithm {
	if d == "" {
		return digest.Canonical
	}
	return d.Algorithm()
}

func (s *stream) decompress(ctx context.Context) error {
	buffered := bufio.NewReaderSize(s.packed, 64<<10)
	magic, err := buffered.Peek(image.SniffLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if s.seen, err = image.Sniff(magic); err != nil {
		return err
	}
	if s.want.Compression != image.AnyCompression && s.want.Compression != s.seen {
		return image.Refuse(op, image.Mismatch, s.subject(),
			"its media type says compression %s, its bytes say %s", s.want.Compression, s.seen)
	}
	r, release, err := s.decompressor(ctx, buffered)
	if err != nil {
		return err
	}
	s.release = release
	s.plain = &limited{r: r, source: s.source, packed: s.seen != image.Uncompressed}
	if s.seen == image.Uncompressed && algorithm(s.want.Blob) == algorithm(s.want.DiffID) {
		return nil // one hash does for both
	}
	s.out = newAhead(s.plain, algorithm(s.want.DiffID).Hash())
	return nil
}

// decompressor gives the fastest one for what is packed.
func (s *stream) decompressor(ctx context.Context, packed *bufio.Reader) (plain io.Reader, release func(), err error) {
	if s.seen == image.Gzip && s.want.Blob != "" && s.want.BlobSize >= minIgzip {
		if path, err := exec.LookPath(igzipName); err == nil {
			if z, err := startIgzip(ctx, path, packed); err == nil {
				return z, z.close, nil
			}
		}
	}
	return s.seen.NewReader(packed)
}

// Read gives the uncompressed tar.
func (s *stream) Read(p []byte) (int, error) {
	if s.out != nil {
		return s.out.Read(p)
	}
	return s.plain.Read(p)
}

// drain reads from r, which reads s, what follows the tar's end: it must be
// padding.
func (s *stream) drain(r io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return image.Refuse(op, image.Trailing, s.subject(), "after the end of the tar")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return s.classify(s.subject(), err)
		}
	}
}

// skim reads all of it without a look.
func (s *stream) skim() error {
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{s}); err != nil {
		return s.classify(s.subject(), err)
	}
	return nil
}

// measure says what the layer is, once all of it was read, and checks it.
func (s *stream) measure() (*Measured, error) {
	m := &Measured{
		Blob:        digest.NewDigestFromBytes(algorithm(s.want.Blob), s.packed.digest()),
		BlobSize:    s.source.n.Load(),
		Size:        s.plain.n,
		Compression: s.seen,
	}
	m.DiffID = m.Blob
	if s.out != nil {
		m.DiffID = digest.NewDigestFromBytes(algorithm(s.want.DiffID), s.out.digest())
	}
	if s.want.Blob != "" {
		if m.BlobSize != s.want.BlobSize {
			return nil, image.Refuse(op, image.Mismatch, string(s.want.Blob), "it has %d bytes, must have %d", m.BlobSize, s.want.BlobSize)
		}
		if m.Blob != s.want.Blob {
			return nil, image.DigestMismatch(op, "blob of layer "+string(s.want.DiffID), s.want.Blob, m.Blob)
		}
	}
	if s.want.DiffID != "" && m.DiffID != s.want.DiffID {
		return nil, image.DigestMismatch(op, "diff id of layer "+string(m.Blob), s.want.DiffID, m.DiffID)
	}
	return m, nil
}

// close ends the pass, whether it was finished or not.
func (s *stream) close() {
	_ = s.blob.Close() // unblocks the reading goroutine
	if s.out != nil {
		// The decompressor reads from packed, so packed has to stop first; but
		// its reader must see the end, which stopping gives it.
		s.packed.close()
		s.out.close()
	} else {
		s.packed.close()
	}
	s.release()
}

func (s *stream) subject() string { return "layer " + string(s.want.DiffID) }

// classify says what an error of Read means for subject. An error of the
// blob's own reader is the caller's and stays as it is.
func (s *stream) classify(subject string, err error) error {
	var fault image.Fault
	var known *errs.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &fault): // of limited
		return errs.New(op, fault.Kind(), image.Printable(subject), err)
	}
	if own := s.source.failure(); own != nil {
		return own
	}
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return image.Refuse(op, image.Truncated, subject, "it ends too early")
	case errors.Is(err, tar.ErrFieldTooLong), errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return image.Refuse(op, image.TooLarge, subject, "%w", err)
	default:
		return image.Refuse(op, image.Malformed, subject, "%w", err)
	}
}

// source reads the blob: it counts, and stops at max and when ended says so.
type source struct {
	ended func() error
	r     io.Reader
	max   int64 // negative: none
	n     atomic.Int64
	err   atomic.Pointer[error]
}

func (s *source) Read(p []byte) (int, error) {
	if err := s.ended(); err != nil {
		return 0, s.fail(err)
	}
	n, err := s.r.Read(p)
	total := s.n.Add(int64(n))
	if s.max >= 0 && total > s.max {
		return 0, s.fail(image.Refuse(op, image.Mismatch, "blob", "it is longer than the %d bytes that it must have", s.max))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return n, s.fail(err)
	}
	return n, err
}

func (s *source) fail(err error) error {
	s.err.Store(&err)
	return err
}

func (s *source) failure() error {
	if err := s.err.Load(); err != nil {
		return *err
	}
	return nil
}

// limited bounds what a decompressor gives.
type limited struct {
	r      io.Reader
	source *source
	packed bool
	n      int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.n += int64(n)
	if l.n > image.MaxLayerBytes {
		return 0, fmt.Errorf("%w: more than %d bytes uncompressed", image.TooLarge, int64(image.MaxLayerBytes))
	}
	if l.packed && l.n > image.Growth(l.source.n.Load()) {
		return 0, fmt.Errorf("%w: it grows more than %d-fold when it is decompressed", image.TooLarge, image.MaxRatio)
	}
	return n, err
}
