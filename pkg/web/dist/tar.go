package dist

import (
	"context"
	"errors"
	"io"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// tarReader reads the tar of a layer from wherever one seeks to. The last byte
// comes only when all before it proved to be the layer's: whoever reads to the
// end of a layer that is damaged gets too little, never something else.
type tarReader struct {
	ctx    context.Context //nolint:containedctx // of the one request
	store  Store
	diffID image.Digest
	size   int64 // bytes

	offset int64
	err    error // that ended the reading, if not its reader did

	pipe *io.PipeReader // nil: nothing is being written
	at   int64          // the offset that pipe stands at
	stop func()         // ends the writing
}

// Seek never fails; nothing is read yet.
func (t *tarReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += t.offset
	case io.SeekEnd:
		offset += t.size
	}
	t.offset = offset
	return offset, nil
}

func (t *tarReader) Read(p []byte) (int, error) {
	if t.offset >= t.size {
		return 0, io.EOF
	}
	if t.pipe == nil || t.at != t.offset {
		t.close()
		t.start()
	}
	n, err := t.pipe.Read(p)
	t.offset += int64(n)
	t.at = t.offset
	if err != nil && !errors.Is(err, io.EOF) {
		t.err = err
	}
	return n, err
}

func (t *tarReader) start() {
	ctx, cancel := context.WithCancel(t.ctx)
	r, w := io.Pipe()
	done := make(chan struct{})
	t.pipe, t.at = r, t.offset
	t.stop = func() {
		cancel()
		_ = r.Close()
		<-done
	}
	go func() {
		defer close(done)
		out := &window{out: w, skip: t.offset, left: t.size}
		err := t.store.WriteLayer(ctx, t.diffID, out)
		if err == nil {
			err = out.finish()
		}
		_ = w.CloseWithError(err)
	}()
}

// close ends what was started, and waits for it.
func (t *tarReader) close() {
	if t.pipe != nil {
		t.stop()
		t.pipe = nil
	}
}

// window passes on what is written after the first bytes. The last byte of all
// is kept back until finish.
type window struct {
	out  io.Writer
	skip int64 // bytes that are still to be left out
	left int64 // bytes that are still to come
	last []byte
}

func (w *window) Write(p []byte) (int, error) {
	n := len(p)
	if int64(n) > w.left {
		return 0, errs.New("serve layer", errs.Corrupt, "", errors.New("it is longer than its record says"))
	}
	if w.left -= int64(n); w.left == 0 && n > 0 {
		w.last = append(w.last, p[n-1])
		p = p[:n-1]
	}
	skipped := min(w.skip, int64(len(p)))
	w.skip -= skipped
	if p = p[skipped:]; len(p) > 0 {
		if _, err := w.out.Write(p); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func (w *window) finish() error {
	if w.left != 0 {
		return errs.New("serve layer", errs.Corrupt, "", errors.New("it is shorter than its record says"))
	}
	_, err := w.out.Write(w.last)
	return err
}
