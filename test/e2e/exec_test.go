package e2e

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
	utilexec "k8s.io/utils/exec"
)

// maxExecOutput is what ExecSync gives of each stream at most, in bytes.
const maxExecOutput = 16 << 20

func TestExecSync(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	a := p.start(t, "export SECRET=x; sleep 1000", func(c *cri.ContainerConfig) {
		c.Envs = []*cri.KeyValue{{Key: "COLOUR", Value: []byte("blue")}}
		c.WorkingDir = "/tmp"
	})
	exec := func(args ...string) (string, string, error) {
		o, e, err := s.runtime.ExecSync(s.ctx, a.id, args, patience)
		return string(o), string(e), err
	}
	t.Run("streams", func(t *testing.T) {
		stdout, stderr, err := exec("sh", "-c", "echo out; echo err >&2")
		if err != nil || stdout != "out\n" || stderr != "err\n" {
			t.Errorf("%q, %q, %v", stdout, stderr, err)
		}
	})
	t.Run("in the app", func(t *testing.T) {
		wantEqual(t, "what the command sees", a.exec(t, "echo $COLOUR; pwd; hostname; ps -o pid,args | grep -c '1 [s]leep 1000'"),
			"blue\n/tmp\n"+p.config.Hostname+"\n1")
	})
	for _, code := range []int{1, 42, 255} {
		t.Run(fmt.Sprintf("exit code %d", code), func(t *testing.T) {
			_, _, err := exec("sh", "-c", fmt.Sprintf("exit %d", code))
			wantExitCode(t, err, code)
		})
	}
	t.Run("killed by a signal", func(t *testing.T) {
		_, _, err := exec("sh", "-c", "kill -9 $$")
		wantExitCode(t, err, 137)
	})
	t.Run("command not found", func(t *testing.T) {
		_, _, err := exec("/no/such/command")
		if err == nil || !strings.Contains(err.Error(), "/no/such/command") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("stdin is empty", func(t *testing.T) {
		stdout, _, err := exec("sh", "-c", "cat; echo end")
		if err != nil || stdout != "end\n" {
			t.Errorf("%q, %v", stdout, err)
		}
	})
	t.Run("no command", func(t *testing.T) {
		_, _, err := exec()
		wantCode(t, err, codes.InvalidArgument)
	})
	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if stdout, _, err := exec("echo", fmt.Sprint(i)); err != nil || stdout != fmt.Sprintln(i) {
					t.Errorf("%q, %v", stdout, err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("in an app that has ended", func(t *testing.T) {
		ended := p.start(t, "true")
		ended.awaitExit(t)
		if _, _, err := s.runtime.ExecSync(s.ctx, ended.id, []string{"true"}, time.Second); err == nil {
			t.Error("no error")
		}
	})
	s.fsck()
}

func TestExecSyncTimeout(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	a := p.start(t, "sleep 1000")
	start := time.Now()
	_, _, err := s.runtime.ExecSync(s.ctx, a.id, []string{"sh", "-c", "sleep 777 & sleep 777"}, time.Second)
	if !errors.Is(err, remote.ErrCommandTimedOut) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > patience {
		t.Errorf("took %s", took)
	}
	eventually(t, func() error {
		if out, _, _ := a.tryExec("ps -o args"); strings.Contains(out, "sleep 777") {
			return fmt.Errorf("the command lives on:\n%s", out)
		}
		return nil
	})
}

func TestExecSyncWithMuchOutput(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	a := p.start(t, "sleep 1000")
	t.Run("below the limit", func(t *testing.T) {
		const size = 4 << 20
		stdout, stderr, err := s.runtime.ExecSync(s.ctx, a.id, []string{"sh", "-c", fmt.Sprintf("head -c %d /dev/zero; head -c %d /dev/zero >&2", size, size)}, patience)
		if err != nil || len(stdout) != size || len(stderr) != size {
			t.Errorf("%d bytes and %d bytes, %v", len(stdout), len(stderr), err)
		}
	})
	t.Run("above the limit", func(t *testing.T) {
		stdout, _, err := s.runtime.ExecSync(s.ctx, a.id, []string{"sh", "-c", fmt.Sprintf("head -c %d /dev/zero", 2*maxExecOutput)}, patience)
		// The client takes messages of 16 MiB; what ExecSync gives has to fit.
		if err != nil || len(stdout) == 0 || len(stdout) > maxExecOutput {
			t.Errorf("%d bytes, %v", len(stdout), err)
		}
	})
}

func TestStdinAndTTY(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	t.Run("no stdin", func(t *testing.T) {
		wantEqual(t, "output", p.output(t, "cat; echo end"), "end")
	})
	t.Run("open stdin", func(t *testing.T) {
		a := p.start(t, "cat; echo end", func(c *cri.ContainerConfig) { c.Stdin = true })
		time.Sleep(300 * time.Millisecond)
		wantEqual(t, "state", a.status(t).State, cri.ContainerState_CONTAINER_RUNNING)
		a.stop(t, 0)
	})
	t.Run("terminal", func(t *testing.T) {
		out := p.output(t, "tty; test -t 0 && test -t 1 && test -t 2 && echo yes", func(c *cri.ContainerConfig) { c.Tty, c.Stdin = true, true })
		wantEqual(t, "output", strings.ReplaceAll(out, "\r", ""), "/dev/pts/0\nyes")
	})
}

func wantExitCode(t *testing.T, err error, want int) {
	t.Helper()
	var exit utilexec.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != want {
		t.Errorf("got %v, want exit code %d", err, want)
	}
}
