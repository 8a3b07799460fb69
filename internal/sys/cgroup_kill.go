package sys

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
)

// killBatch bounds how many processes Kill holds a descriptor of at a time.
const killBatch = 128

// freezeAfter is the round of killing after which Kill on a version 1 host
// takes the processes for ones that start others faster than it kills.
const freezeAfter = 3

// Procs gives the ids of the processes in the cgroup at path and below it,
// sorted, as this process sees them. Zombies are not among them. A cgroup
// that is gone has none.
func (c Cgroups) Procs(path string) ([]int, error) {
	const op = "list cgroup"
	if err := CheckCgroupPath(path); err != nil {
		return nil, err
	}
	var all []int
	for _, mount := range c.processMounts() {
		err := walkCgroup(filepath.Join(mount, path), func(dir string) error {
			pids, err := readProcs(dir)
			all = append(all, pids...)
			return err
		})
		if err != nil {
			return nil, errs.New(op, cgroupKind(err), path, err)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// visitors gives those of pids that are in the cgroup at path by a single
// thread only: in version 1 that alone enters (Enter), and the process is
// listed nevertheless. It is somebody who is about to start a process there,
// and must not be killed with those.
func (c Cgroups) visitors(path string, pids []int) (map[int]bool, error) {
	found := map[int]bool{}
	if c.V2() {
		return found, nil
	}
	for _, pid := range pids {
		// The first thread of a process may have ended before the others.
		if st, err := readStat(pid); err == nil && !st.zombie {
			found[pid] = true
		}
	}
	for _, mount := range c.processMounts() {
		file := "tasks"
		if mount == c.unified {
			file = procsFile
		}
		err := walkCgroup(filepath.Join(mount, path), func(dir string) error {
			ids, err := readIDs(dir, file)
			for _, id := range ids {
				delete(found, id)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

const procsFile = "cgroup.procs"

// readProcs reads the processes that sit in dir itself.
func readProcs(dir string) ([]int, error) { return readIDs(dir, procsFile) }

func readIDs(dir, file string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(dir, file))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV):
		return nil, nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, nil // threads only; their processes show in the cgroup above
	case err != nil:
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 { // 0: of a PID namespace that we don't see
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// walkCgroup calls visit for dir and every cgroup below it.
func walkCgroup(dir string, visit func(dir string) error) error {
	if err := visit(dir); err != nil {
		return err
	}
	children, err := cgroupChildren(dir)
	for _, child := range children {
		if err := walkCgroup(child, visit); err != nil {
			return err
		}
	}
	return err
}

// Kill ends every process in the cgroup at path and below it by SIGKILL, the
// calling one excepted, and returns once none is left. It kills at least once,
// even when ctx is over already; when processes are left at the end of ctx
// (one sits in the kernel, on a file system that hangs), the error names them.
// A cgroup that is gone is fine. Frozen cgroups are thawed.
func (c Cgroups) Kill(ctx context.Context, path string) error {
	const op = "kill cgroup"
	for round, wait := 0, time.Millisecond; ; round++ {
		pids, err := c.othersIn(path)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		if err := c.killRound(path, round); err != nil {
			return errs.Wrap(op, path, err)
		}
		select {
		case <-ctx.Done():
			if pids, err = c.othersIn(path); err != nil || len(pids) == 0 {
				return err
			}
			return errs.New(op, errs.KindOf(ctx.Err()), path,
				fmt.Errorf("%d processes don't end (%v): %w", len(pids), pids[:min(len(pids), 8)], ctx.Err()))
		case <-time.After(wait):
			wait = min(2*wait, 50*time.Millisecond)
		}
	}
}

func (c Cgroups) othersIn(path string) ([]int, error) {
	pids, err := c.Procs(path)
	self := os.Getpid()
	return slices.DeleteFunc(pids, func(pid int) bool { return pid == self }), err
}

// killRound sends SIGKILL to all that is there. cgroup.kill does it at once;
// kernels before 5.14 don't have it, it would take this process along, and on
// a hybrid host not everyone need be in the unified hierarchy.
func (c Cgroups) killRound(path string, round int) error {
	all, err := c.Procs(path)
	if err != nil {
		return err
	}
	if c.unified != "" && !slices.Contains(all, os.Getpid()) {
		err := writeCgroupFile(filepath.Join(c.unified, path, "cgroup.kill"), "1")
		if err == nil && c.V2() {
			return nil
		}
	}
	freezer := c.find("freezer")
	if freezer != "" && round >= freezeAfter && !slices.Contains(all, os.Getpid()) {
		setFreezer(filepath.Join(freezer, path), "FROZEN")
	}
	err = c.signalAll(path, unix.SIGKILL)
	if freezer != "" {
		// A frozen process of version 1 takes no signal until it is thawed.
		_ = walkCgroup(filepath.Join(freezer, path), func(dir string) error {
			setFreezer(dir, "THAWED")
			return nil
		})
	}
	return err
}

// setFreezer asks for a state; the kernel reaches it in its own time, or not
// at all while a process sits in it, and nothing depends on that it does.
func setFreezer(dir, state string) {
	_ = writeCgroupFile(filepath.Join(dir, "freezer.state"), state)
}

// signalAll signals the processes one by one. A process id may be used anew
// between reading it and its use: what was in the cgroup both before and after
// its descriptor was opened is signalled, through that descriptor.
func (c Cgroups) signalAll(path string, sig unix.Signal) error {
	pids, err := c.othersIn(path)
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(pids, killBatch) {
		if err := c.signalBatch(path, batch, sig); err != nil {
			return err
		}
	}
	return nil
}

func (c Cgroups) signalBatch(path string, pids []int, sig unix.Signal) error {
	held := make(map[int]int, len(pids)) // process id to descriptor
	defer func() {
		for _, fd := range held {
			_ = unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
			continue // it has ended
		}
		if err != nil {
			return fmt.Errorf("pidfd_open %d: %w", pid, err)
		}
		held[pid] = fd
	}
	still, err := c.othersIn(path)
	if err != nil {
		return err
	}
	visitors, err := c.visitors(path, still)
	if err != nil {
		return err
	}
	for _, pid := range still {
		if fd, ok := held[pid]; ok && !visitors[pid] {
			if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("signal %d: %w", pid, err)
			}
		}
	}
	return nil
}
