package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// cpu is the time of processes and of their children that they waited for
// (proc(5): utime, stime, cutime, cstime).
func cpu(processes []string) (user, system time.Duration) {
	const first, tick = 11, 10 * time.Millisecond
	for _, dir := range processes {
		data, _ := os.ReadFile(filepath.Join(dir, "stat"))
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		if len(fields) < first+4 {
			continue
		}
		var ticks [4]time.Duration
		for i := range ticks {
			n, _ := strconv.ParseInt(fields[first+i], 10, 64)
			ticks[i] = time.Duration(n) * tick
		}
		user, system = user+ticks[0]+ticks[2], system+ticks[1]+ticks[3]
	}
	return user, system
}

// memoryEvery is how often memory is looked at: often enough to see every
// program that decompresses a layer.
const memoryEvery = 20 * time.Millisecond

// watchMemory watches processes and their children. peak ends that, and gives
// the most that they had at once, in KB.
func watchMemory(pids ...int) (peak func() int64) {
	stop, most := make(chan struct{}), make(chan int64)
	go func() {
		var highest int64
		for {
			var now int64
			for _, pid := range pids {
				now += memory(pid)
			}
			highest = max(highest, now)
			select {
			case <-time.After(memoryEvery):
			case <-stop:
				most <- highest
				return
			}
		}
	}()
	return func() int64 {
		close(stop)
		return <-most
	}
}

// memory is the peak so far of a process, and of the children it has now
// (VmHWM of proc(5)), in KB. A child that runs the same program is about to
// run another, and shows its parent's memory.
func memory(self int) (sum int64) {
	dir := filepath.Join("/proc", strconv.Itoa(self))
	data, _ := os.ReadFile(filepath.Join(dir, "status"))
	for line := range strings.Lines(string(data)) {
		if rest, is := strings.CutPrefix(line, "VmHWM:"); is {
			sum, _ = strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	lists, _ := filepath.Glob(filepath.Join(dir, "task", "*", "children"))
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		for _, child := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(child); err == nil && program(pid) != program(self) {
				sum += memory(pid)
			}
		}
	}
	return sum
}

func program(pid int) string {
	path, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	return path
}
