package appc_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/acibuild"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/internal/testutil/hostile"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
)

// whole is a manifest that says everything.
func whole() appc.ImageManifest {
	return appc.ImageManifest{
		Name:   "example.com/app",
		Labels: acibuild.Label("version", "1.2.3+git", "os", "linux", "arch", "amd64", "env", "canary"),
		App: &appc.App{
			Exec: []string{"/bin/app", "-x"}, User: "/bin/app", Group: "wheel", WorkingDirectory: "/work",
			Environment: []appc.EnvironmentVariable{{Name: "A", Value: "1=2"}, {Name: "B"}},
			MountPoints: []appc.MountPoint{{Name: "data", Path: "/data"}},
			Ports:       []appc.Port{{Name: "web", Protocol: "tcp", Port: 80}, {Name: "more", Protocol: "udp", Port: 1000, Count: 3}},
			Isolators:   []appc.Isolator{{Name: "resource/memory", Value: json.RawMessage(`{"limit":"1G"}`)}},
		},
		Annotations: acibuild.Label("created", "2015-01-02T03:04:05Z", "authors", "Carly", "homepage", "https://example.com", "x", "y"),
	}
}

func TestImport(t *testing.T) {
	testutil.CheckLeaks(t)
	program := busybox.Regular("bin/app", 0o4755, []byte("app"))
	program.Header.Uid, program.Header.Gid = 7, 8
	hard := file("bin/app2", "")
	hard.Header.Typeflag, hard.Header.Linkname, hard.Header.Size, hard.Body = '1', "bin/app", 0, nil
	plain := acibuild.New(t, whole(), dir("bin"), program, hard, link("lib", "/usr/lib"), file("etc/x", "implied"))
	s := newStore(t)
	var first *image.Record
	for _, packed := range [][]byte{plain, acibuild.Packed(t, "gzip", plain), acibuild.Packed(t, "xz", plain), acibuild.Packed(t, "bzip2", plain)} {
		r := mustImport(t, s, packed, appc.Options{Asked: "example.com/app", Platform: v1.Platform{OS: "linux", Architecture: "amd64"}})
		if first != nil && (r.ID != first.ID || !reflect.DeepEqual(r.Layers, first.Layers)) {
			t.Errorf("packed otherwise it is another image: %+v", r)
		}
		first = r
		imagestore.ExpectClean(t, s)
	}
	if got := appc.FormatID(first.AppC.ID); got != acibuild.ID(plain) {
		t.Errorf("its id is %s, want %s", got, acibuild.ID(plain))
	}
	if !slices.Equal(first.Tags, []string{"example.com/app:1.2.3_git"}) || first.Verdict.Kind != image.VerdictLocalImport {
		t.Errorf("tags %v, verdict %+v", first.Tags, first.Verdict)
	}
	want := v1.ImageConfig{
		User: "7:wheel", Entrypoint: []string{"/bin/app", "-x"}, WorkingDir: "/work", Env: []string{"A=1=2", "B="},
		Volumes: map[string]struct{}{"/data": {}}, ExposedPorts: map[string]struct{}{"80/tcp": {}, "1000/udp": {}, "1001/udp": {}, "1002/udp": {}},
		Labels: map[string]string{
			"env": "canary", "x": "y", v1.AnnotationVersion: "1.2.3+git", v1.AnnotationCreated: "2015-01-02T03:04:05Z",
			v1.AnnotationAuthors: "Carly", v1.AnnotationURL: "https://example.com",
			image.LabelAppCID: acibuild.ID(plain), image.LabelAppCManifest: string(first.AppC.Manifest),
		},
	}
	if c := first.Config; !reflect.DeepEqual(c.Config, want) || c.Author != "Carly" || c.Created == nil || c.OS != "linux" || c.Architecture != "amd64" {
		t.Errorf("configuration %+v\nwant %+v", c, want)
	}
	for _, ref := range []string{acibuild.ID(plain), acibuild.ID(plain)[:12], "example.com/app:1.2.3_git", string(first.ID)} {
		if r, err := s.Resolve(ref); err != nil || r.ID != first.ID {
			t.Errorf("%s: %v, %v", ref, r, err)
		}
	}
	if got, err := appc.ManifestOf(s, first); err != nil || len(got.App.Isolators) != 1 || got.Name != "example.com/app" {
		t.Errorf("manifest %+v, %v", got, err)
	}
	if data, err := s.AppCManifest(first); err != nil || !bytes.Contains(plain, data) {
		t.Errorf("manifest %s, %v", data, err)
	}
	if got, want := rendering(t, s, first), []string{"bin/", "bin/app2=app", "bin/app=app", "etc/", "etc/x=implied", "lib->/usr/lib"}; !slices.Equal(got, want) {
		t.Errorf("it holds %q, want %q", got, want)
	}
	verify(t, s, first)
}

// Who imports the same at the same time has the same.
func TestConcurrentImports(t *testing.T) {
	testutil.CheckLeaks(t)
	s := newStore(t)
	data := acibuild.New(t, cutTo(depending("app", "base"), "/x", "/y"), file("x", "app"))
	from := shelf{"base": acibuild.New(t, named("base", ""), file("y", "base"))}
	ids := make([]image.Digest, 6)
	var all errgroup.Group
	for i := range ids {
		all.Go(func() error {
			r, err := importACI(s, data, appc.Options{Resolve: from.resolve})
			if err == nil {
				ids[i] = r.ID
			}
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(slices.Compact(ids)) != 1 {
		t.Errorf("they got %v", ids)
	}
	if err := s.GC(t.Context()); err != nil { // records that others replaced
		t.Error(err)
	}
	imagestore.ExpectClean(t, s)
}

func TestRecognise(t *testing.T) {
	global := busybox.File{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}}
	manifest := acibuild.Manifest(t, named("a", ""))
	elsewhere := manifest
	elsewhere.Header.Name = "./manifest"
	for name, c := range map[string]struct {
		data []byte
		want bool
	}{
		"manifest first": {acibuild.Tar(t, manifest), true},
		"rootfs first":   {acibuild.Tar(t, busybox.Directory("rootfs", 0o755), manifest), true},
		"a file first":   {acibuild.Tar(t, file("rootfs/etc/x", ""), manifest), true},
		"the root first": {acibuild.Tar(t, global, busybox.Directory(".", 0o755), elsewhere), true},
		"docker save":    {hostile.DockerSave(t, "one").Pack(t), false},
		"OCI layout":     {acibuild.Tar(t, file("oci-layout", "{}")), false},
		"a layer":        {acibuild.Tar(t, dir("bin"), manifest), false},
		"no tar":         {bytes.Repeat([]byte("manifest"), 1000), false},
		"nothing":        {nil, false},
	} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, c.data, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := appc.Recognise(f); got != c.want || err != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		f.Close()
	}
}
