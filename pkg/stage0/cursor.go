package stage0

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// cursor remembers across our own death which events of a supervisor were
// told on. It is a hint of 8 bytes: losing it tells some events twice, as does
// dying between telling and remembering. None is ever lost for it.
type cursor struct {
	file *os.File // nil: nothing outlives us
	seq  uint64
}

// allTold is the cursor of a pod whose end was told.
const allTold = math.MaxUint64

// openCursor gives the cursor of a pod. That of a person's is not kept: nobody
// is told of it across our death, and others may follow it beside us.
func (e *Engine) openCursor(p *manifest.Pod) (*cursor, error) {
	if p.Creator == manifest.CreatorCLI {
		return &cursor{}, nil
	}
	run := string(e.pods.RunDir(p.ID))
	if err := os.MkdirAll(run, 0o711); err != nil { // gone with a reboot
		return nil, errs.Wrap("open event cursor", run, err)
	}
	f, err := os.OpenFile(filepath.Join(run, "events.seen"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errs.Wrap("open event cursor", run, err)
	}
	var b [8]byte
	if n, _ := f.ReadAt(b[:], 0); n < len(b) {
		return &cursor{file: f}, nil
	}
	return &cursor{file: f, seq: binary.BigEndian.Uint64(b[:])}, nil
}

func (c *cursor) set(seq uint64) {
	c.seq = seq
	if c.file == nil {
		return
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], seq)
	_, _ = c.file.WriteAt(b[:], 0)
}

func (c *cursor) close() {
	if c.file != nil {
		_ = c.file.Close()
	}
}
