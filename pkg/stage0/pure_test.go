package stage0

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Kubernetes' table of command and args over ENTRYPOINT and CMD.
func TestArguments(t *testing.T) {
	for _, c := range []struct{ command, args, want string }{
		{"", "", "entry cmd"},
		{"own", "", "own"},
		{"", "own", "entry own"},
		{"own", "args", "own args"},
	} {
		got := arguments(AppRequest{Command: strings.Fields(c.command), Args: strings.Fields(c.args)}, []string{"entry"}, []string{"cmd"})
		if !slices.Equal(got, strings.Fields(c.want)) {
			t.Errorf("command %q, args %q: got %q, want %q", c.command, c.args, got, c.want)
		}
	}
}

func TestUsersByTheirFiles(t *testing.T) {
	testutil.NeedRoot(t)
	lower, upper := t.TempDir(), t.TempDir()
	for path, owner := range map[string]int{filepath.Join(lower, "tool"): 7, filepath.Join(lower, "shadowed"): 8, filepath.Join(upper, "shadowed"): 9} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, owner, owner+100)); err != nil {
			t.Fatal(err)
		}
	}
	layers := []string{lower, upper}
	want, image := UserRequest{Username: "/tool", Groupname: "/shadowed"}, "/shadowed:/tool"
	if err := ownersOf(layers, &want, &image); err != nil || want.Username != "7" || want.Groupname != "109" || image != "9:107" {
		t.Errorf("%+v, %q, %v", want, image, err)
	}
	plain := "app"
	if err := ownersOf(layers, &UserRequest{}, &plain); err != nil || plain != "app" {
		t.Errorf("%q, %v", plain, err)
	}
	if err := ownersOf(layers, &UserRequest{Username: "/absent"}, &plain); !errors.Is(err, errs.NotFound) {
		t.Errorf("a file that isn't there: %v", err)
	}
}

func TestHostLines(t *testing.T) {
	got := string(hostLines([]manifest.HostEntry{{IP: "10.0.0.1", Names: []string{"a", "b"}}, {IP: "::1", Names: []string{"c"}}}))
	if got != "10.0.0.1\ta b\n::1\tc\n" {
		t.Errorf("%q", got)
	}
}

func TestMergeEnv(t *testing.T) {
	base := []string{"PATH=/bin", "A=1", "EMPTY="}
	got := mergeEnv(base, []string{"A=2", "B==x", "A=3"})
	if want := []string{"PATH=/bin", "A=3", "EMPTY=", "B==x"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if base[1] != "A=1" {
		t.Error("the image's own list was changed")
	}
}

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]int{
		"": 15, "SIGTERM": 15, "term": 15, "9": 9, "SIGRTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "64": 64, "sigusr1": 10,
	} {
		if got, err := ParseSignal(text); err != nil || got != want {
			t.Errorf("ParseSignal(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"0", "65", "-1", "SIGNONE", "SIGRTMIN+31", "SIGRTMIN-1", "15 ", "SIG"} {
		if got, err := ParseSignal(text); err == nil {
			t.Errorf("ParseSignal(%q) = %d, want an error", text, got)
		}
	}
}

func TestAnAppsLifeHasOneDirection(t *testing.T) {
	order := []manifest.AppState{manifest.AppCreated, manifest.AppUnknown, manifest.AppRunning, manifest.AppExited}
	for i, from := range order {
		for j, to := range order {
			got := advances(manifest.Status{State: from}, manifest.Status{State: to})
			if got != (j > i) {
				t.Errorf("from %s to %s: %t", from, to, got)
			}
		}
	}
}

// snapshots gives a pod, and a way to let it change.
func snapshots() (current func(string) *pod.Snapshot, change func() *pod.Snapshot) {
	now := &pod.Snapshot{Pod: &manifest.Pod{ID: "a"}}
	return func(string) *pod.Snapshot { return now }, func() *pod.Snapshot {
		next := *now
		now = &next
		return now
	}
}

func TestBroker(t *testing.T) {
	current, _ := snapshots()
	b := newBroker(current)
	publish := func(n int) { b.publish(Started, strconv.Itoa(n), current("a")) }
	for i := range backlogSize + 2 {
		publish(i)
	}
	first, cancelFirst := b.subscribe()
	second, cancelSecond := b.subscribe()
	defer cancelSecond()
	publish(9000)
	if e := <-first; e.App != "2" {
		t.Errorf("the first subscriber's first event is %s, want the oldest that is kept", e.App)
	}
	if e := <-second; e.App != "9000" {
		t.Errorf("a later subscriber's first event is %s, want the first since it came", e.App)
	}
	cancelFirst()
	cancelFirst()
	quick, cancelQuick := b.subscribe()
	defer cancelQuick()
	for i := range subscriberBuffer + 1 {
		publish(i)
		if e := <-quick; e.App != strconv.Itoa(i) {
			t.Fatalf("beside a slow subscriber another one gets event %s, want %d", e.App, i)
		}
	}
	n := 0
	for range second { // ends: it was too slow
		n++
	}
	if n != subscriberBuffer {
		t.Errorf("a slow subscriber got %d events before it was cut off, want %d", n, subscriberBuffer)
	}
	b.close()
	if late, _ := b.subscribe(); late != nil {
		if _, open := <-late; open {
			t.Error("a closed broker still tells")
		}
	}
}

// TestBrokerNeverGoesBack: kubelet takes a later event's snapshot for newer.
func TestBrokerNeverGoesBack(t *testing.T) {
	current, change := snapshots()
	b := newBroker(current)
	events, cancel := b.subscribe()
	defer cancel()
	started := current("a")
	exited := change()
	b.publish(Stopped, "app", exited)
	b.publish(Started, "app", started) // by one who was slower
	b.publish(Removed, "app", started) // tells what was there
	last := int64(0)
	for _, want := range []*pod.Snapshot{exited, exited, started} {
		e := <-events
		if e.Pod != want {
			t.Errorf("%s shows the wrong snapshot", e.Kind)
		}
		if e.Time <= last {
			t.Errorf("%s is of %d, not after %d", e.Kind, e.Time, last)
		}
		last = e.Time
	}
}
