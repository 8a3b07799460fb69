package cli

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/host"
)

// terminalHost is a host with the image of busybox.
func terminalHost(t *testing.T) *host.Host {
	t.Helper()
	testutil.NeedRunc(t)
	testutil.NeedBusybox(t)
	h, err := host.New(t, testutil.Binaries(t), testutil.NeedCNI(t), "")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := h.Command("image", "import", writeBusybox(t)); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return h
}

// typist sits at a terminal and runs one command on it.
type typist struct {
	t      *testing.T
	master *os.File
	tty    *os.File // what the command has for its terminal
	before *term.State
	cmd    *exec.Cmd
	ended  chan struct{}

	mu   sync.Mutex
	seen bytes.Buffer
	read int // how much of it was expected
}

// sit runs the host's program at a terminal of 24 lines of 80 characters.
func sit(t *testing.T, h *host.Host, args ...string) *typist {
	t.Helper()
	master, tty, err := pty.Open()
	if err == nil {
		master, err = sys.Terminal(master) // one that can be closed while it is read
	}
	if err != nil {
		t.Fatal(err)
	}
	p := &typist{t: t, master: master, tty: tty, ended: make(chan struct{})}
	p.resize(24, 80)
	if p.before, err = term.GetState(int(tty.Fd())); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.CommandContext(t.Context(), h.Program(), args...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = tty, tty, tty
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.watch()
	go func() { _ = p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		tty.Close()
		master.Close()
		h.Remember()
	})
	return p
}

func (p *typist) watch() {
	b := make([]byte, 4096)
	for {
		n, err := p.master.Read(b)
		p.mu.Lock()
		p.seen.Write(b[:n])
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (p *typist) resize(rows, cols uint16) {
	p.t.Helper()
	if err := pty.Setsize(p.master, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *typist) types(text string) {
	p.t.Helper()
	if _, err := p.master.WriteString(text); err != nil {
		p.t.Fatal(err)
	}
}

// sees waits until the terminal shows what matches, behind what it was seen to
// show before, and gives that.
func (p *typist) sees(re string) string {
	p.t.Helper()
	want := regexp.MustCompile(re)
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		text := p.seen.Bytes()[p.read:]
		if at := want.FindIndex(text); at != nil {
			found := string(text[at[0]:at[1]])
			p.read += at[1]
			p.mu.Unlock()
			return found
		}
		all := p.seen.String()
		p.mu.Unlock()
		if time.Now().After(deadline) {
			p.t.Fatalf("no %q in %q", re, all)
		}
	}
}

// leaves waits for the end of the command, and looks how that left the
// terminal.
func (p *typist) leaves(code int) {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("it goes on; the terminal shows %q", p.seen.String())
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Errorf("exit code %d, want %d; the terminal shows %q", got, code, p.seen.String())
	}
	after, err := term.GetState(int(p.tty.Fd()))
	if err != nil || !reflect.DeepEqual(after, p.before) {
		p.t.Errorf("the terminal isn't as it was: %v", err)
	}
}

const prompt = `/ # (\x1b\[6n)?$` // busybox asks where the cursor is

func pods(t *testing.T, h *host.Host) string {
	t.Helper()
	out, err := h.Command("list", "-o", "json")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	h.Remember()
	return string(out)
}

// started waits until the only app is known to run: one that is stopped before
// is killed.
func started(t *testing.T, h *host.Host) {
	t.Helper()
	for deadline := time.Now().Add(patience); strings.Count(pods(t, h), `"running"`) < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the app isn't running")
		}
	}
}

// TestTerminal: the app has a terminal of its own. Handing it the caller's
// would let it type on that (TIOCSTI, as in CVE-2017-5226).
func TestTerminal(t *testing.T) {
	h := terminalHost(t)
	p := sit(t, h, "run", "--rm", "-it", busyboxImage, "--", "sh")
	p.sees(prompt)
	p.types("stty size\r")
	p.sees(`\n24 80\r\n` + prompt)
	p.types("tty\r")
	p.sees(`\n/dev/pts/0\r\n` + prompt)
	p.resize(30, 100)
	p.types("while [ \"$(stty size)\" != '30 100' ]; do usleep 10000; done; echo res''ized\r")
	p.sees(`resized\r\n` + prompt)
	p.types("sh -c 'echo begun; exec sleep 1000'\r")
	p.sees(`\nbegun\r\n`)
	p.types("\x03")
	p.sees(prompt)
	p.types("echo code $?\r")
	p.sees(`\ncode 130\r\n` + prompt)
	p.types("exit 4\r")
	p.leaves(4)
	if all := strings.TrimSpace(pods(t, h)); all != "[]" {
		t.Errorf("left: %s", all)
	}
}

func TestKillKeys(t *testing.T) {
	h := terminalHost(t)
	p := sit(t, h, "run", "--rm", "-it", busyboxImage, "--", "sh", "-c", "trap '' INT TERM; echo ready; cat")
	p.sees("ready")
	p.types("\x1d\x1d\x1d")
	p.leaves(137)
	if all := strings.TrimSpace(pods(t, h)); all != "[]" {
		t.Errorf("left: %s", all)
	}
}

func TestDetachKeys(t *testing.T) {
	h := terminalHost(t)
	p := sit(t, h, "run", "-it", "--uuid-file-save="+h.Path("id"), busyboxImage, "--", "sh")
	p.sees(prompt)
	p.types("\x10\x11")
	p.sees("goes on")
	p.leaves(0)
	if all := pods(t, h); !strings.Contains(all, `"running"`) {
		t.Fatalf("pods: %s", all)
	}
	id, err := os.ReadFile(h.Path("id"))
	if err != nil {
		t.Fatal(err)
	}
	pod := strings.TrimSpace(string(id))

	p = sit(t, h, "attach", "--detach-keys=ctrl-a,d", pod)
	p.resize(31, 101)
	p.types("while [ \"$(stty size)\" != '31 101' ]; do usleep 10000; done; echo res''ized\r")
	p.sees(`resized\r\n` + prompt)
	p.types("\x01d")
	p.leaves(0)

	p = sit(t, h, "exec", "-it", pod)
	p.sees(prompt)
	p.types("stty size\r")
	p.sees(`\n24 80\r\n` + prompt)
	p.resize(32, 102)
	p.types("while [ \"$(stty size)\" != '32 102' ]; do usleep 10000; done; echo res''ized\r")
	p.sees(`resized\r\n` + prompt)
	p.types("\x1d\x1d\x1d")
	p.leaves(137)
	if all := pods(t, h); !strings.Contains(all, `"running"`) {
		t.Fatalf("keys of a command ended the pod: %s", all)
	}

	p = sit(t, h, "attach", pod)
	p.types("exit 3\r")
	p.leaves(3)
}

// Who leaves before the app is started leaves it running all the same.
func TestDetachAtOnce(t *testing.T) {
	h := terminalHost(t)
	for range 5 {
		p := sit(t, h, "run", "-it", "--detach-keys=ctrl-a,d", "--uuid-file-save="+h.Path("id"), busyboxImage, "--", "sh", "-c", "exec sleep 1000")
		p.types("\x01d")
		p.sees("goes on")
		p.leaves(0)
		id, err := os.ReadFile(h.Path("id"))
		if err != nil {
			t.Fatal(err)
		}
		pod := strings.TrimSpace(string(id))
		if out, err := h.Command("exec", pod, "--", "true"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if out, err := h.Command("rm", "-f", pod); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

// TestTerminalIsGivenBack, whatever ends the command.
func TestTerminalIsGivenBack(t *testing.T) {
	h := terminalHost(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		p := sit(t, h, "run", "--rm", "-it", busyboxImage, "--", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
		p.sees("ready")
		started(t, h)
		if err := p.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		p.leaves(9)
	}
	p := sit(t, h, "run", "--rm", "-it", busyboxImage, "--", "/no/such")
	p.leaves(127)
}

// TestHangup: who closes the window ends what runs in it.
func TestHangup(t *testing.T) {
	h := terminalHost(t)
	p := sit(t, h, "run", "--rm", "-it", busyboxImage, "--", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
	p.sees("ready")
	if err := errors.Join(p.tty.Close(), p.master.Close()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
	if all := strings.TrimSpace(pods(t, h)); all != "[]" {
		t.Errorf("left: %s", all)
	}
}
