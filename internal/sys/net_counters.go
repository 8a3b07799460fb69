package sys

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
)

// InterfaceCounters are those of one network interface since it was made.
type InterfaceCounters struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// NetCounters counts the interfaces of the network namespace that is pinned at
// path, loopback excepted, without entering it: pid is a process that ought to
// be in it, whether it runs or is stopped. One that isn't (its id is another's
// by now) is errs.NotFound.
func NetCounters(path string, pid int) ([]InterfaceCounters, error) {
	const op = "count network traffic"
	// The namespace of a process that ends between the two looks is no longer
	// its own: it has none.
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return nil, errs.New(op, errs.NotFound, path, err)
	}
	pinned, err := os.Stat(path)
	if err != nil {
		return nil, errs.Wrap(op, path, err)
	}
	own, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil || !os.SameFile(pinned, own) {
		return nil, errs.New(op, errs.NotFound, path, fmt.Errorf("process %d is not in the namespace", pid))
	}
	return ParseNetDev(string(data)), nil
}

// ParseNetDev reads proc_pid_net(5)'s dev: two lines of heads, then one for
// each interface. Loopback and lines of another form are left out.
func ParseNetDev(text string) (all []InterfaceCounters) {
	for line := range strings.Lines(text) {
		name, rest, found := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if name = strings.TrimSpace(name); !found || len(fields) < 16 || name == "lo" {
			continue
		}
		var failed error
		at := func(i int) uint64 {
			n, err := strconv.ParseUint(fields[i], 10, 64)
			failed = errors.Join(failed, err)
			return n
		}
		c := InterfaceCounters{
			Name:    name,
			RxBytes: at(0), RxPackets: at(1), RxErrors: at(2), RxDropped: at(3),
			TxBytes: at(8), TxPackets: at(9), TxErrors: at(10), TxDropped: at(11),
		}
		if failed == nil {
			all = append(all, c)
		}
	}
	return all
}
