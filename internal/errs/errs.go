// Package errs is the error type of every package below the edges: what was
// being done, to what, why it did not work, and of which kind the reason is.
//
// Text is lower case, names the thing and leaves out filler words. The kind
// is what callers decide on: errors.Is(err, errs.NotFound).
package errs

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"syscall"
)

// Kind classifies an error by what a caller can do about it. A Kind is itself
// an error, so errors.Is(err, errs.NotFound) asks for the kind of err.
type Kind string

// The kinds. Their text is part of the stage1 protocol: only add.
const (
	Internal     Kind = "internal"     // a defect of ours, or a host that breaks its contract
	Invalid      Kind = "invalid"      // the request can never work as it stands
	NotFound     Kind = "not found"    // the named thing does not exist
	Exists       Kind = "exists"       // the named thing exists already, and is not the same
	Precondition Kind = "precondition" // not in this state of the thing; change it first
	Unavailable  Kind = "unavailable"  // a part that is needed does not answer now; retry
	Timeout      Kind = "timeout"      // the work did not end in its time
	Canceled     Kind = "canceled"     // the caller went away
	Corrupt      Kind = "corrupt"      // bytes on disk or from a peer are not what they must be
	Denied       Kind = "denied"       // policy or the kernel forbids it
	Unsupported  Kind = "unsupported"  // not offered here
	Exhausted    Kind = "exhausted"    // out of disk, memory, descriptors or a limit of ours
)

// Error makes a Kind usable as the target of errors.Is.
func (k Kind) Error() string { return string(k) }

// Error is one failed step.
type Error struct {
	Op      string // what was being done: "add app", "unpack layer"
	Kind    Kind
	Subject string // to what: an id, a path, a reference; may be empty
	Err     error  // why; may be nil when the kind says it all
}

// New returns an Error; err may be nil.
func New(op string, kind Kind, subject string, err error) *Error {
	return &Error{Op: op, Kind: kind, Subject: subject, Err: err}
}

// Wrap adds what was being done to err and keeps its kind. A nil err gives nil.
func Wrap(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Kind: KindOf(err), Subject: subject, Err: err}
}

// Error reads "op subject: cause".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Subject != "" {
		b.WriteByte(' ')
		b.WriteString(e.Subject)
	}
	b.WriteString(": ")
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	} else {
		b.WriteString(string(e.Kind))
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the kind of e.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// KindOf gives the kind of the outermost Error in err, and translates the
// standard library's errors; what nobody classified is Internal.
func KindOf(err error) Kind {
	var e *Error
	var k Kind
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.As(err, &k):
		return k
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, fs.ErrNotExist):
		return NotFound
	case errors.Is(err, fs.ErrExist):
		return Exists
	case errors.Is(err, fs.ErrPermission):
		return Denied
	case isFull(err):
		return Exhausted
	}
	return Internal
}

// isFull says that the kernel ran out of something.
func isFull(err error) bool {
	for _, full := range [...]error{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, full) {
			return true
		}
	}
	return false
}
