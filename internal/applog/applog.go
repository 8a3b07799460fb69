// Package applog reads the log of an app, as the supervisor writes it and
// kubelet knows it: "<RFC3339Nano> <stdout|stderr> <P|F> <content>" on each line
// (KEP 4033, "CRI log format").
package applog

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
)

// Line is one record of a log.
type Line struct {
	Time   time.Time // zero: the record has none, and Text is all of it
	Stream string    // "stdout" or "stderr"
	Text   string    // without a newline at its end
	// Partial says that the app's line goes on in the next record of its stream.
	Partial bool
}

// All is the Tail of a whole log.
const All = -1

// Options of a reader.
type Options struct {
	// Tail is with how many lines from the end to begin; All: at the beginning.
	// A line is all records of its stream up to the one that isn't Partial.
	Tail int
	// Ended says that nobody writes the log any more. With it the log is
	// followed until then, also into new files of its name; nil: it is read to
	// its present end.
	Ended func() bool
}

const (
	// maxRecord bounds what is taken for one record, in bytes; more than that
	// is several.
	maxRecord = 64 << 10
	// pause is the time between two looks at a log that is followed.
	pause = 250 * time.Millisecond
)

// Read gives the lines of the log at path to each, until that gives an error,
// which is Read's then. A log that isn't there is errs.NotFound, unless it is
// followed: it may come.
func Read(ctx context.Context, path string, o Options, each func(Line) error) error {
	const op = "read log"
	r := &reader{path: path, each: each}
	defer r.close()
	err := r.open()
	if err != nil && (o.Ended == nil || !errors.Is(err, os.ErrNotExist)) {
		return errs.Wrap(op, path, err)
	}
	if err == nil && o.Tail >= 0 {
		if r.tail, err = lastLines(r.f, o.Tail); err != nil {
			return errs.Wrap(op, path, err)
		}
		r.at = r.tail.first()
	}
	for {
		ended := o.Ended == nil || o.Ended() // before the last look
		if err := r.rest(ctx); err != nil {
			return err
		}
		if ended {
			return r.flush()
		}
		select {
		case <-ctx.Done():
			return errs.Wrap(op, path, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// reader is at some place of the log's present file.
type reader struct {
	path string
	each func(Line) error
	f    *os.File // nil: there is none yet
	in   *bufio.Reader
	half []byte // of a record whose end isn't written yet

	tail    *tail // of the present file; nil: all of it
	at      int64 // where half begins, as long as there is a tail
	goesOn  bool  // half is of the record that the last one was of
	skipped bool  // that one was older than the tail
}

// open takes a regular file only, and waits for nobody: an app may be able to
// write where its log lies, and must not lead us elsewhere.
func (r *reader) open() error {
	f, err := os.OpenFile(r.path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return errors.Join(err, errs.New("open", errs.Denied, r.path, errors.New("it is no regular file")), f.Close())
	}
	r.close()
	r.f, r.in, r.tail, r.goesOn = f, bufio.NewReaderSize(f, maxRecord), nil, false
	return nil
}

func (r *reader) close() {
	if r.f != nil {
		_ = r.f.Close()
	}
}

// rest reads what there is now, in this file and in one that took its place.
func (r *reader) rest(ctx context.Context) error {
	for {
		replaced := r.isReplaced() // before the last look at the old one
		if r.f != nil {
			if err := r.toEnd(ctx); err != nil {
				return err
			}
		}
		if !replaced {
			return nil
		}
		if err := r.flush(); err != nil {
			return err
		}
		if err := r.open(); errors.Is(err, os.ErrNotExist) {
			return nil
		} else if err != nil {
			return errs.Wrap("read log", r.path, err)
		}
	}
}

// isReplaced says that another file has the log's name: it was rotated.
func (r *reader) isReplaced() bool {
	now, err := os.Lstat(r.path)
	if err != nil {
		return false
	}
	if r.f == nil {
		return true
	}
	mine, err := r.f.Stat()
	return err == nil && !os.SameFile(now, mine)
}

func (r *reader) toEnd(ctx context.Context) error {
	for ctx.Err() == nil {
		part, err := r.in.ReadSlice('\n')
		r.half = append(r.half, part...)
		switch {
		case err == nil, len(r.half) >= maxRecord:
			if err := r.flush(); err != nil {
				return err
			}
		case errors.Is(err, io.EOF):
			return nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return errs.Wrap("read log", r.path, err)
		}
	}
	return errs.Wrap("read log", r.path, ctx.Err())
}

// flush gives what there is of a record.
func (r *reader) flush() error {
	if len(r.half) == 0 {
		return nil
	}
	text, ends := strings.CutSuffix(string(r.half), "\n")
	line := parse(text)
	if !r.goesOn {
		r.skipped = r.tail != nil && !r.tail.has(r.at, line.Stream)
	}
	r.at += int64(len(r.half))
	r.half, r.goesOn = r.half[:0], !ends
	if r.skipped {
		return nil
	}
	return r.each(line)
}

func parse(record string) Line {
	at, rest, _ := strings.Cut(record, " ")
	stream, rest, _ := strings.Cut(rest, " ")
	tag, text, _ := strings.Cut(rest, " ")
	tag, _, _ = strings.Cut(tag, ":") // others may follow
	t, err := time.Parse(time.RFC3339Nano, at)
	if err != nil || stream != "stdout" && stream != "stderr" || tag != "F" && tag != "P" {
		return Line{Text: record}
	}
	return Line{Time: t, Stream: stream, Text: text, Partial: tag == "P"}
}
