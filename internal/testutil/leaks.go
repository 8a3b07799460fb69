package testutil

import (
	"bufio"
	"bytes"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// leakPatience is how long what a test started may take to vanish after it.
const leakPatience = 30 * time.Second

// Name gives t a name that no other test on this machine uses at the same
// time: for cgroups, network namespaces and interfaces. It is the same for
// every call of one test, and has 9 characters, so that it and a few more fit
// into the name of an interface.
func Name(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("s%08x", crc32.ChecksumIEEE([]byte(Dir(t))))
}

// Dir gives the directory that holds all of t's temporary directories.
func Dir(t testing.TB) string {
	t.Helper()
	return filepath.Dir(t.TempDir())
}

// CheckLeaks fails t if it leaves anything behind after its clean-up:
// descriptors of the test process, its child processes, processes and mounts
// (pinned namespaces among them) that have to do with t's temporary
// directories, cgroups and network interfaces with t's Name in theirs.
//
// Call it first of all, so that it looks last. Descriptors and children are
// those of the whole test process: t must not run in parallel with others.
func CheckLeaks(t testing.TB) {
	t.Helper()
	scope := Scope{Dir: Dir(t), Name: Name(t)}
	fds, children := descriptors(), Children(os.Getpid())
	t.Cleanup(func() {
		var left []string
		for deadline := time.Now().Add(leakPatience); ; time.Sleep(20 * time.Millisecond) {
			left = scope.Leaks()
			left = append(left, newDescriptors(fds)...)
			left = append(left, newChildren(children)...)
			if len(left) == 0 || time.Now().After(deadline) {
				break
			}
		}
		for _, l := range left {
			t.Errorf("left behind: %s", l)
		}
	})
}

// Scope tells what belongs to a test from what others do on the machine.
type Scope struct {
	Dir  string // every path of the test is below it
	Name string // part of every other name of the test
}

// Leaks describes each thing of the scope that exists, sorted.
func (s Scope) Leaks() []string {
	var all []string
	all = append(all, s.mounts()...)
	for _, pid := range s.Processes() {
		all = append(all, describeProcess(pid))
	}
	all = append(all, s.cgroups()...)
	all = append(all, s.interfaces()...)
	slices.Sort(all)
	return all
}

// mounts lists those of this mount namespace that lie below s.Dir, or are
// made of something there.
func (s Scope) mounts() (found []string) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{"unreadable: " + err.Error()}
	}
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, s.Dir+"/") {
			found = append(found, "mount "+strings.TrimSpace(line))
		}
	}
	return found
}

// Processes gives the ids of those whose command line, cgroup or root file
// system belong to s: an app's root is an overlay of directories below s.Dir.
// That a process merely sees a mount of s tells nothing: whoever made a mount
// namespace meanwhile does.
func (s Scope) Processes() (found []int) {
	for _, pid := range processIDs() {
		switch {
		case pid == 1, pid == os.Getpid():
		case s.commandMatches(pid), s.cgroupMatches(pid), s.rootMatches(pid):
			found = append(found, pid)
		}
	}
	return found
}

// Kill ends the processes of s by force; those that they start meanwhile, too.
func (s Scope) Kill() {
	for range 20 {
		pids := s.Processes()
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(pids) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Unmount takes down what is mounted below s.Dir in this mount namespace, what
// came last first.
func (s Scope) Unmount() {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range slices.Backward(strings.Split(string(mounts), "\n")) {
		const mountPoint = 4
		if fields := strings.Fields(line); len(fields) > mountPoint && strings.HasPrefix(fields[mountPoint], s.Dir+"/") {
			_ = syscall.Unmount(fields[mountPoint], syscall.MNT_DETACH)
		}
	}
}

func (s Scope) commandMatches(pid int) bool { return fileHas(procFile(pid, "cmdline"), s.Dir+"/") }
func (s Scope) cgroupMatches(pid int) bool  { return fileHas(procFile(pid, "cgroup"), s.Name) }

// rootMatches looks for s.Dir in the line of proc(5)'s mountinfo that tells of
// the mount at "/".
func (s Scope) rootMatches(pid int) bool {
	data, err := os.ReadFile(procFile(pid, "mountinfo"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		const mountPoint = 4
		if fields := strings.Fields(line); len(fields) > mountPoint && fields[mountPoint] == "/" && strings.Contains(line, s.Dir+"/") {
			return true
		}
	}
	return false
}

func (s Scope) cgroups() (found []string) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(d.Name(), s.Name) {
			found = append(found, "cgroup "+path)
			return fs.SkipDir
		}
		return nil
	})
	return found
}

// interfaces lists those with s.Name in their name, and the ports of such a
// bridge.
func (s Scope) interfaces() (found []string) {
	links, _ := os.ReadDir("/sys/class/net")
	for _, link := range links {
		master, _ := os.Readlink(filepath.Join("/sys/class/net", link.Name(), "master"))
		if strings.Contains(link.Name(), s.Name) || strings.Contains(filepath.Base(master), s.Name) {
			found = append(found, "network interface "+link.Name())
		}
	}
	return found
}

// descriptors maps each open descriptor of this process to what it is.
// The Go runtime's own are left out.
func descriptors() map[string]string {
	open := map[string]string{}
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		to, err := os.Readlink("/proc/self/fd/" + fd.Name())
		switch {
		case err != nil: // the descriptor of ReadDir itself
		case to == "anon_inode:[eventpoll]", to == "anon_inode:[eventfd]":
		case strings.HasPrefix(to, "/proc/") && strings.HasSuffix(to, "/fd"):
		default:
			open[fd.Name()] = to
		}
	}
	return open
}

func newDescriptors(before map[string]string) (found []string) {
	for fd, to := range descriptors() {
		if before[fd] != to {
			found = append(found, "descriptor "+fd+" of "+to)
		}
	}
	return found
}

func newChildren(before []int) (found []string) {
	for _, pid := range Children(os.Getpid()) {
		if !slices.Contains(before, pid) {
			found = append(found, "child "+describeProcess(pid))
		}
	}
	return found
}

// Children gives the ids of the processes below pid, at any depth, sorted.
func Children(pid int) []int {
	parents := map[int]int{}
	for _, p := range processIDs() {
		parents[p] = parentOf(p)
	}
	below := map[int]bool{pid: true}
	for grown := true; grown; {
		grown = false
		for p, parent := range parents {
			if below[parent] && !below[p] {
				below[p], grown = true, true
			}
		}
	}
	delete(below, pid)
	return slices.Sorted(maps.Keys(below))
}

// parentOf reads the fourth field of proc(5)'s stat; 0 when pid is gone.
func parentOf(pid int) int {
	data, err := os.ReadFile(procFile(pid, "stat"))
	end := bytes.LastIndexByte(data, ')')
	if err != nil || end < 0 {
		return 0
	}
	fields := strings.Fields(string(data[end+1:]))
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

func processIDs() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func describeProcess(pid int) string {
	cmdline, _ := os.ReadFile(procFile(pid, "cmdline"))
	if len(cmdline) == 0 {
		cmdline, _ = os.ReadFile(procFile(pid, "comm"))
	}
	return fmt.Sprintf("process %d %q", pid, bytes.TrimSpace(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// fileHas reports whether the file at path, of any size, has text in one of
// its lines.
func fileHas(path, text string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(make([]byte, 0, 64<<10), 4<<20)
	for lines.Scan() {
		if strings.Contains(lines.Text(), text) {
			return true
		}
	}
	return false
}
