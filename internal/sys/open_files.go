package sys

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxOpenFiles bounds how many descriptors OpenFiles looks at.
const maxOpenFiles = 1 << 17

// OpenFiles counts the descriptors of the processes, and the sockets among
// them. Processes that end meanwhile count for nothing; whole is false when
// there were too many to look at all of them.
func OpenFiles(pids []int) (files, sockets uint64, whole bool) {
	for _, pid := range pids {
		dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			continue
		}
		f, s := openFilesIn(dir, maxOpenFiles-files)
		_ = dir.Close()
		files, sockets = files+f, sockets+s
		if files >= maxOpenFiles {
			return files, sockets, false
		}
	}
	return files, sockets, true
}

func openFilesIn(dir *os.File, limit uint64) (files, sockets uint64) {
	var target [16]byte
	for files < limit {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			files++
			n, err := unix.Readlinkat(int(dir.Fd()), name, target[:])
			if err == nil && strings.HasPrefix(string(target[:n]), "socket:") {
				sockets++
			}
		}
		if err != nil {
			break
		}
	}
	return files, sockets
}

// OpenFilesLimit gives how many descriptors a process may have (RLIMIT_NOFILE,
// the soft one); false when there is no such process, or no limit.
func OpenFilesLimit(pid int) (uint64, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid)) // proc_pid_limits(5)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		rest, found := strings.CutPrefix(line, "Max open files")
		if !found {
			continue
		}
		if fields := strings.Fields(rest); len(fields) > 0 {
			n, err := strconv.ParseUint(fields[0], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
