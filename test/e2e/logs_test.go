package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestLogs(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	t.Run("streams", func(t *testing.T) {
		a := p.start(t, "echo one; until [ -e /1 ]; do sleep 0.05; done; echo two >&2; until [ -e /2 ]; do sleep 0.05; done; echo three")
		a.awaitLine(t, "one") // what is read of two streams at once has no order
		a.exec(t, "touch /1")
		a.awaitLine(t, "two")
		a.exec(t, "touch /2")
		a.awaitExit(t)
		var got []string
		lines := readLog(t, a.logPath())
		for _, l := range lines {
			got = append(got, l.stream+" "+l.content)
		}
		if want := []string{"stdout one", "stderr two", "stdout three"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if !slices.IsSortedFunc(lines, func(a, b logLine) int { return a.time.Compare(b.time) }) {
			t.Errorf("times out of order: %v", lines)
		}
	})
	t.Run("last line without an end", func(t *testing.T) {
		a := p.start(t, "printf 'no end'")
		a.awaitExit(t)
		lines := readLog(t, a.logPath())
		if len(lines) != 1 || lines[0].content != "no end" {
			t.Errorf("got %v", lines)
		}
	})
	t.Run("empty lines", func(t *testing.T) {
		a := p.start(t, `printf '\n\nx\n'`)
		a.awaitExit(t)
		wantEqual(t, "output", a.output(t), "\n\nx\n")
	})
	t.Run("very long line", func(t *testing.T) {
		const size = 300_000
		a := p.start(t, fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x; echo; echo after", size))
		a.awaitExit(t)
		lines := readLog(t, a.logPath())
		if len(lines) < 3 || !lines[0].partial || lines[len(lines)-1].partial {
			t.Errorf("%d lines, first %.100v", len(lines), lines[0])
		}
		wantEqual(t, "output", a.output(t), strings.Repeat("x", size)+"\nafter\n")
	})
	t.Run("binary", func(t *testing.T) {
		a := p.start(t, `printf 'a\0b\377\r\tc\n'`)
		a.awaitExit(t)
		wantEqual(t, "output", a.output(t), "a\x00b\xff\r\tc\n")
	})
	t.Run("much output of both streams at once", func(t *testing.T) {
		const each = 20_000
		a := p.start(t, fmt.Sprintf("seq 1 %d & seq 1 %d >&2 & wait", each, each))
		a.awaitExit(t)
		count := map[string]int{}
		for _, l := range readLog(t, a.logPath()) {
			count[l.stream]++
			if want := fmt.Sprint(count[l.stream]); l.content != want {
				t.Fatalf("%s has %q where %s belongs", l.stream, l.content, want)
			}
		}
		wantEqual(t, "lines of stdout", count["stdout"], each)
		wantEqual(t, "lines of stderr", count["stderr"], each)
	})
	t.Run("no log", func(t *testing.T) {
		a := p.start(t, "echo unheard", func(c *cri.ContainerConfig) { c.LogPath = "" })
		wantEqual(t, "exit code", a.awaitExit(t).ExitCode, 0)
	})
}

func TestLogRotation(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	const lines = 3000
	a := p.start(t, fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); echo $i; [ $((i%%100)) -ne 0 ] || sleep 0.03; done; sleep 1000", lines))
	var files []string
	for i := range 5 {
		eventually(t, func() error { _, err := os.Stat(a.logPath()); return err })
		old := fmt.Sprintf("%s.%d", a.logPath(), i)
		if err := os.Rename(a.logPath(), old); err != nil {
			t.Fatal(err)
		}
		files = append(files, old)
		if err := s.runtime.ReopenContainerLog(s.ctx, a.id); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(a.logPath()); err != nil {
			t.Fatalf("no new file after ReopenContainerLog: %v", err)
		}
	}
	files = append(files, a.logPath())
	read := func() (n int) {
		for _, f := range files {
			for _, l := range readLog(t, f) {
				if n++; l.content != fmt.Sprint(n) {
					t.Fatalf("%s has %q where %d belongs", f, l.content, n)
				}
			}
		}
		return n
	}
	eventually(t, func() error {
		if n := read(); n != lines {
			return fmt.Errorf("%d lines of %d", n, lines)
		}
		return nil
	})
	t.Run("of an app that has ended", func(t *testing.T) {
		a := p.start(t, "true")
		a.awaitExit(t)
		if err := s.runtime.ReopenContainerLog(s.ctx, a.id); err == nil {
			t.Error("no error")
		}
	})
}
