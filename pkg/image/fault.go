package image

import (
	"fmt"
	"strconv"

	"github.com/stagelet/stagelet/internal/errs"
)

// Fault says what is wrong with bytes from outside. It is an error, so that
// errors.Is(err, image.PathEscape) asks for it.
type Fault string

// The faults.
const (
	BadReference Fault = "not a valid reference"
	BadDigest    Fault = "not a valid digest"
	Malformed    Fault = "malformed"
	Truncated    Fault = "truncated"
	Trailing     Fault = "followed by garbage"
	TooLarge     Fault = "too large"
	Mismatch     Fault = "not what it says it is"
	Ambiguous    Fault = "ambiguous"
	Incomplete   Fault = "incomplete"
	Nameless     Fault = "without a name"
	NoPlatform   Fault = "not for this platform"
	WrongFormat  Fault = "of a format that is not supported"

	PathEscape   Fault = "leads out of its root"
	BadEntry     Fault = "an entry that is not allowed"
	BadLink      Fault = "a link that is not allowed"
	BadWhiteout  Fault = "a whiteout that is not allowed"
	BadXattr     Fault = "an extended attribute that is not allowed"
	Unrepeatable Fault = "there twice"
)

// Error makes a Fault usable as the target of errors.Is.
func (f Fault) Error() string { return string(f) }

// Kind is what a caller can do about it.
func (f Fault) Kind() errs.Kind {
	switch f {
	case TooLarge:
		return errs.Exhausted
	case Mismatch, Truncated, Trailing:
		return errs.Corrupt
	case WrongFormat, NoPlatform:
		return errs.Unsupported
	default:
		return errs.Invalid
	}
}

// Refuse makes the error that refuses subject for that fault; why is a format
// and its arguments. Subject may be hostile: it is quoted where it must be,
// and shortened.
func Refuse(op string, f Fault, subject, why string, args ...any) error {
	cause := error(f)
	if why != "" {
		cause = fmt.Errorf("%w: "+why, append([]any{f}, args...)...)
	}
	return errs.New(op, f.Kind(), Printable(subject), cause)
}

const maxPrinted = 256

// Printable gives s as it can stand in a line of text, whoever wrote it.
func Printable(s string) string {
	if len(s) > maxPrinted {
		s = s[:maxPrinted] + "…"
	}
	if quoted := strconv.Quote(s); quoted != `"`+s+`"` {
		return quoted
	}
	return s
}
