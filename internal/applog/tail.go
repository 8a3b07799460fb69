package applog

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
)

// maxHeader is how much of a record is looked at for its stream and tag.
const maxHeader = 64

// tail is where the last lines of a log begin: those of one stream may lie
// between the records of an older line of the other.
type tail struct {
	end     int64            // of the log, when it was looked at
	streams map[string]int64 // the first record of each stream
	more    int              // how many lines it may still take
	whole   map[string]bool  // the stream's lines are all found
}

// lastLines finds the last n lines of a log, which must not become shorter.
// What is open at the end of a stream is a line, too.
func lastLines(log *os.File, n int) (*tail, error) {
	end, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	t := &tail{end: end, streams: map[string]int64{}, more: n, whole: map[string]bool{}}
	if n > 0 {
		err = backwards(log, end, func(start int64) (bool, error) {
			header := make([]byte, min(maxHeader, end-start))
			if _, err := log.ReadAt(header, start); err != nil {
				return false, err
			}
			text, _, _ := strings.Cut(string(header), "\n")
			l := parse(text)
			t.before(start, l.Stream, l.Partial)
			return !t.isWhole(), nil
		})
	}
	_, serr := log.Seek(t.first(), io.SeekStart)
	return t, errors.Join(err, serr)
}

// before takes the record that stands before those that were taken.
func (t *tail) before(start int64, stream string, partial bool) {
	_, known := t.streams[stream]
	switch {
	case t.whole[stream]:
	case known && partial:
		t.streams[stream] = start
	case t.more > 0:
		t.more--
		t.streams[stream] = start
	default:
		t.whole[stream] = true
	}
}

func (t *tail) isWhole() bool {
	if t.more > 0 {
		return false
	}
	for stream := range t.streams {
		if !t.whole[stream] {
			return false
		}
	}
	return true
}

func (t *tail) first() int64 {
	first := t.end
	for _, at := range t.streams {
		first = min(first, at)
	}
	return first
}

// has says that the record at that place is of the tail, or came later.
func (t *tail) has(at int64, stream string) bool {
	if at >= t.end {
		return true
	}
	start, ok := t.streams[stream]
	return ok && at >= start
}

// backwards gives where each record of log begins, the last one first, until
// each has had enough. What has no newline at the end is no record yet.
func backwards(log io.ReaderAt, end int64, each func(start int64) (more bool, err error)) error {
	buf := make([]byte, maxRecord)
	ended := false // a record's end was seen, and now its beginning is looked for
	for at := end; at > 0; {
		block := buf[:min(int64(len(buf)), at)]
		at -= int64(len(block))
		if _, err := log.ReadAt(block, at); err != nil {
			return err
		}
		for i := bytes.LastIndexByte(block, '\n'); i >= 0; i = bytes.LastIndexByte(block[:i], '\n') {
			if ended {
				if more, err := each(at + int64(i) + 1); err != nil || !more {
					return err
				}
			}
			ended = true
		}
	}
	if !ended {
		return nil
	}
	_, err := each(0)
	return err
}
