package cli

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// confinement prints how the shell that runs it is confined, and what it has
// open: its streams, and the directory that lists them.
const confinement = `cat /proc/$$/status | grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)'
for ns in cgroup ipc mnt net pid user uts; do readlink /proc/$$/ns/$ns; done
cat /proc/$$/cgroup /proc/$$/limits /proc/$$/uid_map /proc/$$/gid_map /proc/$$/oom_score_adj
cat /proc/$$/attr/current 2>/dev/null
echo root: $(readlink /proc/$$/root) mounts: $(wc -l </proc/$$/mountinfo)
chroot / true 2>/dev/null; echo chroot: $?
mknod /tmp/node c 1 3 2>/dev/null; echo mknod: $?; rm -f /tmp/node
cd /proc/$$/fd; echo open: *; cd /
for fd in 0 1 2; do readlink /proc/$$/fd/$fd | sed -E 's/[0-9]+/N/'; done
echo done
`

// TestEnterIsConfined: a command is confined as its app is. rkt's enter gave
// it every capability (CVE-2019-10144), no filter of system calls
// (CVE-2019-10145) and no cgroup (CVE-2019-10147).
func TestEnterIsConfined(t *testing.T) {
	h := terminalHost(t)
	for name, c := range map[string]struct {
		flags []string
		has   string // what the app's own lines must show
	}{
		"default":      {nil, `Seccomp:\s+2\n`},
		"capabilities": {[]string{"--caps-retain=CAP_CHOWN"}, `CapBnd:\s+0000000000000001\n`},
		"privileges":   {[]string{"--no-new-privileges", "--user=7"}, `NoNewPrivs:\s+1\n`},
		"no filter":    {[]string{"--seccomp=unconfined"}, `Seccomp:\s+0\n`},
		"own filter":   {[]string{"--seccomp=mode=remove,errno=EPERM,chroot"}, `chroot: [^0]`},
		"users":        {[]string{"--private-users"}, `\n +0 +[12]\d{9} +65536\n`},
		"resources":    {[]string{"--memory=64Mi", "--cpu=500m"}, `open: 0 1 2 3\n`},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := h.Command(append(append([]string{"run", "-d"}, c.flags...), busyboxImage, "--", "sh", "-c", confinement+"exec sleep 1000")...)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			h.Remember()
			pod := strings.TrimSpace(string(out))
			want := ""
			for deadline := time.Now().Add(patience); !strings.HasSuffix(want, "done\n") && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
				logs, _ := h.Command("logs", pod)
				want = string(logs)
			}
			if !regexp.MustCompile(c.has).MatchString(want) {
				t.Fatalf("no %q in what the app shows:\n%s", c.has, want)
			}
			for how, args := range map[string][]string{"exec": {"exec"}, "enter": {"enter"}, "with a terminal": {"exec", "-t"}} {
				got, err := h.Command(append(args, pod, "--", "sh", "-c", confinement)...)
				if err != nil {
					t.Fatalf("%s: %v\n%s", how, err, got)
				}
				if diff := differences(want, strings.ReplaceAll(string(got), "\r", "")); len(diff) > 0 {
					t.Errorf("%s: %s", how, strings.Join(diff, "\n"))
				}
			}
			if out, err := h.Command("rm", "--force", pod); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// differences lists the lines that only one of the two has, but for what a
// stream is: a pipe, a terminal or nothing.
func differences(app, command string) (diff []string) {
	stream := regexp.MustCompile(`^(/dev/null|/null|pipe:\[N\]|/dev/pts/N)$`)
	in := func(lines []string, line string) bool {
		for _, l := range lines {
			if l == line {
				return true
			}
		}
		return stream.MatchString(line)
	}
	a, c := strings.Split(app, "\n"), strings.Split(command, "\n")
	for _, line := range a {
		if !in(c, line) {
			diff = append(diff, "the app alone: "+line)
		}
	}
	for _, line := range c {
		if !in(a, line) {
			diff = append(diff, "the command alone: "+line)
		}
	}
	return diff
}
