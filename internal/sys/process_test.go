package sys

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
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

// TestKillTree kills a tree while it grows, by processes that have sessions of
// their own.
func TestKillTree(t *testing.T) {
	const grow = "echo begun; i=0; while [ $i -lt 200 ]; do i=$((i+1)); setsid sleep 100 & done; (sleep 100 &); wait"
	cmd := exec.Command("sh", "-c", grow)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout = theirs
	if err := errors.Join(cmd.Start(), theirs.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	if err := KillTree(cmd.Process.Pid, processes); err != nil {
		t.Error(err)
	}
	_ = out.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadAll(out); err != nil { // ends when nobody is left to write
		t.Errorf("somebody is left: %v", err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("ended with %v", err)
	}
}

// processes lists all there are.
func processes() (all []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, pid)
		}
	}
	return all
}
