package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// maxPackages bounds what a supervisor is linked with, the standard library's
// packages included: every pod pays for each of them.
const maxPackages = 100

func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if len(deps) > maxPackages {
		t.Errorf("%d packages, more than %d", len(deps), maxPackages)
	}
	forbidden := []string{"net", "os/user", "os/exec", "log", "log/slog", "text/template", "regexp", "google.golang.org", "k8s.io", "crypto"}
	for _, dep := range deps {
		if slices.ContainsFunc(forbidden, func(f string) bool { return dep == f || strings.HasPrefix(dep, f+"/") }) {
			t.Errorf("is linked with %s", dep)
		}
	}
	t.Logf("%d packages", len(deps))
}
