package supervisor_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// record is one line of a CRI log.
type record struct {
	time    time.Time
	stream  string
	tag     string
	content string
}

// readLog reads a log that nobody writes any more, and checks its form.
func readLog(t *testing.T, path string) []record {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return parseLog(t, data)
}

// logged gives the records that a running app's log has by now. Who reads
// while the kernel writes may see a part of the last one: it doesn't count.
func (p *pod) logged(id string) []record {
	p.t.Helper()
	data, err := os.ReadFile(p.logPath(id))
	if err != nil {
		p.t.Fatal(err)
	}
	return parseLog(p.t, data[:bytes.LastIndexByte(data, '\n')+1])
}

// awaitLine waits until an app has said something, a line of its own.
func (p *pod) awaitLine(id, line string) {
	p.t.Helper()
	eventually(p.t, line+" in the log", func() bool {
		return slices.ContainsFunc(p.logged(id), func(r record) bool { return r.content == line })
	})
}

func parseLog(t *testing.T, data []byte) (all []record) {
	t.Helper()
	var last time.Time
	for line := range strings.Lines(string(data)) {
		line, whole := strings.CutSuffix(line, "\n")
		parts := strings.SplitN(line, " ", 4)
		if !whole || len(parts) != 4 {
			t.Fatalf("torn record %.200q", line)
		}
		when, err := time.Parse(time.RFC3339Nano, parts[0])
		if err != nil {
			t.Fatal(err)
		}
		if !when.After(last) {
			t.Fatalf("timestamp %v after %v", when, last)
		}
		if parts[1] != "stdout" && parts[1] != "stderr" || parts[2] != "F" && parts[2] != "P" {
			t.Fatalf("record %.200q", line)
		}
		last = when
		all = append(all, record{when, parts[1], parts[2], parts[3]})
	}
	return all
}

// text joins what a stream said, as kubelet does.
func text(records []record, stream string) string {
	var b strings.Builder
	for _, r := range records {
		if r.stream != stream {
			continue
		}
		b.WriteString(r.content)
		if r.tag == "F" {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no sign of %s", what)
		}
	}
}

func wantKind(t *testing.T, err error, kind errs.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error %v, want kind %q", err, kind)
	}
}

// pipe gives a pipe whose other end is to be passed on.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func openNull(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// execute runs a command in an app and gives what it wrote.
func (p *pod) execute(params wire.ExecParams) (out string, code int, err error) {
	p.t.Helper()
	r, w := pipe(p.t)
	var result wire.ExecResult
	done := make(chan string)
	go func() {
		data, _ := io.ReadAll(r)
		done <- string(data)
	}()
	err = p.call(wire.Exec, params, &result, openNull(p.t), w, w)
	w.Close()
	return <-done, result.ExitCode, err
}

func itoa(n int) string { return strconv.Itoa(n) }
