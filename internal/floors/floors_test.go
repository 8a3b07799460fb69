// Package floors decides which package may import which: every package has
// its floor here, and imports lower ones only.
package floors

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/stagelet/stagelet/"

// tests is the floor of what tests and developers run; nothing imports it.
const tests = 6

// floors lists every package, or a directory of packages by its path with
// "/..." behind it. A new package is put here by hand, as low as it can be.
var floors = map[string]int{
	"internal/sys":        0,
	"internal/errs":       0,
	"internal/atomicfile": 0,
	"internal/undo":       0,
	"internal/applog":     0,
	"internal/crash":      0,
	"internal/systemd":    0,
	"internal/pipes":      1,
	"internal/outfile":    1,
	"trustedkeys":         0,

	"pkg/pod/manifest": 1,
	"pkg/stage1/wire":  1,
	"pkg/image":        1,

	"pkg/pod":               2,
	"pkg/image/trust":       2,
	"pkg/image/layer":       2,
	"pkg/image/store":       2,
	"pkg/image/registry":    2,
	"pkg/image/archive":     2,
	"pkg/image/appc":        2,
	"pkg/image/discovery":   2,
	"pkg/image/spool":       2,
	"pkg/network":           2,
	"pkg/nri":               2,
	"pkg/web/dist":          2,
	"pkg/stage1":            2,
	"pkg/stage1/ocispec":    2,
	"pkg/stage1/cdi":        2,
	"pkg/stage1/supervisor": 2,

	"pkg/stage0": 3,

	"pkg/cri":      4,
	"pkg/podfile":  4,
	"pkg/metadata": 4,
	"pkg/web":      4,

	"cmd/...": 5,

	"internal/floors":       tests,
	"internal/testutil/...": tests,
	"test/...":              tests,
	"hack/...":              tests,
}

// siblings are the imports allowed on one floor, importer first.
var siblings = map[[2]string]string{
	{"internal/sys", "internal/crash"}:        "it changes what outlives the process",
	{"internal/sys", "internal/errs"}:         "every package makes errors",
	{"internal/atomicfile", "internal/errs"}:  "every package makes errors",
	{"internal/applog", "internal/errs"}:      "every package makes errors",
	{"internal/systemd", "internal/errs"}:     "every package makes errors",
	{"pkg/stage1/wire", "pkg/pod/manifest"}:   "messages carry manifests",
	{"pkg/image/store", "pkg/image/trust"}:    "only what trust verified is committed",
	{"pkg/image/store", "pkg/image/layer"}:    "records name layers",
	{"pkg/image/archive", "pkg/image/store"}:  "an import ends in a commit",
	{"pkg/image/discovery", "pkg/image/appc"}: "it looks for images by their names and labels",
	{"pkg/image/archive", "pkg/image/spool"}:  "archives are files",
	{"pkg/podfile", "pkg/cri"}:                "files hold what kubelet sends, and one translation reads both",
	{"pkg/image/appc", "pkg/image/store"}:     "an import ends in a commit",
	{"pkg/image/appc", "pkg/image/spool"}:     "ACIs are files",
	{"pkg/image/appc", "pkg/image/trust"}:     "the name that was asked for and the one that is said are compared there",

	{"cmd/shim", "cmd/shim/internal/podflags"}: "the command line of a pod",
	{"cmd/shim", "cmd/shim/internal/terminal"}: "the terminal of a person",
}

// onlyIn gives, for packages that only some of ours may import, which ones.
// Tests are held to it too.
var onlyIn = map[string][]string{
	"golang.org/x/sys/unix":                           {"internal/sys"},
	"github.com/containernetworking/cni/libcni":       {"pkg/network"},
	"github.com/containerd/nri/pkg/adaptation":        {"pkg/nri"},
	"github.com/containerd/nri/pkg/api":               {"pkg/nri", "test/..."},
	"google.golang.org/grpc":                          {"pkg/cri", "cmd/shim", "test/...", "hack/..."},
	"k8s.io/klog/v2":                                  {"pkg/cri", "pkg/web", "cmd/shim", "test/...", "hack/..."},
	"k8s.io/cri-api/pkg/apis/runtime/v1":              {"pkg/cri", "pkg/podfile", "cmd/shim", "test/...", "hack/..."},
	"tags.cncf.io/container-device-interface/pkg/cdi": {"pkg/stage1/cdi"},
	"github.com/vishvananda/netlink":                  {"pkg/network", "internal/sys", "internal/testutil/...", "test/...", "hack/..."},
	"github.com/godbus/dbus/v5":                       {"internal/systemd"},
	"oras.land/oras-go/v2/registry/remote/auth":       {"pkg/image/registry"},
	"github.com/sigstore/sigstore-go/pkg/root":        {"pkg/image/trust"},
	"github.com/sigstore/sigstore-go/pkg/verify":      {"pkg/image/trust"},
	"github.com/ProtonMail/go-crypto/openpgp/v2":      {"pkg/image/trust"},
	"github.com/opencontainers/runtime-spec/specs-go": {"pkg/stage1/...", "pkg/stage0", "pkg/nri", "test/...", "hack/..."},
}

// supervisorForbids is what bin/stagelet-stage1 must not be linked with: it
// runs once for every pod, and each of these costs memory in each of them.
var supervisorForbids = []string{
	"google.golang.org/...", "k8s.io/...", "sigs.k8s.io/...", "net", "net/http/...", "os/user/...", "crypto/tls/...",
	"github.com/containernetworking/...", "github.com/godbus/...", "github.com/spf13/...", "github.com/sigstore/...", "github.com/ProtonMail/...",
}

// maxSupervisorPackages bounds the size of its dependency set, the standard
// library's packages included.
const maxSupervisorPackages = 100

type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,TestImports,XTestImports"}, args...)...)
	cmd.Dir = "../.."
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// matches reports whether path is pattern or, if that ends in "/...", below.
func matches(pattern, path string) bool {
	prefix, below := strings.CutSuffix(pattern, "/...")
	return path == prefix || below && strings.HasPrefix(path, prefix+"/")
}

func floorOf(path string) (int, error) {
	if floor, ok := floors[path]; ok {
		return floor, nil
	}
	for pattern, floor := range floors {
		if matches(pattern, path) {
			return floor, nil
		}
	}
	return 0, fmt.Errorf("%s has no floor: give it one in internal/floors", path)
}

func TestImportsGoDown(t *testing.T) {
	for _, p := range list(t, "./...") {
		from := strings.TrimPrefix(p.ImportPath, module)
		floor, err := floorOf(from)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, path := range p.Imports {
			to, ours := strings.CutPrefix(path, module)
			if !ours {
				continue
			}
			lower, err := floorOf(to)
			_, allowed := siblings[[2]string{from, to}]
			switch {
			case err != nil:
				t.Error(err)
			case lower > floor, lower == floor && !allowed && floor != tests:
				t.Errorf("%s (floor %d) imports %s (floor %d)", from, floor, to, lower)
			}
		}
	}
}

func TestSomeImportsBelongToOnePackage(t *testing.T) {
	for _, p := range list(t, "./...") {
		from := strings.TrimPrefix(p.ImportPath, module)
		for _, path := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			allowed, restricted := onlyIn[path]
			if restricted && !slices.ContainsFunc(allowed, func(in string) bool { return matches(in, from) }) {
				t.Errorf("%s imports %s, which is for %s", from, path, strings.Join(allowed, ", "))
			}
		}
	}
}

func TestSupervisorStaysSmall(t *testing.T) {
	deps := list(t, "-deps", "./cmd/stage1")
	for _, p := range deps {
		for _, forbidden := range supervisorForbids {
			if matches(forbidden, p.ImportPath) {
				t.Errorf("cmd/stage1 depends on %s", p.ImportPath)
			}
		}
	}
	if len(deps) > maxSupervisorPackages {
		t.Errorf("cmd/stage1 depends on %d packages, more than %d", len(deps), maxSupervisorPackages)
	}
	t.Logf("cmd/stage1 depends on %d packages", len(deps))
}
