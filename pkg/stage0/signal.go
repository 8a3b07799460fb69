package stage0

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
)

// ParseSignal gives the number of a signal written as in an image's or a
// container's StopSignal: "SIGTERM", "TERM", "15", "SIGRTMIN+3"; empty is
// SIGTERM.
func ParseSignal(s string) (int, error) {
	if s == "" {
		return int(syscall.SIGTERM), nil
	}
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= sys.LastSignal {
		return n, nil
	}
	if n, ok := sys.SignalNumber(strings.ToUpper(s)); ok {
		return n, nil
	}
	return 0, errs.New("parse signal", errs.Invalid, fmt.Sprintf("%.40q", s), fmt.Errorf("no such signal; say a name such as SIGTERM or a number up to %d", sys.LastSignal))
}
