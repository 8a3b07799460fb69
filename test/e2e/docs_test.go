package e2e

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/internal/testutil/signed"
)

// block is a fenced block of a page.
type block struct {
	kind string // what stands behind the fence
	text string
	line int
}

func blocks(t testing.TB, page string) (all []block) {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var open *block
	for i, line := range strings.Split(string(data), "\n") {
		kind, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && open == nil:
			open = &block{kind: kind, line: i + 1}
		case fence:
			all = append(all, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		}
	}
	return all
}

// TestImageTrustPage does what docs/image-trust.md says, line by line: files
// are written, commands are run. What differs is where things are: the paths,
// and the mirror, which is a registry of this test.
func TestImageTrustPage(t *testing.T) {
	testutil.NeedProgram(t, "gpg")
	s := newServer(t)
	r := newRegistry(t)
	r.push(t, "team/app", "v1")
	work := s.path("work")
	here := strings.NewReplacer(
		"/etc/stagelet/", s.dir+"/", "/srv/", s.path("srv")+"/",
		"https://mirror.example.com", "http://"+r.host,
		"FINGERPRINT", pageFiles(t, s, work))
	for _, b := range blocks(t, "../../docs/image-trust.md") {
		text := here.Replace(b.text)
		path, _, _ := strings.Cut(strings.TrimPrefix(text, "# "), "\n")
		switch {
		case b.kind == "sh":
			runBlock(t, work, b.line, text)
		case path == s.path("config.yaml"):
			mergeConfig(t, path, text)
		case strings.HasPrefix(path, s.dir):
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	out := s.mustCLI("image", "list")
	for _, name := range []string{"registry.example.com/team/imported:v1", "registry.example.com/team/app:v1"} {
		found := false
		for line := range strings.Lines(out) {
			found = found || strings.Contains(line, name) && strings.Contains(line, "openpgp")
		}
		if !found {
			t.Errorf("%s is not there, or not verified:\n%s", name, out)
		}
	}
	s.fsck()
}

// pageFiles puts into dir what the page takes for granted: archives, keys, a
// GnuPG that asks nobody, and the program, which gets a yes to every question.
// It gives the fingerprint of cosign.pub.
func pageFiles(t testing.TB, s *server, dir string) (fingerprint string) {
	t.Helper()
	key := signed.NewKey(t)
	var archive strings.Builder
	if err := (busybox.Image{Name: "app:v1", Layers: [][]busybox.File{{busybox.Regular("greeting", 0o644, []byte("hello"))}}}).WriteDocker(&archive); err != nil {
		t.Fatal(err)
	}
	program := fmt.Sprintf("#!/bin/sh\nyes yes | %s \"$@\" %s\n", filepath.Join(s.bin, testutil.ServerBinary), strings.Join(s.flags(), " "))
	for name, data := range map[string]string{
		"app.tar": archive.String(), "cosign.pub": string(key.PEM()), "payments.pub": string(signed.NewKey(t).PEM()),
		"gnupg/gpg.conf": "batch\nyes\nquiet\npinentry-mode loopback\npassphrase-file /dev/null\n", "bin/stagelet": program,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = exec.Command("gpgconf", "--homedir", filepath.Join(dir, "gnupg"), "--kill", "all").Run() })
	return key.Fingerprint()
}

func runBlock(t testing.TB, dir string, line int, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-eu", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "GNUPGHOME="+filepath.Join(dir, "gnupg"))
	out, err := cmd.CombinedOutput()
	t.Logf("line %d:\n%s%s", line, script, out)
	if err != nil {
		t.Fatalf("the block at line %d of the page: %v", line, err)
	}
}

// mergeConfig adds what the page says to a configuration.
func mergeConfig(t testing.TB, path, more string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var added map[string]map[string]any
	var whole map[string]any
	for text, into := range map[string]any{string(data): &whole, more: &added} {
		if err := yaml.Unmarshal([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	for section, keys := range added {
		old, _ := whole[section].(map[string]any)
		maps.Copy(keys, old)
		whole[section] = keys
	}
	if data, err = yaml.Marshal(whole); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
