package cli

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stagelet/stagelet/internal/testutil/acibuild"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/internal/testutil/site"
	"github.com/stagelet/stagelet/pkg/image/appc"
)

type (
	sitesKey struct{}
	gpgKey   struct{}
)

// lazily gives a value of a script that is made when it is first used.
func lazily[T any](ts *testscript.TestScript, key any, create func(t testing.TB) T) T {
	box := ts.Value(key).(*lazy)
	if box.value == nil {
		box.value = create(box.t)
	}
	return box.value.(T)
}

type lazy struct {
	t     testing.TB
	value any
}

// cmdSites serves the directory $WEB, or prints what was asked for.
func cmdSites(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: sites [log]")
	}
	dir := ts.MkAbs("web")
	s := lazily(ts, sitesKey{}, func(t testing.TB) *site.Sites { t.Helper(); return site.New(t, dir) })
	if len(args) == 1 {
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Join(s.Log(), "\n")+"\n"), 0o600))
		return
	}
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY"} {
		ts.Setenv(name, s.Proxy)
	}
	certs := hostOf(ts).Path("certs.d", "_default")
	ts.Check(os.MkdirAll(certs, 0o755))
	ts.Check(os.WriteFile(certs+"/ca.crt", s.CA, 0o600))
}

// cmdPGPKey makes an OpenPGP key: its fingerprint, and a file of it.
func cmdPGPKey(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: pgpkey VAR USER FILE")
	}
	g := lazily(ts, gpgKey{}, signed.NewGPG)
	fingerprint := g.Generate(args[1], "ed25519", "sign", "never")
	ts.Setenv(args[0], fingerprint)
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[2])), 0o755))
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), g.Export(fingerprint), 0o600))
}

// cmdSign signs files: FILE.asc.
func cmdSign(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: sign FINGERPRINT FILE...")
	}
	g := lazily(ts, gpgKey{}, signed.NewGPG)
	for _, file := range args[1:] {
		signature := g.Run([]byte(ts.ReadFile(file)), "--local-user", args[0], "--armor", "--detach-sign")
		ts.Check(os.WriteFile(ts.MkAbs(file+".asc"), signature, 0o600))
	}
}

// cmdACI makes an ACI of a manifest: with busybox, unless something is put
// into it, and then that alone.
func cmdACI(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: aci FILE MANIFEST [PATH CONTENT]...")
	}
	t := ts.Value(gpgKey{}).(*lazy).t
	var m appc.ImageManifest
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &m))
	var data []byte
	if files := args[2:]; len(files) == 0 {
		data = acibuild.Busybox(t, m)
	} else {
		var all []busybox.File
		for i := 0; i+1 < len(files); i += 2 {
			all = append(all, busybox.Regular(files[i], 0o755, []byte(files[i+1])))
		}
		data = acibuild.New(t, m, all...)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}

// cmdPush puts an image of busybox where a registry among the sites has it.
func cmdPush(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: push HOST REPOSITORY TAG")
	}
	dir := ts.MkAbs(filepath.Join("web", args[0], "v2", args[1]))
	for _, sub := range []string{"blobs", "manifests"} {
		ts.Check(os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	var archive bytes.Buffer
	ts.Check(busybox.Image{Name: "x"}.WriteOCI(&archive))
	for r := tar.NewReader(&archive); ; {
		_, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		ts.Check(err)
		data, err := io.ReadAll(r)
		ts.Check(err)
		ts.Check(os.WriteFile(filepath.Join(dir, "blobs", string(digest.FromBytes(data))), data, 0o600))
		var manifest v1.Manifest
		if json.Unmarshal(data, &manifest) == nil && len(manifest.Layers) > 0 {
			ts.Check(os.WriteFile(filepath.Join(dir, "manifests", args[2]), data, 0o600))
		}
	}
}
