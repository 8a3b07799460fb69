package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/stagelet/stagelet/pkg/image/spool"
)

// meterInterval is how often a terminal is told how far an import is.
const meterInterval = 200 * time.Millisecond

// meter shows how far an import is: one line that changes on a terminal,
// nothing elsewhere.
type meter struct {
	w io.Writer // nil: not a terminal

	mu     sync.Mutex
	layers map[string]spool.Progress
	shown  time.Time
}

func newMeter(w io.Writer) *meter {
	m := &meter{layers: map[string]spool.Progress{}}
	if f, ok := w.(*os.File); ok {
		if fi, err := f.Stat(); err == nil && fi.Mode()&os.ModeCharDevice != 0 {
			m.w = w
		}
	}
	return m
}

// layer is called from any goroutine.
func (m *meter) layer(p spool.Progress) {
	if m.w == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.layers[fmt.Sprint(p.Image, p.Layer)] = p
	if time.Since(m.shown) < meterInterval {
		return
	}
	m.shown = time.Now()
	var done, total int64
	for _, l := range m.layers {
		done += l.Done
		total += l.Total
	}
	fmt.Fprintf(m.w, "\r%d layers: %.1f of %.1f MB ", len(m.layers), float64(done)/1e6, float64(total)/1e6)
}

// end leaves the terminal clean.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.w != nil && !m.shown.IsZero() {
		fmt.Fprint(m.w, "\r\x1b[K")
	}
}
