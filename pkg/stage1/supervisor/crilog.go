package supervisor

import (
	"bytes"
	"io"
	"os"
	"sync"
	"time"
)

// maxLine is the content of one record, in bytes; a longer line becomes
// several (kubelet's log format: P for all but the last).
const maxLine = 16 << 10

// maxRecord is what a record may be long, its head and newline included.
const maxRecord = maxLine + 64

// timeFormat is RFC3339Nano with a fixed width, so that records sort as text.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// criLog is an app's log file: "<RFC3339Nano> <stdout|stderr> <P|F> <content>"
// (kubernetes, design-proposals-archive: node/kubelet-cri-logging.md).
//
// Both streams write under one lock, so records stand in the order of their
// timestamps, which only rise. It never waits for disk space: what can't be
// written is lost, and counted.
type criLog struct {
	pool     *buffers
	complain func(format string, args ...any)

	mu   sync.Mutex
	file *os.File // nil: no log is kept
	last int64    // timestamp of the last record, ns since the Unix epoch
	lost uint64   // bytes of records not written since the last that was
}

// tag tells whether a record ends its line.
type tag byte

const (
	full    tag = 'F'
	partial tag = 'P'
)

// batch collects records; criLog.mu is held as long as one is open.
type batch struct {
	log *criLog
	buf []byte
	n   int
}

// begin opens a batch: end it.
func (l *criLog) begin() *batch {
	l.mu.Lock()
	return &batch{log: l, buf: l.pool.take()}
}

func (b *batch) add(stream string, t tag, content []byte) {
	if b.log.file == nil {
		return
	}
	if b.n+maxRecord > len(b.buf) {
		b.flush()
	}
	now := max(time.Now().UnixNano(), b.log.last+1)
	b.log.last = now
	p := time.Unix(0, now).UTC().AppendFormat(b.buf[:b.n], timeFormat)
	p = append(p, ' ')
	p = append(p, stream...)
	p = append(p, ' ', byte(t), ' ')
	p = append(p, content...)
	b.n = len(append(p, '\n'))
}

func (b *batch) flush() {
	b.log.write(b.buf[:b.n])
	b.n = 0
}

func (b *batch) end() {
	b.flush()
	b.log.pool.give(b.buf)
	b.log.mu.Unlock()
}

// write appends whole records. Of what the disk had no room for nothing
// stays, so that no later record begins within a torn one.
func (l *criLog) write(p []byte) {
	if len(p) == 0 || l.file == nil {
		return
	}
	n, err := l.file.Write(p)
	if err == nil {
		if l.lost > 0 {
			l.complain("log %s: %d bytes were lost", l.file.Name(), l.lost)
			l.lost = 0
		}
		return
	}
	if l.lost == 0 {
		l.complain("log %s: records are being lost: %v", l.file.Name(), err)
	}
	l.lost += uint64(len(p))
	if n > 0 {
		if size, serr := l.file.Seek(0, io.SeekEnd); serr == nil {
			_ = l.file.Truncate(size - int64(n))
		}
	}
}

// swap makes f the log file, and closes the one before.
func (l *criLog) swap(f *os.File) {
	l.mu.Lock()
	old := l.file
	l.file = f
	l.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

// close ends the log; records that still come are dropped.
func (l *criLog) close() { l.swap(nil) }

// cutter cuts one stream into records. It belongs to one goroutine.
type cutter struct {
	log    *criLog
	stream string
	// pending is the begin of a line, at most maxLine bytes, not yet written.
	pending []byte
	// open says that the last record was a part: its line goes on.
	open bool
}

// feed takes what was read. p is the caller's again afterwards.
func (c *cutter) feed(p []byte) {
	b := c.log.begin()
	defer b.end()
	for len(p) > 0 {
		line, rest, ended := cutLine(p, maxLine-len(c.pending))
		p = rest
		switch {
		case ended:
			c.emit(b, full, line)
		case len(p) > 0: // maxLine is reached, and the line goes on
			c.emit(b, partial, line)
		default:
			c.pending = append(c.pending, line...)
		}
	}
}

// emit writes pending and line as one record.
func (c *cutter) emit(b *batch, t tag, line []byte) {
	if len(c.pending) > 0 {
		line = append(c.pending, line...)
		c.pending = nil
	}
	b.add(c.stream, t, line)
	c.open = t == partial
}

// waiting reports whether the begin of a line waits for its end.
func (c *cutter) waiting() bool { return len(c.pending) > 0 }

// flush writes what waits, as a part.
func (c *cutter) flush() {
	if c.waiting() {
		b := c.log.begin()
		c.emit(b, partial, nil)
		b.end()
	}
}

// end writes what waits as the end of its line: the stream is over.
func (c *cutter) end() {
	if c.waiting() || c.open {
		b := c.log.begin()
		c.emit(b, full, nil)
		b.end()
	}
}

// cutLine gives the first line of p, or its first limit bytes if the line is
// longer. A newline right behind the limit ends the line, too.
func cutLine(p []byte, limit int) (line, rest []byte, ended bool) {
	window := p[:min(len(p), limit+1)]
	if i := bytes.IndexByte(window, '\n'); i >= 0 {
		return p[:i], p[i+1:], true
	}
	if len(p) > limit {
		return p[:limit], p[limit:], false
	}
	return p, nil, false
}
