package supervisor_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

func mountOf(source, destination string) manifest.Mount {
	return manifest.Mount{Source: source, Destination: destination, Propagation: manifest.PropagationPrivate}
}

func sharedPID(c *manifest.Pod) { c.Namespaces.PID = manifest.NamespacePod }

// commit launches what prepare made, and moves it to where pods run.
func (p *pod) commit() {
	p.t.Helper()
	hold, err := p.launch()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(p.prepareDir(), string(p.dir)); err != nil {
		p.t.Fatal(err)
	}
	hold.Close()
}

func (p *pod) locked() bool {
	p.t.Helper()
	for _, dir := range []string{p.prepareDir(), string(p.dir)} {
		if locked, err := sys.DirLocked(dir); err == nil {
			return locked
		}
	}
	p.t.Fatal("the pod's directory is gone")
	return false
}

func TestSharedPIDNamespace(t *testing.T) {
	p := start(t, sharedPID)
	if p.hello.Namespaces["pid"] == "" {
		t.Fatalf("hello %+v", p.hello)
	}
	one := p.runApp(script("sleep 1000 & sleep 1000 & echo ready; exec sleep 1000"))
	p.awaitLine(one, "ready")
	two := p.runApp(script("ps; kill -TERM 1; kill -KILL 1; kill -INT 1; sleep 0.3; ps; ls /proc/1/root/; ls /proc/1/fd"))
	if st := p.awaitExit(two); st.State != manifest.AppExited || st.Signal != 0 {
		t.Errorf("status %+v", st)
	}
	out := text(readLog(t, p.logPath(two)), "stdout")
	if strings.Count(out, "stagelet-stage1 init") < 2 || !strings.Contains(out, "sleep 1000") {
		t.Errorf("ps said %s", out)
	}
	if strings.Contains(out, "usr") || strings.Contains(out, "proc\n") {
		t.Errorf("an app sees a file system behind init: %s", out)
	}
	if st := p.status(one); st.State != manifest.AppRunning {
		t.Errorf("status %+v", st)
	}
	p.stop(one, syscall.SIGKILL, 0)
	if left, _ := p.cgroups.Procs(p.conf.CgroupParent + "/" + one); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	p.shutdown()
}

// An app that ends takes all of its processes along, also where no PID
// namespace of its own sees to that.
func TestAppTakesItsProcessesAlong(t *testing.T) {
	p := start(t, sharedPID)
	for _, ns := range []string{p.hello.Namespaces["pid"], "host"} {
		id := p.runApp(script("sleep 1111 & (setsid sleep 1112 &); sleep 0.2; exit 2"), namespace("pid", ns))
		if st := p.awaitExit(id); st.ExitCode != 2 {
			t.Errorf("status %+v", st)
		}
		if left := p.sleepers(id); len(left) > 0 {
			t.Errorf("processes %v are left", left)
		}
	}
	p.shutdown()
}

func TestNamespacesHostnameSysctls(t *testing.T) {
	p := start(t, func(c *manifest.Pod) {
		c.Hostname = "a-pod"
		c.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "77", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "13"}
	})
	id := p.runApp(script("hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max; ls /sys/class/net 2>/dev/null; cat /proc/net/dev | grep -c :"))
	p.awaitExit(id)
	if got := text(readLog(t, p.logPath(id)), "stdout"); !strings.HasPrefix(got, "a-pod\n77\n1\n13\n") {
		t.Errorf("log %q", got)
	}
	var st wire.StatsResult
	p.must(wire.Stats, nil, &st)
	if len(st.Network) != 0 { // loopback does not count
		t.Errorf("stats %+v", st)
	}
	fi, err := os.Stat(filepath.Join("/proc", itoa(p.proc.Pid), "root", p.run.Shm()))
	if err != nil || fi.Mode().Perm() != 0o777 || fi.Mode()&os.ModeSticky == 0 {
		t.Errorf("shm %v, %v", fi, err)
	}
	p.shutdown()
}

func TestBadSysctls(t *testing.T) {
	host := func(c *manifest.Pod) {
		c.Namespaces.Network, c.Namespaces.IPC = manifest.NamespaceHost, manifest.NamespaceHost
	}
	cases := map[string][]podOption{
		"net.ipv4.ip_forward":    {host},
		"kernel.shmmax":          {host},
		"kernel.panic":           nil,
		"net/../kernel/panic":    nil,
		"net.ipv4.no_such_thing": nil,
		"":                       nil,
	}
	for name, options := range cases {
		t.Run(name, func(t *testing.T) {
			p := prepare(t, append(options, func(c *manifest.Pod) { c.Sysctls = map[string]string{name: "1"} })...)
			_, err := p.launch()
			wantKind(t, err, errs.Invalid)
			if !strings.Contains(err.Error(), name) {
				t.Errorf("error %v does not name the sysctl", err)
			}
			if p.exited() == nil {
				t.Error("the supervisor ended well")
			}
			if p.locked() {
				t.Error("the pod is still locked")
			}
		})
	}
}

func TestLauncherDiesBeforeTheCommit(t *testing.T) {
	p := prepare(t, sharedPID)
	hold, err := p.launch()
	if err != nil {
		t.Fatal(err)
	}
	init := strings.Split(p.hello.Namespaces["pid"], "/")[2]
	hold.Close()
	if p.exited() == nil {
		t.Error("the supervisor ended well")
	}
	if p.locked() {
		t.Error("the pod is still locked")
	}
	eventually(t, "the end of init", func() bool {
		_, err := os.Stat("/proc/" + init + "/ns/pid")
		return err != nil
	})
}

func TestCorruptPodIsRefused(t *testing.T) {
	p := prepare(t)
	if err := os.WriteFile(filepath.Join(p.prepareDir(), "pod.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := p.launch()
	wantKind(t, err, errs.Corrupt)
	_ = p.exited()
}

// Nothing that the supervisor starts may hold the pod's lock, or any other
// descriptor of the supervisor's.
func TestDescriptorsAreNotInherited(t *testing.T) {
	p := start(t, sharedPID)
	id := p.runApp(script("env; ls -l /proc/self/fd; echo ready; exec sleep 1000"), stdin)
	p.awaitLine(id, "ready")
	out, _, err := p.execute(wire.ExecParams{ID: id, Args: []string{"sh", "-c", "ls -l /proc/$$/fd; env"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{string(filepath.Separator) + filepath.Base(string(p.dir)), "mnt:", "GOMAXPROCS", "STAGELET"} {
		if strings.Contains(out, leak) || strings.Contains(text(p.logged(id), "stdout"), leak) {
			t.Errorf("%q reaches apps: %s", leak, out)
		}
	}
	procs, err := p.cgroups.Procs(p.conf.CgroupParent)
	if err != nil {
		t.Fatal(err)
	}
	if len(procs) < 3 {
		t.Fatalf("processes %v", procs)
	}
	for _, pid := range procs {
		if pid == p.proc.Pid {
			continue
		}
		fds, _ := os.ReadDir(filepath.Join("/proc", itoa(pid), "fd"))
		for _, fd := range fds {
			to, _ := os.Readlink(filepath.Join("/proc", itoa(pid), "fd", fd.Name()))
			if strings.Contains(to, string(p.dir)) || strings.HasPrefix(to, "mnt:") || len(fds) > 4 && !isInit(pid) {
				t.Errorf("process %d has %s: %s", pid, fd.Name(), to)
			}
		}
	}
	p.shutdown()
}

// isInit: our init has the Go runtime's own descriptors, too.
func isInit(pid int) bool {
	cmdline, _ := os.ReadFile(filepath.Join("/proc", itoa(pid), "cmdline"))
	return bytes.Contains(cmdline, []byte("init"))
}

func TestKilledSupervisorFreesAll(t *testing.T) {
	p := start(t, sharedPID)
	id := p.runApp(script("sleep 1000"), volume(mountOf(t.TempDir(), "/data")))
	if !p.locked() {
		t.Error("the pod is not locked")
	}
	pid := p.status(id).PID
	if err := p.proc.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.exited()
	// In the shared PID namespace the kernel ends the apps, too.
	eventually(t, "the app's end", func() bool { return syscall.Kill(pid, 0) != nil })
	if p.locked() {
		t.Error("the pod is still locked")
	}
	host, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(host), filepath.Dir(string(p.run))) {
		t.Errorf("mounts of the host:\n%s", host)
	}
}

func TestSignalsDoNotEndThePod(t *testing.T) {
	p := start(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE} {
		if err := syscall.Kill(p.proc.Pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	// … and apps are not born deaf to them.
	id := p.runApp(command("sleep", "1000"), namespace("pid", "host"))
	if st := p.stop(id, syscall.SIGTERM, patience); st.Signal != int(syscall.SIGTERM) {
		t.Errorf("status %+v", st)
	}
	p.shutdown()
}

func TestIdempotentAdd(t *testing.T) {
	p := start(t)
	a := p.write()
	for range 2 {
		p.must(wire.AddApp, wire.AddAppParams{App: a}, nil)
	}
	a.LogPath = "elsewhere"
	wantKind(t, p.call(wire.AddApp, wire.AddAppParams{App: a}, nil), errs.Exists)
	for _, id := range []string{"", "..", "a/b", "-x", strings.Repeat("a", 200), "a\x00"} {
		a.ID = id
		wantKind(t, p.call(wire.AddApp, wire.AddAppParams{App: a}, nil), errs.Invalid)
	}
	a.ID = "absent"
	wantKind(t, p.call(wire.AddApp, wire.AddAppParams{App: a}, nil), errs.NotFound)
	a.PodID = "another"
	wantKind(t, p.call(wire.AddApp, wire.AddAppParams{App: a}, nil), errs.Invalid)
	p.shutdown()
}

// A runtime that hangs is its app's trouble only.
func TestHungStartBlocksNobody(t *testing.T) {
	p := start(t)
	dir := t.TempDir()
	fifo, begun := filepath.Join(dir, "fifo"), filepath.Join(dir, "begun")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	hung := p.add(func(_ *manifest.App, s spec) {
		s["hooks"] = map[string]any{"createRuntime": []map[string]any{{"path": "/bin/sh", "args": []string{"sh", "-c", "touch " + begun + "; exec cat " + fifo}}}}
	})
	failed := make(chan error)
	go func() { failed <- p.call(wire.StartApp, wire.AppParams{ID: hung}, nil) }()
	eventually(t, "the start", func() bool { _, err := os.Stat(begun); return err == nil })
	ok := p.runApp(script("exit 0"))
	p.awaitExit(ok)
	wantKind(t, p.call(wire.RemoveApp, wire.AppParams{ID: hung}, nil), errs.Precondition)
	if st := p.stop(hung, syscall.SIGTERM, time.Second); st.Reason != manifest.ReasonStartError {
		t.Errorf("status %+v", st)
	}
	wantKind(t, <-failed, errs.Canceled)
	p.checkNothingStaged(t, hung)
	p.shutdown()
}

func TestUpdate(t *testing.T) {
	p := start(t)
	id := p.runApp(script("sleep 1000"))
	p.must(wire.UpdateApp, wire.UpdateParams{ID: id, Resources: manifest.Resources{MemoryLimit: 64 << 20, CPUShares: 555}}, nil)
	st, err := p.cgroups.Stats(p.conf.CgroupParent + "/" + id)
	if err != nil || st.Memory.Limit != 64<<20 {
		t.Errorf("stats %+v, %v", st, err)
	}
	p.stop(id, syscall.SIGKILL, 0)
	wantKind(t, p.call(wire.UpdateApp, wire.UpdateParams{ID: id}, nil), errs.Precondition)
	p.shutdown()
}

func TestOOM(t *testing.T) {
	p := start(t)
	id := p.runApp(script("x=a; while :; do x=$x$x; done"), func(_ *manifest.App, s spec) {
		s["linux"].(map[string]any)["resources"] = map[string]any{"memory": map[string]any{"limit": 16 << 20}}
	})
	st := p.awaitExit(id)
	if !st.OOMKilled || st.Reason != manifest.ReasonOOMKilled || st.ExitCode == 0 {
		t.Errorf("status %+v", st)
	}
	if e := p.follow(2, 2); e[0].Kind != wire.EventOOM || e[1].Kind != wire.EventExited {
		t.Errorf("events %+v", e)
	}
	p.shutdown()
}

func TestDial(t *testing.T) {
	p := start(t)
	id := p.runApp(script("nc -l -p 4321 -e echo hello from inside"))
	_ = id
	var files []*os.File
	eventually(t, "the port", func() bool {
		return p.call(wire.Dial, wire.DialParams{Port: 4321}, &files) == nil
	})
	if len(files) != 1 {
		t.Fatalf("%d descriptors", len(files))
	}
	defer files[0].Close()
	b := make([]byte, 100)
	n, err := files[0].Read(b)
	if err != nil || string(b[:n]) != "hello from inside\n" {
		t.Errorf("%q, %v", b[:n], err)
	}
	wantKind(t, p.call(wire.Dial, wire.DialParams{Port: 4322}, nil), errs.Unavailable)
	wantKind(t, p.call(wire.Dial, wire.DialParams{}, nil), errs.Invalid)
	p.shutdown()
}

func TestBadRequests(t *testing.T) {
	p := start(t)
	frame := func(body string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	cases := map[string]struct {
		bytes []byte
		kind  errs.Kind
	}{
		"no JSON":       {frame("{"), errs.Corrupt},
		"wrong type":    {frame(`{"major":"one"}`), errs.Corrupt},
		"huge":          {binary.BigEndian.AppendUint32(nil, 1<<31), errs.Corrupt},
		"other major":   {frame(`{"major":2,"method":"Hello"}`), errs.Unsupported},
		"unknown verb":  {frame(`{"major":1,"method":"Fly"}`), errs.Unsupported},
		"bad params":    {frame(`{"major":1,"method":"StartApp","params":[1]}`), errs.Invalid},
		"no params":     {frame(`{"major":1,"method":"StartApp"}`), errs.Invalid},
		"null params":   {frame(`{"major":1,"method":"StopApp","params":null}`), errs.Invalid},
		"endless grace": {frame(`{"major":1,"method":"StopApp","params":{"id":"x","signal":15,"graceMS":9223372036854775807}}`), errs.NotFound},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			conn := p.connect()
			defer conn.Close()
			if err := conn.Send(c.bytes); err != nil {
				t.Fatal(err)
			}
			wantKind(t, p.await(conn, nil), c.kind)
		})
	}
	p.must(wire.Hello, nil, nil)
	p.shutdown()
}

func TestTooManyDescriptors(t *testing.T) {
	p := start(t)
	conn := p.connect()
	defer conn.Close()
	body, _ := json.Marshal(wire.Request{Major: 1, Method: wire.Hello})
	null := openNull(t)
	files := slices.Repeat([]*os.File{null}, 12)
	if err := conn.Send(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...), files...); err != nil {
		t.Fatal(err)
	}
	if err := p.await(conn, nil); !errors.Is(err, errs.Corrupt) {
		t.Errorf("error %v", err)
	}
	p.shutdown()
}
