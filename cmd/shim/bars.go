package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/stagelet/stagelet/pkg/image/store"
)

// bars show how far the fetch of an image is: on a terminal a bar for each
// layer, elsewhere a line for each layer that is done.
type bars struct {
	w        io.Writer
	image    string
	terminal bool

	mu     sync.Mutex
	layers []store.Progress
	begun  []time.Time
	drawn  int // lines on the terminal that are ours
	shown  time.Time
}

func newBars(w io.Writer, image string) *bars {
	return &bars{w: w, image: image, terminal: isTerminal(w)}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// maxBars bounds the lines on a terminal; of an image with more layers there is
// one line for all.
const maxBars = 20

// layer is called from any goroutine.
func (b *bars) layer(p store.Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.layers) != p.Layers {
		b.layers, b.begun = make([]store.Progress, p.Layers), make([]time.Time, p.Layers)
	}
	changed := b.layers[p.Layer].State != p.State
	if changed && p.State == store.LayerFetching {
		b.begun[p.Layer] = time.Now()
	}
	b.layers[p.Layer] = p
	if !b.terminal {
		if changed {
			b.line(p)
		}
		return
	}
	if changed || time.Since(b.shown) >= meterInterval {
		b.draw()
	}
}

// line tells of a layer that is done, or there already.
func (b *bars) line(p store.Progress) {
	switch p.State {
	case store.LayerDone:
		took := time.Since(b.begun[p.Layer])
		fmt.Fprintf(b.w, "%s: layer %d/%d %s: %s in %s\n", b.image, p.Layer+1, p.Layers, p.Digest, megabytes(p.Total), took.Round(10*time.Millisecond))
	case store.LayerThere:
		fmt.Fprintf(b.w, "%s: layer %d/%d %s: there already\n", b.image, p.Layer+1, p.Layers, p.Digest)
	case store.LayerWaiting, store.LayerFetching:
	}
}

func (b *bars) draw() {
	b.shown = time.Now()
	b.clear()
	lines := b.layers
	if len(lines) > maxBars {
		all := store.Progress{State: store.LayerFetching}
		for _, l := range lines {
			all.Done, all.Total = all.Done+l.Done, all.Total+l.Total
		}
		lines = []store.Progress{all}
	}
	var text strings.Builder
	for _, l := range lines {
		name := fmt.Sprintf("%d layers", len(b.layers))
		if l.Digest != "" {
			name = l.Digest.Encoded()[:shortID]
		}
		fmt.Fprintf(&text, "%-12s %s %s\n", name, bar(l), state(l))
	}
	b.drawn = len(lines)
	fmt.Fprint(b.w, text.String())
}

// clear takes our lines off the terminal.
func (b *bars) clear() {
	if b.drawn > 0 {
		fmt.Fprintf(b.w, "\x1b[%dA\x1b[J", b.drawn)
	}
	b.drawn = 0
}

const barWidth = 30

func bar(p store.Progress) string {
	filled := barWidth
	if p.Total > 0 {
		filled = int(min(p.Done, p.Total) * barWidth / p.Total)
	}
	return "[" + strings.Repeat("=", filled) + strings.Repeat(" ", barWidth-filled) + "]"
}

func state(p store.Progress) string {
	if p.State == store.LayerFetching {
		return megabytes(p.Done) + " of " + megabytes(p.Total)
	}
	return string(p.State)
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// end leaves the terminal clean.
func (b *bars) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.terminal {
		b.clear()
	}
}
