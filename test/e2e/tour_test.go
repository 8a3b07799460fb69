package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/signed"
)

// TestTour does what docs/tour.md says, line by line. What differs is where
// things are: the paths, the registry, the port of the page; and there is no
// service manager.
func TestTour(t *testing.T) {
	testutil.NeedProgram(t, "curl")
	s := newServer(t)
	r := newRegistry(t)
	r.push(t, "team/web", "v1")
	key := signed.NewKey(t)
	d := digest.Digest(r.tags["team/web:v1"])
	r.evidence.Refer(d, key.Bundle(signed.Statement(signed.Signature, d)), nil)
	s.write(t, 0o600, fmt.Sprintf("server = %q\n", r.http.URL), "certs.d", "registry.example.com", "hosts.toml")

	work := s.path("work")
	pageFiles(t, s, work)
	s.write(t, 0o600, string(key.PEM()), "work", "cosign.pub")
	// Flags stand first: behind an image they would be an app's. It gets a yes
	// to its one question.
	s.write(t, 0o700, fmt.Sprintf("#!/bin/sh\n[ \"$1\" != trust ] || exec <%s\nexec %s %s \"$@\"\n", s.path("work", "yes"),
		filepath.Join(s.bin, testutil.ServerBinary), strings.Join(s.flags(), " ")), "work", "bin", "stagelet")
	s.write(t, 0o600, "yes\n", "work", "yes")
	s.write(t, 0o700, fmt.Sprintf(`#!/bin/sh
setsid stagelet serve >%s 2>&1 &
until stagelet fsck && [ -e %s ]; do sleep 0.1; done
`, s.path("server.log"), s.path("run", "stagelet.sock")), "work", "bin", "systemctl")

	here := strings.NewReplacer(
		"/etc/stagelet/", s.dir+"/", "/var/lib/stagelet/", s.path("lib")+"/", "/var/tmp/other", s.path("other"),
		"127.0.0.1:8080", fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	for _, b := range blocks(t, "../../docs/tour.md") {
		text := here.Replace(b.text)
		path, _, _ := strings.Cut(strings.TrimPrefix(text, "# "), "\n")
		switch {
		case b.kind == "sh":
			runBlock(t, work, b.line, text)
		case path == s.path("config.yaml"):
			mergeConfig(t, path, text)
		case b.kind == "yaml":
			if err := os.WriteFile(filepath.Join(work, path), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if out := s.mustCLI("list", "-o", "json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("left behind: %s", out)
	}
}
