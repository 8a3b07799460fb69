package sys

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A test binary that is started anew with this variable set plays a process
// whose children are its own to reap.
const playEnv = "STAGELET_TEST_PLAY"

func TestMain(m *testing.M) {
	if os.Getenv(playEnv) == "deaf" {
		playDeaf()
	}
	os.Exit(m.Run())
}

// playDeaf ends well if it survives a signal, and its child is not deaf.
func playDeaf() {
	fail := func(what string) {
		_, _ = io.WriteString(os.Stderr, what)
		os.Exit(1)
	}
	if err := Deafen(syscall.SIGTERM, syscall.SIGHUP); err != nil {
		fail(err.Error())
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
	_ = syscall.Kill(os.Getpid(), syscall.SIGHUP)
	time.Sleep(50 * time.Millisecond)
	pid, err := Process{Path: "/bin/sh", Args: []string{"sh", "-c", "kill -HUP $$; sleep 5"}}.Start()
	if err != nil {
		fail(err.Error())
	}
	if !IsChild(pid) || !AwaitChild() {
		fail("no child")
	}
	got, status, ok := Reap()
	if !ok || got != pid || status.Signal != syscall.SIGHUP || status.ExitCode() != 129 {
		fail("child: " + status.String())
	}
	if AwaitChild() || IsChild(pid) {
		fail("still a child")
	}
	os.Exit(0)
}

func TestDeafen(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), playEnv+"=deaf")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestKillTree(t *testing.T) {
	// All are born once it says so: what is born while it is killed may escape.
	cmd := exec.Command("sh", "-c", "sleep 100 & setsid sleep 100 & sh -c 'sleep 100; true' & sleep 0.5; echo ready; wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	total := 0
	for range 200 {
		n, err := KillTree(cmd.Process.Pid, nil)
		if err != nil {
			t.Fatal(err)
		}
		if total += n; n == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if total < 3 {
		t.Errorf("%d processes killed", total)
	}
	if _, err := io.ReadAll(out); err != nil { // ends when nobody is left to write
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("ended with %v", err)
	}
}
