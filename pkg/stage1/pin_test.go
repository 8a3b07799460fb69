package stage1

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
)

func openPins(t *testing.T) *Pins {
	t.Helper()
	p, err := OpenPins(filepath.Join(t.TempDir(), "stage1"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func program(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestPinKeepsEachVersion(t *testing.T) {
	p := openPins(t)
	path := filepath.Join(t.TempDir(), "runtime")
	program(t, path, "echo one")
	one, err := p.Pin(path)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := p.Pin(path); err != nil || again != one {
		t.Fatalf("pinned again: %v, %v", again, err)
	}
	if err := os.Remove(path); err != nil { // an upgrade replaces the file
		t.Fatal(err)
	}
	program(t, path, "echo two")
	two, err := p.Pin(path)
	if err != nil {
		t.Fatal(err)
	}
	for want, path := range map[string]string{"one\n": one.Path, "two\n": two.Path} {
		if out, err := exec.Command(path).Output(); err != nil || string(out) != want {
			t.Errorf("%s says %q, %v, want %q", path, out, err, want)
		}
	}
	fresh, err := OpenPins(p.dir) // another process, which knows no current version
	if err != nil {
		t.Fatal(err)
	}
	if err := fresh.GC(map[string]bool{two.Digest: true}); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(p.dir); len(left) != 1 {
		t.Errorf("gc left %v, want the one in use", left)
	}
	if a, err := p.Pin(path); err != nil || a != two {
		t.Errorf("after gc: %v, %v", a, err)
	}
}

func TestPinOfNothing(t *testing.T) {
	p := openPins(t)
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/does/not/exist", plain, t.TempDir(), "no-such-program"} {
		if a, err := p.Pin(path); !errors.Is(err, errs.NotFound) {
			t.Errorf("Pin(%s) = %v, %v, want not found", path, a, err)
		}
	}
	if left, _ := os.ReadDir(p.dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPinCrash(t *testing.T) {
	if dir := os.Getenv("PIN_CRASH_DIR"); dir != "" {
		p, err := OpenPins(dir)
		if err == nil {
			_, err = p.Pin("/bin/true")
		}
		t.Fatal("survived:", err)
	}
	dir := filepath.Join(t.TempDir(), "stage1")
	child := exec.Command(os.Args[0], "-test.run=^TestPinCrash$")
	child.Env = append(os.Environ(), "PIN_CRASH_DIR="+dir, crash.Env+"=stage1.pin.copied")
	if out, _ := child.CombinedOutput(); strings.Contains(string(out), "survived") {
		t.Fatalf("the child was not killed: %s", out)
	}
	p, err := OpenPins(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.Pin("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.GC(map[string]bool{}); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left %v, want only %s", left, a.Path)
	}
}

func TestUnknownHandlerIsNoFallback(t *testing.T) {
	pins := openPins(t)
	r, err := NewRegistry(pins, map[string]Flavor{"": Namespaces("/bin/true", "/bin/true", nil), "broken": Namespaces("/bin/true", "/no/runtime", nil)})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := r.Pin(""); err != nil || st.Flavor != "ns" {
		t.Errorf("default handler: %v, %v", st, err)
	}
	if _, err := r.Pin("kvm"); !errors.Is(err, errs.NotFound) || !strings.Contains(err.Error(), `"broken"`) {
		t.Errorf("unknown handler: %v, want not found, naming those that there are", err)
	}
	if _, err := r.Pin("broken"); !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "/no/runtime") {
		t.Errorf("handler without its runtime: %v, want unavailable", err)
	}
	if err := r.Probe(t.Context(), "broken"); !errors.Is(err, errs.Unavailable) {
		t.Errorf("probe: %v", err)
	}
	if _, err := NewRegistry(pins, map[string]Flavor{"x": {}}); !errors.Is(err, errs.Invalid) {
		t.Errorf("a registry without a default: %v", err)
	}
}
