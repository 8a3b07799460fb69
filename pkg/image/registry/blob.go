package registry

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// blob reads one blob, and goes on where it was when a connection breaks or
// stalls: at the same endpoint, and at the next when that one brings nothing
// any more. Its size is checked here. Its digest is left to whoever reads it
// and hashes it anyway, but for what came from a mirror: that one is not asked
// again then. Close may be called during Read: all else belongs to the one who
// reads.
type blob struct {
	ctx       context.Context //nolint:containedctx // of the reader's whole life
	cancel    context.CancelCauseFunc
	endpoints []*endpoint
	want      v1.Descriptor

	at     int           // endpoint in use
	offset int64         // of the next byte to give
	body   io.ReadCloser // nil: to be opened at offset
	pace   pace          // of what the connection brought, asking for it included
	idle   int           // breaks in a row that brought nothing to speak of
	breaks int           // in all
	tries  int           // of idle, at the last endpoint
	told   []string      // by endpoints that were given up
	hash   hash.Hash     // nil: nobody but the registry itself gave bytes
	ended  error         // sticky
}

// maxBreaks bounds how often one blob breaks off, whatever it brings between.
const maxBreaks = 500

// newBlob gives the reader of a blob from an offset on.
func newBlob(ctx context.Context, endpoints []*endpoint, want v1.Descriptor, offset int64, tries int) *blob {
	ctx, cancel := context.WithCancelCause(ctx)
	b := &blob{ctx: ctx, cancel: cancel, endpoints: endpoints, want: want, offset: offset, tries: tries}
	b.skipDead()
	if offset == 0 && !b.last() {
		b.hash = want.Digest.Algorithm().Hash()
	}
	return b
}

// Read gives the next bytes.
func (b *blob) Read(p []byte) (int, error) {
	if b.ended != nil {
		return 0, b.ended
	}
	if b.ctx.Err() != nil {
		return 0, context.Cause(b.ctx)
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, err := b.step(p)
		if n > 0 || err != nil {
			b.ended = err
			return n, err
		}
	}
}

// step reads once. Nothing and no error: to be tried again.
func (b *blob) step(p []byte) (int, error) {
	if b.body == nil && b.offset < b.want.Size {
		if err := b.open(); err != nil {
			return 0, b.recover(err)
		}
	}
	if b.offset == b.want.Size {
		return 0, b.finish()
	}
	begun := time.Now()
	n, err := b.body.Read(p[:min(int64(len(p)), b.want.Size-b.offset)])
	b.pace.add(n, time.Since(begun))
	if n > 0 {
		b.offset += int64(n)
		if b.hash != nil {
			_, _ = b.hash.Write(p[:n]) // never fails
		}
		return n, nil // an error comes again
	}
	switch {
	case err == nil:
		return 0, nil
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	b.closeBody()
	if b.pace.bytes > 0 && !b.pace.below(b.endpoint().timing.floor) {
		b.idle = 0
	}
	return 0, b.recover(b.endpoint().broken(b.ctx, err))
}

// finish checks that nothing follows the last byte.
func (b *blob) finish() error {
	if b.body == nil {
		return io.EOF
	}
	var more [1]byte
	n, _ := io.ReadFull(b.body, more[:])
	b.closeBody()
	if n > 0 {
		return image.Refuse(op, image.Mismatch, "blob "+string(b.want.Digest), "%s sends more than the %d bytes that the manifest says", b.endpoint().name, b.want.Size)
	}
	if b.hash != nil {
		if got := digest.NewDigest(b.want.Digest.Algorithm(), b.hash); got != b.want.Digest {
			return b.distrust(got)
		}
	}
	b.endpoint().report(nil)
	return io.EOF
}

// distrust leaves out, for a while, the mirrors that gave wrong bytes.
func (b *blob) distrust(got image.Digest) error {
	var names []string
	for i, e := range b.endpoints[:b.at+1] {
		if i < len(b.endpoints)-1 {
			e.breaker.failed(time.Now())
		}
		names = append(names, e.name)
	}
	return image.DigestMismatch(op, "blob from "+strings.Join(names, " or "), b.want.Digest, got)
}

func (b *blob) endpoint() *endpoint { return b.endpoints[b.at] }
func (b *blob) last() bool          { return b.at == len(b.endpoints)-1 }

// skipDead goes to the next endpoint that may answer.
func (b *blob) skipDead() {
	for !b.last() && !b.endpoint().breaker.allow(time.Now()) {
		b.told = append(b.told, b.endpoint().name+": did not answer shortly before")
		b.at++
	}
}

// recover decides what comes after a failure; nil: another try.
func (b *blob) recover(err error) error {
	if b.ctx.Err() != nil {
		return err
	}
	e := b.endpoint()
	b.idle++
	b.breaks++
	wait, again := e.timing.retry(err, b.idle)
	var f *failure
	dialled := errors.As(err, &f) && f.dead && b.offset > 0 // it was there before
	if dialled {
		wait, again = e.timing.backoff<<min(b.idle, 4), true
	}
	limit := b.tries
	if !b.last() {
		limit = fewAttempts
		again = again && !dialled
	}
	if again && b.idle < limit && b.breaks < maxBreaks {
		return sleep(b.ctx, wait)
	}
	e.report(err)
	if b.last() {
		if len(b.told) > 0 {
			err = errs.New(op, errs.KindOf(err), "", fmt.Errorf("%w (before it: %s)", err, strings.Join(b.told, "; ")))
		}
		return err
	}
	b.told = append(b.told, err.Error())
	b.at++
	b.idle = 0
	b.skipDead()
	return nil
}

// open asks for the rest of the blob.
func (b *blob) open() error {
	begun := time.Now()
	defer func() { b.pace = pace{waited: time.Since(begun)} }()
	e := b.endpoint()
	resp, err := e.send(b.ctx, request{path: "blobs/" + string(b.want.Digest), accept: []string{"*/*"}, from: b.offset})
	if err != nil {
		return err
	}
	if err := b.begin(resp); err != nil {
		_ = resp.Body.Close()
		return err
	}
	b.body = resp.Body
	return nil
}

// begin checks that the answer is the rest of the blob. A registry that knows
// no ranges sends all of it; then what is known already is read over.
func (b *blob) begin(resp *http.Response) error {
	e := b.endpoint()
	rest := b.want.Size - b.offset
	skip := int64(0)
	if resp.StatusCode == http.StatusPartialContent {
		if err := b.checkRange(resp.Header.Get("Content-Range")); err != nil {
			return err
		}
		if resp.ContentLength > rest {
			return b.mismatch("it sends %d bytes, %d are left", resp.ContentLength, rest)
		}
	} else {
		if resp.ContentLength >= 0 && resp.ContentLength != b.want.Size {
			return b.mismatch("it has %d bytes, the manifest says %d", resp.ContentLength, b.want.Size)
		}
		skip = b.offset
	}
	if _, err := io.CopyN(io.Discard, resp.Body, skip); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return e.broken(b.ctx, err)
	}
	return nil
}

func (b *blob) checkRange(header string) error {
	first, last, total, err := parseRange(header)
	if err != nil {
		return b.mismatch("Content-Range is %s", image.Printable(header))
	}
	if first != b.offset || last < first || last >= b.want.Size || total != "*" && total != strconv.FormatInt(b.want.Size, 10) {
		return b.mismatch("it answers with Content-Range %s, %d-%d/%d was asked for", image.Printable(header), b.offset, b.want.Size-1, b.want.Size)
	}
	return nil
}

// parseRange reads a Content-Range (RFC 9110, 14.4); total is "*" where the
// server doesn't know it.
func parseRange(header string) (first, last int64, total string, err error) {
	_, err = fmt.Sscanf(header, "bytes %d-%d/%s", &first, &last, &total)
	return first, last, total, err
}

func (b *blob) mismatch(why string, args ...any) error {
	return image.Refuse(op, image.Mismatch, "blob "+string(b.want.Digest)+" at "+b.endpoint().name, why, args...)
}

func (b *blob) closeBody() {
	if b.body != nil {
		_ = b.body.Close()
		b.body = nil
	}
}

// Close ends the transfer: with their context, requests end and free what they
// hold.
func (b *blob) Close() error {
	b.cancel(errs.New(op, errs.Canceled, "blob "+string(b.want.Digest), errors.New("its reader was closed")))
	return nil
}
