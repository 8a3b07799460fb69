package stage0

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/ocispec"
)

func TestProfiles(t *testing.T) {
	var loads int
	there := map[string]bool{"web": true}
	p := newProfiles()
	p.isLoaded = func(name string) (bool, error) { return there[name], nil }
	p.load = func(name string) error { loads++; there[name] = true; return nil }
	for _, name := range []string{"", ocispec.Unconfined, "web", manifest.DefaultAppArmor, manifest.DefaultAppArmor} {
		if err := p.need(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	if loads != 1 {
		t.Errorf("the default profile was loaded %d times", loads)
	}
	if err := p.need("other"); !errors.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "other") {
		t.Errorf("a profile that isn't loaded: %v", err)
	}
	p.isLoaded = func(string) (bool, error) { return false, os.ErrNotExist }
	if err := p.need("other"); err != nil {
		t.Errorf("without securityfs: %v", err)
	}
	p.load = func(string) error { return errors.New("no parser") }
	if err := p.need(manifest.DefaultAppArmor); !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "package apparmor") {
		t.Errorf("a default that can't be loaded: %v", err)
	}
}

// The real way, with a parser that keeps what it is given.
func TestDefaultProfile(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, "kept")
	parser := "#!/bin/sh\ntest \"$1\" = -Kr && cp \"$2\" " + kept + "\n"
	if err := os.WriteFile(filepath.Join(dir, "apparmor_parser"), []byte(parser), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	p := newProfiles()
	p.isLoaded = func(string) (bool, error) { return false, nil }
	if err := p.need(manifest.DefaultAppArmor); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"profile stagelet-default ", "deny mount,", "peer=stagelet-default,", "/sysrq-trigger rwklx,"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	t.Setenv("PATH", "/nowhere")
	if err := p.need(manifest.DefaultAppArmor); !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "apparmor_parser") {
		t.Errorf("without a parser: %v", err)
	}
}
