package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// big is the size of a big stream, in bytes.
const big = 1 << 30

// counter counts what is written to it.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// zeros is input without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestBigStreams(t *testing.T) {
	if testing.Short() {
		t.Skip("moves gigabytes")
	}
	s := startServer(t)
	p := s.runPod(t)
	a := p.start(t, "sleep 1000")
	eachTransport(t, func(t *testing.T, by transport) {
		t.Run("out", func(t *testing.T) {
			var out counter
			c := &session{stdout: &out}
			if err := c.stream(s.ctx, by, a.execURL(t, c, "head", "-c", strconv.Itoa(big), "/dev/zero")); err != nil {
				t.Error(err)
			}
			wantEqual(t, "bytes that came", out.n, big)
		})
		t.Run("in", func(t *testing.T) {
			c := &session{stdin: io.LimitReader(zeros{}, big)}
			if err := c.stream(s.ctx, by, a.execURL(t, c, "wc", "-c")); err != nil {
				t.Error(err)
			}
			wantEqual(t, "bytes that came", strings.TrimSpace(c.out.String()), strconv.Itoa(big))
		})
	})
	for what, pid := range map[string]int{"server": s.process.cmd.Process.Pid, "supervisor": p.supervisor(t)} {
		if most := peakMemory(t, pid); most > big/8 {
			t.Errorf("the %s took %d MiB", what, most>>20)
		}
	}
}

// peakMemory gives the most that a process ever had in memory, in bytes
// (proc_pid_status(5), VmHWM).
func peakMemory(t testing.TB, pid int) int64 {
	t.Helper()
	for line := range strings.Lines(readText(t, filepath.Join("/proc", strconv.Itoa(pid), "status"))) {
		if value, is := strings.CutPrefix(line, "VmHWM:"); is {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("process %d has no memory", pid)
	return 0
}

// stuck takes nothing until it is released.
type stuck struct {
	released chan struct{}
	counter
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.released
	return s.counter.Write(p)
}

// TestSlowClients: what a client doesn't take stays with the command, and
// comes to it in full in the end, also after the command's.
func TestSlowClients(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	a := p.start(t, "sleep 1000")
	pids := map[string]int{"server": s.process.cmd.Process.Pid, "supervisor": p.supervisor(t)}
	before := map[string]int64{}
	for what, pid := range pids {
		before[what] = peakMemory(t, pid)
	}
	eachTransport(t, func(t *testing.T, by transport) {
		for _, tty := range []bool{false, true} {
			t.Run(fmt.Sprintf("terminal %t", tty), func(t *testing.T) {
				out := &stuck{released: make(chan struct{})}
				c := &session{stdout: out, tty: tty}
				const size = 64 << 20
				address := a.execURL(t, c, "sh", "-c", fmt.Sprintf("tty -s && stty -opost; head -c %d /dev/zero; exit 9", size))
				ended := make(chan error, 1)
				go func() { ended <- c.stream(s.ctx, by, address) }()
				eventually(t, func() error {
					_, _, err := a.tryExec("ps | grep -q '[h]ead -c'")
					return err
				})
				time.Sleep(3 * time.Second)
				close(out.released)
				var exit utilexec.ExitError
				if err := <-ended; !errors.As(err, &exit) || exit.ExitStatus() != 9 {
					t.Errorf("error %v", err)
				}
				wantEqual(t, "bytes that came", out.n, size)
			})
		}
	})
	for what, pid := range pids {
		if more := peakMemory(t, pid) - before[what]; more > 32<<20 {
			t.Errorf("the %s took %d MiB more for it", what, more>>20)
		}
	}
}

func TestManyStreamsAtOnce(t *testing.T) {
	s := startServer(t)
	a := s.runPod(t).start(t, "sleep 1000")
	eachTransport(t, func(t *testing.T, by transport) {
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				c := &session{stdin: strings.NewReader(fmt.Sprint(i))}
				if err := c.stream(s.ctx, by, a.execURL(t, c, "cat")); err != nil || c.out.String() != fmt.Sprint(i) {
					t.Errorf("%q, %v", c.out.String(), err)
				}
			})
		}
		wg.Wait()
	})
}

// family is a command with descendants of every kind.
const family = "sleep 1111 & (sleep 1112 &); setsid sleep 1113 & sh -c 'sleep 1114; true'"

func (a *app) wantSleepers(t testing.TB, n int) {
	t.Helper()
	eventually(t, func() error {
		found, _, _ := a.tryExec("ps | grep -c 'root  *sleep 111'")
		if got := strings.TrimSpace(found); got != strconv.Itoa(n) {
			return fmt.Errorf("%s processes of the command, not %d", got, n)
		}
		return nil
	})
}

// TestCommandsEndWithTheirClient: and with their server.
func TestCommandsEndWithTheirClient(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	a := p.start(t, "sleep 1000")
	eachTransport(t, func(t *testing.T, by transport) {
		for _, tty := range []bool{false, true} {
			t.Run(fmt.Sprintf("terminal %t", tty), func(t *testing.T) {
				c := &session{tty: tty}
				ctx, cancel := context.WithCancel(s.ctx)
				defer cancel()
				ended := make(chan error, 1)
				address := a.execURL(t, c, "sh", "-c", family)
				go func() { ended <- c.stream(ctx, by, address) }()
				a.wantSleepers(t, 4)
				cancel()
				<-ended
				a.wantSleepers(t, 0)
			})
		}
	})
	t.Run("server killed", func(t *testing.T) {
		c := &session{}
		address := a.execURL(t, c, "sh", "-c", family)
		ended := make(chan error, 1)
		go func() { ended <- c.stream(s.ctx, transports[0], address) }()
		a.wantSleepers(t, 4)
		s.kill()
		<-ended
		s.start()
		a.wantSleepers(t, 0)
		wantEqual(t, "state of the app", a.status(t).State.String(), "CONTAINER_RUNNING")
	})
}

// sizes is a terminal whose sizes are told one after another.
type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, more := <-s
	if !more {
		return nil
	}
	return &size
}

func TestExecOnTerminal(t *testing.T) {
	s := startServer(t)
	a := s.runPod(t).start(t, "sleep 1000")
	eachTransport(t, func(t *testing.T, by transport) {
		in, keys := io.Pipe()
		terminal := make(sizes, 1)
		defer close(terminal)
		terminal <- remotecommand.TerminalSize{Width: 77, Height: 33}
		c := &session{tty: true, stdin: in, sizes: terminal}
		address := a.execURL(t, c, "sh", "-c", "stty size; echo $TERM; tty; trap 'stty size' WINCH; echo ready; until read x; do :; done; echo got $x; exit 4")
		ended := make(chan error, 1)
		go func() { ended <- c.stream(s.ctx, by, address) }()
		awaitOutput(t, &c.out, "33 77\r\nxterm\r\n/dev/pts/")
		awaitOutput(t, &c.out, "\r\nready\r\n")
		terminal <- remotecommand.TerminalSize{Width: 120, Height: 50}
		awaitOutput(t, &c.out, "50 120")
		fmt.Fprint(keys, "ke\x7fys\n")
		awaitOutput(t, &c.out, "got kys")
		var exit utilexec.ExitError
		if err := <-ended; !errors.As(err, &exit) || exit.ExitStatus() != 4 {
			t.Errorf("error %v", err)
		}
		keys.Close()
	})
}

// TestCommandsThatDontRun: a user gets the reason and an exit code.
func TestCommandsThatDontRun(t *testing.T) {
	s := startServer(t)
	a := s.runPod(t).start(t, "echo text > /tmp/plain; echo ready; sleep 1000")
	a.awaitLine(t, "ready")
	eachTransport(t, func(t *testing.T, by transport) {
		for _, tty := range []bool{false, true} {
			for command, code := range map[string]int{"no-such-command": 127, "/no/such/command": 127, "/tmp/plain": 126} {
				c := &session{tty: tty}
				err := c.stream(s.ctx, by, a.execURL(t, c, command))
				var exit utilexec.ExitError
				if !errors.As(err, &exit) || exit.ExitStatus() != code {
					t.Errorf("%s: %v", command, err)
				}
				if said := c.out.String() + c.err.String(); !strings.Contains(said, command) {
					t.Errorf("%s: the user reads %q", command, said)
				}
			}
		}
	})
}
