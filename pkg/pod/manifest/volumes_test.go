package manifest_test

import (
	"strings"
	"testing"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func TestIsName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "7": true, "web-1": true, "a--b": true, strings.Repeat("a", 63): true,
		"": false, "-": false, "-a": false, "a-": false, "A": false, "a_b": false, "a.b": false, "a/b": false, "é": false,
		"a\n": false, "a\x00": false, strings.Repeat("a", 64): false,
	} {
		if manifest.IsName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}
