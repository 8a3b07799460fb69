package sys

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Pressure is one resource's stall information (the kernel's
// Documentation/accounting/psi.rst): how long some or all processes of a
// cgroup had to wait for it.
type Pressure struct {
	Some, Full PressureLine
}

// PressureLine holds shares of time in percent over the last 10, 60 and 300
// seconds, and the time altogether in microseconds.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// parsePressure reads a *.pressure file. Unknown lines and fields are left
// out: the kernel may add some.
func parsePressure(text string) Pressure {
	var p Pressure
	for line := range strings.Lines(text) {
		kind, rest, _ := strings.Cut(line, " ")
		switch kind {
		case "some":
			p.Some = parsePressureLine(rest)
		case "full":
			p.Full = parsePressureLine(rest)
		}
	}
	return p
}

func parsePressureLine(fields string) PressureLine {
	var l PressureLine
	for field := range strings.FieldsSeq(fields) {
		key, value, _ := strings.Cut(field, "=")
		share, _ := strconv.ParseFloat(value, 64)
		switch key {
		case "avg10":
			l.Avg10 = share
		case "avg60":
			l.Avg60 = share
		case "avg300":
			l.Avg300 = share
		case "total":
			l.Total = parseCount(value)
		}
	}
	return l
}

// keyed is a file of "key value" lines: memory.stat, cpu.stat, memory.events.
type keyed map[string]uint64

func parseKeyed(text string) keyed {
	k := make(keyed)
	for line := range strings.Lines(text) {
		if key, value, found := strings.Cut(strings.TrimSpace(line), " "); found {
			k[key] = parseCount(strings.TrimSpace(value))
		}
	}
	return k
}

// parseCount gives 0 for what is no count; "max" is no limit, so 0 too.
func parseCount(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// parseLimit is parseCount for version 1, where no limit is the largest
// number of whole pages.
func parseLimit(s string) uint64 {
	n := parseCount(s)
	if n > math.MaxInt64-1<<20 {
		return 0
	}
	return n
}

// cgroupFiles reads the files of one cgroup in one hierarchy. A file that is
// missing reads as empty: its controller is not enabled there, or the cgroup
// has gone. The first other error is kept.
type cgroupFiles struct {
	dir string
	err error
}

func (f *cgroupFiles) text(name string) string {
	if f.dir == "" || f.err != nil {
		return ""
	}
	text, err := readKernelFile(f.dir + "/" + name)
	switch {
	case err == nil:
		return strings.TrimSpace(text)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EOPNOTSUPP):
		return ""
	}
	f.err = err
	return ""
}

// readKernelFile reads a small file that the kernel makes up as it is read. It
// is what the figures of a pod cost, so it does without what os.ReadFile does
// for files that may be large, or not ready.
func readKernelFile(path string) (string, error) {
	var fd int
	err := ignoringEINTR(func() (err error) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var buf [8 << 10]byte
	var n int
	err = ignoringEINTR(func() (err error) {
		n, err = unix.Read(fd, buf[:])
		return err
	})
	if err != nil {
		return "", &fs.PathError{Op: "read", Path: path, Err: err}
	}
	if n == len(buf) { // there may be more
		data, err := os.ReadFile(path)
		return string(data), err
	}
	return string(buf[:n]), nil
}

func (f *cgroupFiles) count(name string) uint64 { return parseCount(f.text(name)) }
func (f *cgroupFiles) limit(name string) uint64 { return parseLimit(f.text(name)) }
func (f *cgroupFiles) keyed(name string) keyed  { return parseKeyed(f.text(name)) }
