package supervisor_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

var sleeper = script("trap 'exit 0' TERM; while :; do sleep 0.1; done")

func TestExec(t *testing.T) {
	p := start(t)
	id := p.runApp(sleeper, process("env", []string{"PATH=/bin", "FROM=app"}), process("cwd", "/tmp"))
	out, code, err := p.execute(wire.ExecParams{ID: id, Args: []string{"sh", "-c", "echo $FROM; pwd; exit 9"}})
	if err != nil || code != 9 || out != "app\n/tmp\n" {
		t.Errorf("out %q, code %d, error %v", out, code, err)
	}
	_, code, err = p.execute(wire.ExecParams{ID: id, Args: []string{"sh", "-c", "kill -9 $$"}})
	if err != nil || code != 137 {
		t.Errorf("code %d, error %v", code, err)
	}
	_, _, err = p.execute(wire.ExecParams{ID: id, Args: []string{"no-such-command"}})
	if err == nil || !strings.Contains(err.Error(), "executable file not found") {
		t.Errorf("error %v", err)
	}
	_, _, err = p.execute(wire.ExecParams{ID: id})
	wantKind(t, err, errs.Invalid)
	wantKind(t, p.call(wire.Exec, wire.ExecParams{ID: id, Args: []string{"true"}}, nil), errs.Invalid)
	p.stop(id, syscall.SIGTERM, time.Second)
	_, _, err = p.execute(wire.ExecParams{ID: id, Args: []string{"true"}})
	wantKind(t, err, errs.Precondition)
	p.shutdown()
}

func TestExecPassesInput(t *testing.T) {
	p := start(t)
	id := p.runApp(sleeper)
	inR, inW := pipe(t)
	outR, outW := pipe(t)
	go func() {
		io.WriteString(inW, "to be echoed")
		inW.Close()
	}()
	c := p.connect()
	defer c.Close()
	req := request(t, wire.Exec, wire.ExecParams{ID: id, Args: []string{"cat"}})
	if err := wire.Send(c, req, inR, outW, outW); err != nil {
		t.Fatal(err)
	}
	inR.Close()
	outW.Close()
	if data, err := io.ReadAll(outR); err != nil || string(data) != "to be echoed" {
		t.Errorf("%q, %v", data, err)
	}
	var r wire.ExecResult
	if err := p.await(c, &r); err != nil || r.ExitCode != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	p.shutdown()
}

// children of a command that is ended must not stay.
const family = "sleep 1111 & (sleep 1112 &) ; setsid sleep 1113 & sh -c 'sleep 1114; true'"

func (p *pod) sleepers(id string) (found []int) {
	p.t.Helper()
	procs, err := p.cgroups.Procs(p.conf.CgroupParent + "/" + id)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, pid := range procs {
		cmdline, _ := os.ReadFile(filepath.Join("/proc", itoa(pid), "cmdline"))
		if strings.HasPrefix(string(cmdline), "sleep\x00111") {
			found = append(found, pid)
		}
	}
	return found
}

func TestExecTimeout(t *testing.T) {
	p := start(t)
	id := p.runApp(sleeper)
	_, _, err := p.execute(wire.ExecParams{ID: id, Args: []string{"sh", "-c", family}, TimeoutMS: 700})
	wantKind(t, err, errs.Timeout)
	if left := p.sleepers(id); len(left) > 0 {
		t.Errorf("%d children of the command live", len(left))
	}
	if st := p.status(id); st.State != "running" {
		t.Errorf("status %+v", st)
	}
	p.shutdown()
}

func TestExecEndsWithItsCaller(t *testing.T) {
	p := start(t)
	id := p.runApp(sleeper)
	c := p.connect()
	null := openNull(t)
	req := request(t, wire.Exec, wire.ExecParams{ID: id, Args: []string{"sh", "-c", family}})
	if err := wire.Send(c, req, null, null, null); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command", func() bool { return len(p.sleepers(id)) == 4 })
	c.Close()
	eventually(t, "the command's end", func() bool { return len(p.sleepers(id)) == 0 })
	p.shutdown()
}

// TestExecEndsWithItsCallerAnyTime: also while the runtime still starts it.
func TestExecEndsWithItsCallerAnyTime(t *testing.T) {
	p := start(t)
	id := p.runApp(sleeper)
	null := openNull(t)
	req := request(t, wire.Exec, wire.ExecParams{ID: id, Args: []string{"sh", "-c", family}})
	for i := range 30 {
		c := p.connect()
		if err := wire.Send(c, req, null, null, null); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 3 * time.Millisecond)
		c.Close()
	}
	// The app's own processes are all that is left: a shell and its sleep.
	eventually(t, "the commands' end", func() bool {
		procs, err := p.cgroups.Procs(p.conf.CgroupParent + "/" + id)
		return err == nil && len(procs) <= 2 && len(p.sleepers(id)) == 0
	})
	p.shutdown()
}

func TestExecOnTerminal(t *testing.T) {
	p := start(t)
	id := p.runApp(sleeper)
	ours, theirs, err := sys.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	c := p.connect()
	defer c.Close()
	req := request(t, wire.Exec, wire.ExecParams{ID: id, Exec: "e1", TTY: true, Args: []string{"sh", "-c", "tty; read x; stty size; exit 4"}})
	if err := wire.Send(c, req, theirs); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	var out strings.Builder
	read := func() error {
		b, _, err := ours.Recv(4096)
		out.Write(b)
		return err
	}
	for !strings.Contains(out.String(), "/dev/pts/") {
		if err := read(); err != nil {
			t.Fatal(err)
		}
	}
	p.must(wire.ResizeTTY, wire.ResizeParams{ID: id, Exec: "e1", Rows: 33, Cols: 77}, nil)
	wantKind(t, p.call(wire.Exec, wire.ExecParams{ID: id, Exec: "e1", TTY: true, Args: []string{"true"}}, nil, openNull(t)), errs.Exists)
	if err := ours.Send([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	for read() == nil {
	}
	if !strings.Contains(out.String(), "33 77") {
		t.Errorf("terminal said %q", out.String())
	}
	var r wire.ExecResult
	if err := p.await(c, &r); err != nil || r.ExitCode != 4 {
		t.Errorf("%+v, %v", r, err)
	}
	wantKind(t, p.call(wire.ResizeTTY, wire.ResizeParams{ID: id, Exec: "e1", Rows: 1, Cols: 1}, nil), errs.NotFound)
	wantKind(t, p.call(wire.ResizeTTY, wire.ResizeParams{ID: id, Rows: 1, Cols: 1}, nil), errs.Precondition)
	p.shutdown()
}
