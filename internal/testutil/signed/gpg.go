package signed

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/testutil"
)

// GPG is a GnuPG home of its own.
type GPG struct {
	t    testing.TB
	home string
}

// NewGPG makes a home without keys.
func NewGPG(t testing.TB) *GPG {
	t.Helper()
	testutil.NeedProgram(t, "gpg")
	home, err := os.MkdirTemp("", "gpg") // the agent's socket needs a short path
	if err != nil {
		t.Fatal(err)
	}
	g := &GPG{t, home}
	t.Cleanup(func() {
		_ = exec.CommandContext(context.Background(), "gpgconf", "--homedir", home, "--kill", "all").Run()
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	return g
}

// Run gives the output of gpg with that input.
func (g *GPG) Run(in []byte, args ...string) []byte {
	g.t.Helper()
	args = append([]string{"--homedir", g.home, "--batch", "--yes", "--pinentry-mode", "loopback", "--passphrase", "", "--quiet"}, args...)
	cmd := exec.CommandContext(g.t.Context(), "gpg", args...)
	cmd.Stdin = bytes.NewReader(in)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		g.t.Fatalf("gpg %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return out
}

// Generate makes a key and gives its fingerprint.
func (g *GPG) Generate(id, algorithm, usage, expire string, more ...string) string {
	g.t.Helper()
	g.Run(nil, append(more, "--quick-generate-key", id, algorithm, usage, expire)...)
	return g.fingerprint(id)
}

func (g *GPG) fingerprint(id string) string {
	g.t.Helper()
	for line := range strings.Lines(string(g.Run(nil, "--with-colons", "--list-keys", "="+id))) {
		if fields := strings.Split(line, ":"); fields[0] == "fpr" {
			return strings.ToLower(fields[9])
		}
	}
	g.t.Fatal("no fingerprint")
	return ""
}

// Revoke revokes a key.
func (g *GPG) Revoke(fingerprint string) {
	g.t.Helper()
	cert, err := os.ReadFile(filepath.Join(g.home, "openpgp-revocs.d", strings.ToUpper(fingerprint)+".rev"))
	if err != nil {
		g.t.Fatal(err)
	}
	g.Run(bytes.ReplaceAll(cert, []byte(":-----BEGIN"), []byte("-----BEGIN")), "--import")
}

// Export gives public keys, in armor.
func (g *GPG) Export(ids ...string) []byte {
	return g.Run(nil, append([]string{"--armor", "--export"}, ids...)...)
}

// At gives what gpg does at another time.
func At(when time.Time) []string {
	return []string{"--faked-system-time", when.UTC().Format("20060102T150405") + "!"}
}
