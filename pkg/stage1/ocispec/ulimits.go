package ocispec

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
)

// ulimits are the names that getrlimit(2) has after RLIMIT_, in lower case and
// each at its number.
func ulimits() []string {
	return []string{
		"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile",
		"memlock", "as", "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime",
	}
}

// ParseUlimits reads limits of processes by name ("nofile"), each "soft:hard"
// or one number for both, in getrlimit(2)'s units; "unlimited" is a number,
// too. What is no such limit is errs.Invalid.
func ParseUlimits(given map[string]string) ([]specs.POSIXRlimit, error) {
	var list []specs.POSIXRlimit
	for _, name := range slices.Sorted(maps.Keys(given)) {
		limit, err := parseUlimit(name, given[name])
		if err != nil {
			return nil, errs.New("read ulimit", errs.Invalid, fmt.Sprintf("%.80q", name), err)
		}
		list = append(list, limit)
	}
	return list, nil
}

// CheckUlimits finds limits that this process can't give away: to go beyond its
// own takes CAP_SYS_RESOURCE. They are errs.Denied.
func CheckUlimits(limits []specs.POSIXRlimit, host Host) error {
	if slices.Contains(host.Effective, "CAP_SYS_RESOURCE") {
		return nil
	}
	for _, l := range limits {
		name := strings.ToLower(strings.TrimPrefix(l.Type, "RLIMIT_"))
		var own syscall.Rlimit
		if err := syscall.Getrlimit(slices.Index(ulimits(), name), &own); err != nil {
			return errs.Wrap("check ulimit", name, err)
		}
		if l.Hard > own.Max {
			return errs.New("check ulimit", errs.Denied, name, fmt.Errorf("%d is more than the server's own limit, %d, which it may not raise", l.Hard, own.Max))
		}
	}
	return nil
}

func parseUlimit(name, value string) (limit specs.POSIXRlimit, err error) {
	if !slices.Contains(ulimits(), name) {
		return limit, fmt.Errorf("there is none of this name, but %s", strings.Join(ulimits(), ", "))
	}
	soft, hard, both := strings.Cut(value, ":")
	if !both {
		hard = soft
	}
	limit.Type = "RLIMIT_" + strings.ToUpper(name)
	if limit.Soft, err = parseLimit(soft); err != nil {
		return limit, err
	}
	if limit.Hard, err = parseLimit(hard); err != nil {
		return limit, err
	}
	if limit.Soft > limit.Hard {
		return limit, errors.New("the soft limit is above the hard one")
	}
	return limit, nil
}

func parseLimit(text string) (uint64, error) {
	if text == "unlimited" {
		return math.MaxUint64, nil // RLIM_INFINITY
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%.80q is not \"unlimited\" and no number such as 1024", text)
	}
	return n, nil
}
