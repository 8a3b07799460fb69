package pod_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func open(t testing.TB, dir string) *pod.Store {
	t.Helper()
	s, err := pod.Open(filepath.Join(dir, "pods"), filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What an older version made for root alone has to let root of a user
// namespace through; what pods don't lie below stays as it is.
func TestTreesThatWereClosed(t *testing.T) {
	dir := t.TempDir()
	closed := []string{"pods/run", "pods", "run"}
	for _, name := range closed {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, name), 0o700), os.Chmod(filepath.Join(dir, name), 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "run"), os.ModeSticky|0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "run", "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	for name, want := range map[string]os.FileMode{"pods": 0o711, "pods/run": 0o711, "pods/prepare": 0o711, "run": os.ModeSticky | 0o751, "run/other": 0o700} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode()&^os.ModeDir != want {
			t.Errorf("%s: %v, %v, want %v", name, fi.Mode(), err, want)
		}
	}
}

func newPod() *manifest.Pod {
	return &manifest.Pod{Version: manifest.Version, ID: pod.NewID(), Name: "web", CgroupParent: "/x", CreatedAt: 1}
}

func create(t testing.TB, s *pod.Store) *pod.Handle {
	t.Helper()
	h, err := s.Create(newPod(), &manifest.Stage1{Version: manifest.Version, Flavor: "ns"})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func wantState(t testing.TB, s *pod.Store, id string, want pod.State) {
	t.Helper()
	if _, got, err := s.State(id); err != nil || got != want {
		t.Fatalf("state is %q, %v, want %q", got, err, want)
	}
}

// TestStates walks a pod through every row of the table in
// docs/pod-lifecycle.md.
func TestStates(t *testing.T) {
	s := open(t, t.TempDir())
	h, err := s.CreatePrepared(newPod(), &manifest.Stage1{Version: manifest.Version, Flavor: "ns"}, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	id := h.ID()
	reopen := func() {
		t.Helper()
		var err error
		if h, err = s.Lock(id); err != nil {
			t.Fatal(err)
		}
	}
	wantState(t, s, id, pod.Preparing)
	h.Close()
	wantState(t, s, id, pod.Prepared)
	reopen()
	if err := h.Commit(); !errors.Is(err, errs.Precondition) {
		t.Fatalf("commit of a prepared pod: %v", err)
	}
	if err := h.Begin(); err != nil {
		t.Fatal(err)
	}
	wantState(t, s, id, pod.Preparing)
	if err := h.Begin(); !errors.Is(err, errs.Precondition) {
		t.Fatalf("second begin: %v", err)
	}
	if _, err := s.Lock(id); !errors.Is(err, errs.Precondition) {
		t.Fatalf("second lock: %v, want precondition", err)
	}
	h.Close()
	wantState(t, s, id, pod.Aborted)
	reopen()
	if err := h.Commit(); err != nil {
		t.Fatal(err)
	}
	wantState(t, s, id, pod.Running)
	if err := h.Commit(); !errors.Is(err, errs.Precondition) {
		t.Fatalf("second commit: %v", err)
	}
	h.Close()
	wantState(t, s, id, pod.Exited)
	reopen()
	if err := h.Mark(0); err != nil {
		t.Fatal(err)
	}
	wantState(t, s, id, pod.Deleting)
	if err := h.Mark(0); err != nil {
		t.Fatalf("marking again: %v", err)
	}
	h.Close()
	wantState(t, s, id, pod.Marked)
	if err := s.Sweep(context.Background(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.State(id); !errors.Is(err, errs.NotFound) {
		t.Fatalf("after the sweep: %v", err)
	}
	wantClean(t, s)
}

func wantClean(t testing.TB, s *pod.Store) {
	t.Helper()
	problems, err := s.Fsck()
	if err != nil || len(problems) > 0 {
		t.Fatalf("fsck: %v, %v", problems, err)
	}
}

func TestLockIsDroppedWithItsLastHolder(t *testing.T) {
	s := open(t, t.TempDir())
	h := create(t, s)
	heir := exec.Command("sleep", "60")
	heir.ExtraFiles = []*os.File{h.File()}
	if err := heir.Start(); err != nil {
		t.Fatal(err)
	}
	if err := h.HandOver(); err != nil {
		t.Fatal(err)
	}
	wantState(t, s, h.ID(), pod.Preparing)
	_ = heir.Process.Kill()
	_ = heir.Wait()
	wantState(t, s, h.ID(), pod.Aborted)
}

// TestLookersDoNotDisturb has many look at a pod's state while its lock is
// taken and given back: neither may see what is only the other one's look.
func TestLookersDoNotDisturb(t *testing.T) {
	s := open(t, t.TempDir())
	h := create(t, s)
	h.Close()
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_, _, _ = s.State(h.ID())
				}
			}
		})
	}
	for range 300 {
		h, err := s.Lock(h.ID())
		if err != nil {
			t.Error(err)
			break
		}
		wantState(t, s, h.ID(), pod.Preparing)
		h.Close()
		wantState(t, s, h.ID(), pod.Aborted)
	}
	close(stop)
	all.Wait()
}

func TestGraceHoldsBackTheSweep(t *testing.T) {
	s := open(t, t.TempDir())
	h := create(t, s)
	if err := h.Commit(); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	if err := h.Mark(later.UnixNano()); err != nil {
		t.Fatal(err)
	}
	h.Close()
	for _, step := range []struct {
		now  time.Time
		gone bool
	}{{later.Add(-time.Minute), false}, {later, true}} {
		if err := s.Sweep(context.Background(), step.now); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.State(h.ID()); errors.Is(err, errs.NotFound) != step.gone {
			t.Fatalf("at %v: %v, want gone: %t", step.now, err, step.gone)
		}
	}
}

func TestGraceOnlyBecomesShorter(t *testing.T) {
	s := open(t, t.TempDir())
	h := create(t, s)
	if err := h.Commit(); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, after := range []time.Duration{time.Hour, 2 * time.Hour, time.Minute, 3 * time.Hour} {
		if err := h.Mark(now.Add(after).UnixNano()); err != nil {
			t.Fatal(err)
		}
	}
	h.Close()
	for _, step := range []struct {
		at   time.Duration
		gone bool
	}{{time.Second, false}, {time.Minute, true}} {
		if err := s.SweepPod(h.ID(), now.Add(step.at)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.State(h.ID()); errors.Is(err, errs.NotFound) != step.gone {
			t.Fatalf("after %v: %v, want gone: %t", step.at, err, step.gone)
		}
	}
}

func addApp(t testing.TB, dir manifest.Dir, name string) *manifest.App {
	t.Helper()
	a := &manifest.App{Version: manifest.Version, ID: pod.NewID(), Name: name, CreatedAt: int64(len(name))}
	root, err := os.Stat(os.TempDir()) // sticky and open to all
	if err != nil {
		t.Fatal(err)
	}
	d, err := pod.DraftApp(dir, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if ids, err := pod.AppIDs(dir); err != nil || !slices.Contains(ids, a.ID) {
		t.Fatalf("a draft is not among the apps %v, %v", ids, err)
	}
	if err := errors.Join(d.Finish(a, []byte("{}"), root, nil), d.Discard()); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestLoad(t *testing.T) {
	s := open(t, t.TempDir())
	h := create(t, s)
	defer h.Close()
	second, first := addApp(t, h.Dir(), "second"), addApp(t, h.Dir(), "first")
	st := manifest.Status{Version: manifest.Version, State: manifest.AppExited, ExitCode: 3}
	if err := atomicfile.WriteRecord(h.Dir().App(first.ID).Status(), manifest.KindStatus, st); err != nil {
		t.Fatal(err)
	}
	l, err := s.Load(h.ID())
	if err != nil || len(l.Damaged) > 0 {
		t.Fatalf("%v, damaged: %v", err, l.Damaged)
	}
	if len(l.Apps) != 2 || l.Apps[0].ID != first.ID || l.Apps[1].ID != second.ID {
		t.Fatalf("apps are %+v, want first and second", l.Apps)
	}
	if l.Apps[0].Status != st || l.Apps[1].Status.State != manifest.AppCreated {
		t.Errorf("statuses are %+v and %+v", l.Apps[0].Status, l.Apps[1].Status)
	}
	if fi, err := os.Stat(h.Dir().App(first.ID).Upper()); err != nil || fi.Mode()&os.ModeSticky == 0 {
		t.Errorf("the writable layer's root has mode %v, %v, want that of the image's", fi.Mode(), err)
	}
	for range 2 { // idempotent
		if err := pod.RemoveApp(h.Dir(), first.ID); err != nil {
			t.Fatal(err)
		}
	}
	if l, err = s.Load(h.ID()); err != nil || len(l.Apps) != 1 {
		t.Errorf("after the removal: %+v, %v", l.Apps, err)
	}
}

func TestDamage(t *testing.T) {
	garbage := []byte(`{"kind":"pod","value":`)
	for _, c := range []struct {
		name    string
		file    func(manifest.Dir, manifest.AppDir) string
		fatal   bool
		damaged int
		state   manifest.AppState
	}{
		{"pod", func(d manifest.Dir, _ manifest.AppDir) string { return d.Pod() }, true, 0, ""},
		{"stage1", func(d manifest.Dir, _ manifest.AppDir) string { return d.Stage1() }, true, 0, ""},
		{"network", func(d manifest.Dir, _ manifest.AppDir) string { return d.Network() }, false, 1, manifest.AppCreated},
		{"app", func(_ manifest.Dir, a manifest.AppDir) string { return a.App() }, false, 1, ""},
		{"status", func(_ manifest.Dir, a manifest.AppDir) string { return a.Status() }, false, 0, manifest.AppUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, t.TempDir())
			h := create(t, s)
			defer h.Close()
			a := addApp(t, h.Dir(), "web")
			if err := os.WriteFile(c.file(h.Dir(), h.Dir().App(a.ID)), garbage, 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := s.Load(h.ID())
			if c.fatal {
				if !errors.Is(err, errs.Corrupt) {
					t.Fatalf("got %v, want corrupt", err)
				}
			} else {
				if err != nil || len(l.Damaged) != c.damaged {
					t.Fatalf("%v, damaged %v, want %d", err, l.Damaged, c.damaged)
				}
				if c.state == "" && len(l.Apps) != 0 || c.state != "" && l.Apps[0].Status.State != c.state {
					t.Errorf("apps are %+v, want state %q", l.Apps, c.state)
				}
			}
			if problems, err := s.Fsck(); err != nil || (len(problems) == 0) != (c.name == "status") {
				t.Errorf("fsck: %v, %v", problems, err)
			}
		})
	}
}

func TestMissingRecordsAreDamageNotAbsence(t *testing.T) {
	for name, file := range map[string]func(manifest.Dir) string{"pod": manifest.Dir.Pod, "stage1": manifest.Dir.Stage1} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			h := create(t, s)
			defer h.Close()
			if err := os.Remove(file(h.Dir())); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Load(h.ID()); !errors.Is(err, errs.Corrupt) || errors.Is(err, errs.NotFound) {
				t.Errorf("got %v, want corrupt and not absent", err)
			}
			if problems, err := s.Fsck(); err != nil || len(problems) != 1 {
				t.Errorf("fsck: %v, %v", problems, err)
			}
		})
	}
}

func TestForeignNamesAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, name := range []string{"lost+found", strings.Repeat("A", 64), "..data", strings.Repeat("a", 63)} {
		if err := os.Mkdir(filepath.Join(dir, "pods", "run", name), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.State(name); !errors.Is(err, errs.Invalid) {
			t.Errorf("State(%q) = %v, want invalid", name, err)
		}
	}
	ids, err := s.List(pod.PhaseRun)
	if err != nil || len(ids) != 0 {
		t.Errorf("listed %v, %v", ids, err)
	}
	if err := s.Sweep(context.Background(), time.Now()); err != nil {
		t.Error(err)
	}
	if problems, _ := s.Fsck(); len(problems) != 4 {
		t.Errorf("fsck named %v, want all four", problems)
	}
}

// TestCrash kills a child at each point at which a pod's directory changes,
// and demands that one sweep puts everything right.
func TestCrash(t *testing.T) {
	if dir := os.Getenv("POD_CRASH_DIR"); dir != "" {
		dieInThere(t, dir)
		return
	}
	for _, point := range []string{
		"pod.create.written", "pod.create.visible", "pod.app.drafted", "pod.app.written", "pod.app.visible", "pod.app.removed",
		"pod.move.run.before", "pod.move.run.after", "pod.move.exited-garbage.before", "pod.move.exited-garbage.after",
		"pod.sweep.apps", "pod.sweep.manifest",
	} {
		t.Run(point, func(t *testing.T) {
			dir := t.TempDir()
			testutil.DieAt(t, point, "POD_CRASH_DIR="+dir, "-test.run=^TestCrash$")
			s := open(t, dir)
			markAll(t, s)
			if err := s.Sweep(context.Background(), time.Now()); err != nil {
				t.Fatal(err)
			}
			wantClean(t, s)
			for _, phase := range pod.Phases() {
				left, err := os.ReadDir(filepath.Join(dir, "pods", string(phase)))
				if err != nil || len(left) > 0 {
					t.Errorf("left in %s: %v, %v", phase, left, err)
				}
			}
		})
	}
}

// dieInThere takes a pod through its whole life.
func dieInThere(t *testing.T, dir string) {
	s := open(t, dir)
	h := create(t, s)
	a := addApp(t, h.Dir(), "web")
	if err := pod.RemoveApp(h.Dir(), a.ID); err != nil {
		t.Fatal(err)
	}
	addApp(t, h.Dir(), "web2")
	if err := errors.Join(h.Commit(), h.Mark(0), h.Close(), s.SweepPod(h.ID(), time.Now())); err != nil {
		t.Fatal(err)
	}
}

func markAll(t *testing.T, s *pod.Store) {
	for _, phase := range pod.Phases() {
		ids, err := s.List(phase)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			h, err := s.Lock(id)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(h.Mark(0), h.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
}
