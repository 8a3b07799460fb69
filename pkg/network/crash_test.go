package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// crashHelper holds the job of a process that dies on the way.
const crashHelper = "STAGELET_TEST_CRASH_HELPER"

type crashJob struct {
	Options Options
	Pod     Pod
	Delete  bool
}

func runCrashHelper() int {
	var job crashJob
	if err := json.Unmarshal([]byte(os.Getenv(crashHelper)), &job); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	n, err := New(job.Options)
	if err == nil {
		var net *manifest.Network
		if net, err = n.Add(context.Background(), job.Pod); err == nil && job.Delete {
			err = n.Del(context.Background(), job.Pod, net)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func crashCommand(t *testing.T, job crashJob, point string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), crashHelper+"="+mustJSON(t, job), crash.Env+"="+point)
	cmd.Stderr = os.Stderr
	return cmd
}

// However far a dead process came, Del and GC of the next one leave nothing.
func TestKilledAtEachPoint(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	f := bridged(t, "10.209.0.0/24", nil)
	before := mustJSON(t, hostState(t))
	for i, point := range []string{
		"network.record.write", "network.record.written", "network.added",
		"network.del", "network.deleted", "network.forget", "network.forgotten",
	} {
		for _, by := range []string{"Del", "GC"} {
			t.Run(point+" then "+by, func(t *testing.T) {
				p := f.pod(fmt.Sprintf("crash-%d-%s", i, by))
				p.Ports = []manifest.PortMapping{{Protocol: "tcp", HostPort: 18090, PodPort: 80}}
				err := crashCommand(t, crashJob{Options: f.opts, Pod: p, Delete: i > 2}, point).Run()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Fatalf("helper ended with %v", err)
				}
				f.clean(t, p, by, before)
			})
		}
	}
}

// clean is the next process finding what is there.
func (f *fixture) clean(t *testing.T, p Pod, by, before string) {
	t.Helper()
	f.reopen()
	if by == "Del" {
		f.del(p, nil)
	} else if err := f.GC(context.Background(), func() ([]string, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	if after := mustJSON(t, hostState(t)); after != before {
		t.Errorf("left on the host: %s", after)
	}
	f.nothingKept()
}

// The server dies while plugins run, which then end by themselves.
func TestKilledWhilePluginsRun(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	f := bridged(t, "10.210.0.0/24", nil)
	before := mustJSON(t, hostState(t))
	for i := range 12 {
		p := f.pod(fmt.Sprintf("killed-%d", i))
		p.Ports = []manifest.PortMapping{{Protocol: "tcp", HostPort: 18091, PodPort: 80}}
		cmd := crashCommand(t, crashJob{Options: f.opts, Pod: p, Delete: true}, "")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(10+i*15) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		f.clean(t, p, []string{"Del", "GC"}[i%2], before)
	}
}

func TestPodCIDRIsWholeOrNotThere(t *testing.T) {
	testutil.NeedRoot(t)
	if os.Getenv("STAGELET_TEST_SET_CIDR") != "" {
		n, err := New(Options{CacheDir: os.Getenv("STAGELET_TEST_SET_CIDR")})
		if err == nil {
			err = n.SetPodCIDR("10.1.0.0/24")
		}
		t.Fatal("not killed", err)
	}
	for point, want := range map[string]string{"network.podcidr.write": "", "network.podcidr.written": "10.1.0.0/24"} {
		f := newFixture(t, nil)
		testutil.DieAt(t, point, "STAGELET_TEST_SET_CIDR="+f.opts.CacheDir, "-test.run=^TestPodCIDRIsWholeOrNotThere$")
		f.reopen()
		if got := f.Info().PodCIDR; got != want {
			t.Errorf("%s: %q", point, got)
		}
	}
}
