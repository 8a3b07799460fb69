package supervisor_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

func TestLongLinesAreCut(t *testing.T) {
	p := start(t)
	id := p.runApp(script("head -c 40000 /dev/zero | tr '\\0' x; echo; head -c 16384 /dev/zero | tr '\\0' y; echo; echo z"), withZero)
	p.awaitExit(id)
	log := readLog(t, p.logPath(id))
	want := strings.Repeat("x", 40000) + "\n" + strings.Repeat("y", 16384) + "\nz\n"
	if text(log, "stdout") != want {
		t.Errorf("log has %d bytes, want %d", len(text(log, "stdout")), len(want))
	}
	for _, r := range log {
		if len(r.content) > 16<<10 {
			t.Errorf("record of %d bytes", len(r.content))
		}
	}
	p.shutdown()
}

// withZero gives the app /dev/zero.
var withZero = volume(mountOf("/dev/zero", "/dev/zero"))

func TestPartialTextIsLoggedSoon(t *testing.T) {
	p := start(t)
	id := p.runApp(script("printf 'prompt> '; read x; echo answer; printf tail"), stdin)
	eventually(t, "a part", func() bool { return len(p.logged(id)) == 1 })
	if r := p.logged(id)[0]; r.tag != "P" || r.content != "prompt> " {
		t.Errorf("record %+v", r)
	}
	letTalk(t, p.attach(id))
	p.awaitExit(id)
	log := readLog(t, p.logPath(id))
	if len(log) != 3 || log[1].tag != "F" || log[1].content != "answer" || log[2].tag != "F" || log[2].content != "tail" {
		t.Errorf("log %+v", log)
	}
	p.shutdown()
}

func TestBinaryOutput(t *testing.T) {
	p := start(t)
	id := p.runApp(script(`printf 'a\0b\377\r c\n\n\001\n'`))
	p.awaitExit(id)
	if got := text(readLog(t, p.logPath(id)), "stdout"); got != "a\x00b\xff\r c\n\n\x01\n" {
		t.Errorf("log %q", got)
	}
	p.shutdown()
}

func TestRotation(t *testing.T) {
	p := start(t)
	id := p.runApp(script("trap 'stop=1' TERM; i=0; while [ -z $stop ]; do echo line$i; i=$((i+1)); [ $((i%100)) = 0 ] && sleep 0.02; done; echo end"))
	var files []string
	for i := range 3 {
		eventually(t, "output", func() bool { return len(p.logged(id)) > 0 })
		old := p.logPath(id) + "." + itoa(i)
		if err := os.Rename(p.logPath(id), old); err != nil {
			t.Fatal(err)
		}
		p.must(wire.ReopenLog, wire.AppParams{ID: id}, nil)
		files = append(files, old)
	}
	p.stop(id, syscall.SIGTERM, patience)
	var all, want strings.Builder
	for _, path := range append(files, p.logPath(id)) {
		all.WriteString(text(readLog(t, path), "stdout"))
	}
	for i := range strings.Count(all.String(), "\n") - 1 {
		want.WriteString("line" + itoa(i) + "\n")
	}
	want.WriteString("end\n")
	if all.String() != want.String() {
		t.Errorf("%d bytes in all files, want %d", all.Len(), want.Len())
	}
	wantKind(t, p.call(wire.ReopenLog, wire.AppParams{ID: id}, nil), errs.Precondition)
	p.shutdown()
}

func TestReopenThatCannotKeepsTheOldFile(t *testing.T) {
	p := start(t)
	id := p.runApp(script("echo before; read x; echo after"), stdin)
	p.awaitLine(id, "before")
	old := p.logPath(id) + ".old"
	if err := os.Rename(p.logPath(id), old); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(p.logPath(id), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := p.call(wire.ReopenLog, wire.AppParams{ID: id}, nil); err == nil || !strings.Contains(err.Error(), "0.log") {
		t.Errorf("error %v", err)
	}
	letTalk(t, p.attach(id))
	p.awaitExit(id)
	if got := text(readLog(t, old), "stdout"); got != "before\nafter\n" {
		t.Errorf("log %q", got)
	}
	p.shutdown()
}

// A full disk must not stop the app, nor leave torn records.
func TestFullDisk(t *testing.T) {
	p := prepare(t)
	if err := os.MkdirAll(p.logs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", p.logs, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(p.logs, 0) })
	p.commit()
	id := p.runApp(script("i=0; while [ $i -lt 3000 ]; do echo line$i; i=$((i+1)); done; sleep 0.5; rm -f /log/ballast; echo last"),
		volume(mountOf(p.logs, "/log")))
	if err := os.WriteFile(filepath.Join(p.logs, "ballast"), make([]byte, 40<<10), 0o600); err != nil {
		t.Log(err)
	}
	st := p.awaitExit(id)
	if st.ExitCode != 0 {
		t.Errorf("status %+v", st)
	}
	readLog(t, p.logPath(id))
	if !strings.Contains(p.stage1Log(), "being lost") {
		t.Errorf("stage1.log says %q", p.stage1Log())
	}
	p.shutdown()
}

func TestBackgroundProcessDoesNotHoldBackTheExit(t *testing.T) {
	p := start(t)
	id := p.runApp(script("(sleep 6; echo late) & echo early; exit 5"), namespace("pid", "host"))
	st := p.awaitExit(id)
	if st.ExitCode != 5 {
		t.Errorf("status %+v", st)
	}
	if got := text(readLog(t, p.logPath(id)), "stdout"); got != "early\n" {
		t.Errorf("log %q", got)
	}
	p.shutdown()
}

func TestHolderOfTheStreamsDoesNotHoldBackTheExit(t *testing.T) {
	p := start(t)
	id := p.runApp(script("echo early; read x; exit 5"), stdin)
	// Someone outside of the app who holds its stdout open.
	held, err := os.OpenFile(filepath.Join("/proc", itoa(p.status(id).PID), "fd", "1"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	letTalk(t, p.attach(id))
	st := p.awaitExit(id)
	if st.ExitCode != 5 {
		t.Errorf("status %+v", st)
	}
	if _, err := held.WriteString("late\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the late line", func() bool { return text(p.logged(id), "stdout") == "early\nlate\n" })
	p.must(wire.RemoveApp, wire.AppParams{ID: id}, nil)
	p.shutdown()
}
