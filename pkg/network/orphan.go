package network

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
)

// orphanGrace is how long a plugin of a dead process may take to end.
const orphanGrace = 10 * time.Second

// awaitOrphans waits for plugins that a process which is dead by now ran for
// the pod, and kills those that hang: a DEL beside an ADD that still runs
// would leave behind what the ADD makes next. Plugins of processes that live
// can't be there, since the caller holds the pod's lock.
func (n *Network) awaitOrphans(ctx context.Context, id string) error {
	if _, ok := n.mine.Load(id); ok {
		return nil
	}
	for started := time.Now(); ; {
		pids := pluginsOf(id)
		if len(pids) == 0 {
			return nil
		}
		if time.Since(started) > orphanGrace {
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return errs.New("wait for plugins of an earlier process", errs.KindOf(ctx.Err()), id, ctx.Err())
		}
	}
}

// pluginsOf finds the processes whose environment says that they act on the
// pod. A daemon that a plugin left behind leads a session of its own, and is
// none of them; nor is a process that only waits to be reaped.
func pluginsOf(id string) []int {
	var pids []int
	variable := []byte("CNI_CONTAINERID=" + id + "\x00")
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		environ, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err == nil && bytes.Contains(environ, variable) && stillRuns(dir, pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// stillRuns reads state and session, the third and sixth fields of proc(5)'s
// stat.
func stillRuns(dir string, pid int) bool {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return false // gone
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	return len(fields) >= 4 && string(fields[0]) != "Z" && string(fields[3]) != strconv.Itoa(pid)
}
