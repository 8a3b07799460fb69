package applog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
)

func record(n int) string {
	return fmt.Sprintf("2026-11-21T06:00:00.%09dZ stdout F line %d\n", n, n)
}

func logOf(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "app.log")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string, tail int) (texts []string) {
	t.Helper()
	err := Read(t.Context(), path, Options{Tail: tail}, func(l Line) error {
		texts = append(texts, l.Text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

func TestParse(t *testing.T) {
	for in, want := range map[string]Line{
		"2016-10-06T00:17:09.669794202Z stdout P the begin ": {Stream: "stdout", Text: "the begin ", Partial: true},
		"2016-10-06T00:17:09Z stderr F":                      {Stream: "stderr"},
		"2016-10-06T00:17:09Z stderr F:x:y a b":              {Stream: "stderr", Text: "a b"},
	} {
		got := parse(in)
		if got.Time.IsZero() {
			t.Errorf("%q has no time", in)
		}
		got.Time = want.Time
		if got != want {
			t.Errorf("%q: %+v", in, got)
		}
	}
	for _, in := range []string{"", "x", "2016-10-06T00:17:09Z", "2016-10-06T00:17:09Z stdin F x", "now stdout F x", "2016-10-06T00:17:09Z stdout G x"} {
		if got := parse(in); got != (Line{Text: in}) {
			t.Errorf("%q: %+v", in, got)
		}
	}
}

func TestTail(t *testing.T) {
	var content strings.Builder
	const many = 5000 // several blocks
	for i := range many {
		content.WriteString(record(i))
	}
	path := logOf(t, content.String())
	for tail, first := range map[int]int{All: 0, many: 0, many + 1: 0, many - 1: 1, 1: many - 1, 3000: many - 3000} {
		got := read(t, path, tail)
		if len(got) != many-first || got[0] != fmt.Sprint("line ", first) {
			t.Errorf("tail %d: %d lines, the first is %q", tail, len(got), got[:min(len(got), 1)])
		}
	}
	if got := read(t, path, 0); len(got) != 0 {
		t.Errorf("tail 0: %q", got)
	}
	for content, want := range map[string][]string{"": nil, "\n": nil, record(1) + "torn": {"torn"}} {
		if got := read(t, logOf(t, content), 0); len(got) != 0 {
			t.Errorf("%q, tail 0: %q", content, got)
		}
		if got := read(t, logOf(t, content), All); len(want) > 0 && !slices.Contains(got, want[0]) {
			t.Errorf("%q: %q", content, got)
		}
	}
}

// A line may be of several records, between which the other stream's are.
func TestTailCountsWholeLines(t *testing.T) {
	var log strings.Builder
	for _, r := range []string{"stdout F a", "stdout P b1", "stderr F c", "stdout P b2", "stdout F b3", "stderr P d1", "stdout F e", "stderr P d2"} {
		log.WriteString("2026-11-21T06:00:00Z " + r + "\n")
	}
	path := logOf(t, log.String())
	for tail, want := range []string{"", "d1 d2", "d1 e d2", "b1 b2 b3 d1 e d2", "b1 c b2 b3 d1 e d2", "a b1 c b2 b3 d1 e d2", "a b1 c b2 b3 d1 e d2"} {
		if got := strings.Join(read(t, path, tail), " "); got != want {
			t.Errorf("tail %d: %q, want %q", tail, got, want)
		}
	}
	long := strings.Repeat("x", 2*maxRecord)
	if got := read(t, logOf(t, record(1)+"2026-11-21T06:00:00Z stdout F "+long+"\n"), 1); strings.Join(got, "") != long {
		t.Errorf("a long record: %d records", len(got))
	}
}

func TestHugeRecordsAreSeveral(t *testing.T) {
	long := strings.Repeat("x", 3*maxRecord+5)
	if got := read(t, logOf(t, long+"\n"+record(7)), All); strings.Join(got[:len(got)-1], "") != long || got[len(got)-1] != "line 7" {
		t.Errorf("%d records", len(got))
	}
}

func TestWhatIsNoLog(t *testing.T) {
	each := func(Line) error { return nil }
	if err := Read(t.Context(), "/no/such/log", Options{}, each); !errors.Is(err, errs.NotFound) {
		t.Errorf("missing: %v", err)
	}
	if err := Read(t.Context(), t.TempDir(), Options{}, each); err == nil {
		t.Error("a directory was read")
	}
	dir := t.TempDir()
	if err := errors.Join(os.Symlink("/etc/passwd", filepath.Join(dir, "link")), syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "fifo"} {
		for _, ended := range []func() bool{nil, func() bool { return false }} {
			if err := Read(t.Context(), filepath.Join(dir, name), Options{Tail: All, Ended: ended}, each); err == nil {
				t.Errorf("a %s was read", name)
			}
		}
	}
	stop := errors.New("enough")
	if err := Read(t.Context(), logOf(t, record(1)), Options{Tail: All}, func(Line) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Read(ctx, "/no/such/log", Options{Ended: func() bool { return false }}, each); !errors.Is(err, errs.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// A log is followed from before it is there, through rotation, to the end of
// the app.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.log")
	var ended atomic.Bool
	lines, done := make(chan string), make(chan error)
	go func() {
		done <- Read(t.Context(), path, Options{Tail: 5, Ended: ended.Load}, func(l Line) error {
			lines <- l.Text
			return nil
		})
	}()
	add := func(content string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(content)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	want := func(text string) {
		t.Helper()
		if got := <-lines; got != text {
			t.Fatalf("got %q, want %q", got, text)
		}
	}
	add(record(1))
	want("line 1")
	half := record(2)
	add(half[:20])
	add(half[20:])
	want("line 2")
	add(record(3))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	want("line 3")
	add(record(4))
	want("line 4")
	add(record(5))
	ended.Store(true)
	want("line 5")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("2016-10-06T00:17:09.669794202Z stdout P the begin ")
	f.Fuzz(func(t *testing.T, record string) {
		if l := parse(record); !strings.HasSuffix(record, l.Text) || l.Time.IsZero() && l.Text != record {
			t.Errorf("%q: %+v", record, l)
		}
	})
}
