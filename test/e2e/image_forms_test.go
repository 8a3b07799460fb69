package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func pack(t *testing.T, data []byte, writer func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := writer(&buf)
	_, err := w.Write(data)
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gzipWriter(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }

func zstdWriter(w io.Writer) io.WriteCloser {
	z, _ := zstd.NewWriter(w) // without options nothing can be wrong
	return z
}

type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

// TestFormsOfImages pulls and runs one image in every form that registries
// give images out in.
func TestFormsOfImages(t *testing.T) {
	s := startServer(t)
	r := newRegistry(t)
	s.allow(t, r, "")
	p := s.runPod(t)
	for _, c := range []struct {
		name                    string
		layer, config, manifest string
		index                   string // "": none
		algorithm               digest.Algorithm
		writer                  func(io.Writer) io.WriteCloser
	}{
		{"plain", v1.MediaTypeImageLayer, v1.MediaTypeImageConfig, v1.MediaTypeImageManifest, "", digest.SHA256, func(w io.Writer) io.WriteCloser { return plainWriter{w} }},
		{"gzip", v1.MediaTypeImageLayerGzip, v1.MediaTypeImageConfig, v1.MediaTypeImageManifest, v1.MediaTypeImageIndex, digest.SHA256, gzipWriter},
		{"zstd", v1.MediaTypeImageLayerZstd, v1.MediaTypeImageConfig, v1.MediaTypeImageManifest, "", digest.SHA256, zstdWriter},
		{"docker", "application/vnd.docker.image.rootfs.diff.tar.gzip", image.DockerConfig, image.DockerManifest, image.DockerIndex, digest.SHA256, gzipWriter},
		{"sha512", v1.MediaTypeImageLayerGzip, v1.MediaTypeImageConfig, v1.MediaTypeImageManifest, v1.MediaTypeImageIndex, digest.SHA512, gzipWriter},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.during(t)
			_, config := r.documents(t, r.push(t, "base", c.name, []busybox.File{busybox.Regular("form", 0o644, []byte(c.name+"\n"))}))
			base, err := busybox.Files()
			if err != nil {
				t.Fatal(err)
			}
			config.RootFS.DiffIDs = nil
			m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: c.manifest}
			for _, files := range [][]busybox.File{base, {busybox.Regular("form", 0o644, []byte(c.name+"\n"))}} {
				layer, err := busybox.Tar(files)
				if err != nil {
					t.Fatal(err)
				}
				config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, c.algorithm.FromBytes(layer))
				m.Layers = append(m.Layers, r.put(c.algorithm, c.layer, pack(t, layer, c.writer)))
			}
			m.Config = r.put(c.algorithm, c.config, marshal(t, config))
			d := r.put(c.algorithm, c.manifest, marshal(t, m))
			byDigest := r.host + "/forms@" + string(d.Digest)
			if c.index != "" {
				x := v1.Index{Versioned: m.Versioned, MediaType: c.index, Manifests: []v1.Descriptor{d}}
				x.Manifests[0].Platform = &config.Platform
				d = r.put(c.algorithm, c.index, marshal(t, x))
			}
			ref := r.tag("forms", c.name, d)
			id := s.mustPull(t, ref)
			if again := s.mustPull(t, byDigest); again != id || id != string(m.Config.Digest) {
				t.Errorf("ids %s and %s, the configuration is %s", id, again, m.Config.Digest)
			}
			st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: byDigest}, false)
			if err != nil || st.Image.GetId() != id {
				t.Errorf("by digest: %v, %v", st, err)
			}
			wantEqual(t, "form", strings.TrimSpace(p.output(t, "cat /form", func(c *cri.ContainerConfig) { c.Image = &cri.ImageSpec{Image: id, UserSpecifiedImage: ref} })), c.name)
			s.mustCLI("image", "verify", ref)
		})
	}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestIndexInAnIndex: what the tag leads to is the image's first digest.
func TestIndexInAnIndex(t *testing.T) {
	s := startServer(t)
	r := newRegistry(t)
	s.allow(t, r, "")
	manifest, config := r.documents(t, r.push(t, "base", "v1"))
	d := r.put(digest.SHA256, v1.MediaTypeImageManifest, marshal(t, manifest))
	d.Platform = &config.Platform
	var want []string
	for range 2 {
		x := v1.Index{Versioned: manifest.Versioned, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{d}}
		want = append([]string{r.host + "/nested@" + string(d.Digest)}, want...)
		d = r.put(digest.SHA256, v1.MediaTypeImageIndex, marshal(t, x))
	}
	want = append([]string{r.host + "/nested@" + string(d.Digest)}, want...)
	ref := r.tag("nested", "v1", d)
	s.mustPull(t, ref)
	for _, name := range append(want, ref) {
		st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: name}, false)
		if err != nil || strings.Join(st.Image.GetRepoDigests(), " ") != strings.Join(want, " ") {
			t.Errorf("%s: %v, %v, want %v", name, st, err, want)
		}
	}
}

// TestImageOfALiveApp: it goes with the last app that runs from it.
func TestImageOfALiveApp(t *testing.T) {
	s := startServer(t)
	r := newRegistry(t)
	s.allow(t, r, "")
	ref := r.push(t, "app", "v1", []busybox.File{busybox.Regular("greeting", 0o644, []byte("hello\n"))})
	id := s.mustPull(t, ref)
	_, config := r.documents(t, ref)
	layers := func() (there int) {
		for _, d := range config.RootFS.DiffIDs[1:] { // the first is that of busybox itself, too
			if _, err := statLayer(s, d); err == nil {
				there++
			}
		}
		return there
	}
	a := s.runPod(t).start(t, "exec sleep 1000", func(c *cri.ContainerConfig) { c.Image = &cri.ImageSpec{Image: id, UserSpecifiedImage: ref} })
	if err := s.images.RemoveImage(s.ctx, &cri.ImageSpec{Image: ref}); err != nil {
		t.Fatal(err)
	}
	if st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: id}, false); err != nil || st.Image != nil {
		t.Errorf("it is still listed: %v, %v", st, err)
	}
	s.mustCLI("image", "gc")
	s.fsck()
	wantEqual(t, "layers beside the app", layers(), 1)
	wantEqual(t, "what the app sees", strings.TrimSpace(a.exec(t, "cat /greeting")), "hello")
	wantEqual(t, "image of the app", a.status(t).ImageId, id)
	if err := s.runtime.RemoveContainer(s.ctx, a.id); err != nil {
		t.Fatal(err)
	}
	s.mustCLI("image", "gc")
	wantEqual(t, "layers after the app", layers(), 0)
}

// A prepared pod keeps all that it needs of its images, whoever removes them,
// and is asked again whether it may run from them.
func TestPreparedPodOutlivesItsImages(t *testing.T) {
	s := startServer(t)
	r := newRegistry(t)
	rule := s.allow(t, r, "")
	refs := []string{
		r.push(t, "app", "v1", []busybox.File{busybox.Regular("greet", 0o755, []byte("#!/bin/sh\necho hello\n"))}),
		r.push(t, "data", "v1", []busybox.File{busybox.Regular("answer", 0o644, []byte("42\n"))}),
	}
	before := filesBelow(s.path("lib", "images", "records"))
	for _, ref := range refs {
		s.mustPull(t, ref)
	}
	plan := personalPlan("/greet; cat /data/answer; exit 3")
	plan.Apps[0].Image = refs[0]
	plan.Apps[0].App.Mounts = []manifest.Mount{{Image: &manifest.ImageMount{Name: refs[1]}, Destination: "/data"}}
	mounting := s.mustPerson(errand{Verb: "prepare", Plan: plan}).Pod
	refused := strings.TrimSpace(s.mustCLI("prepare", refs[0], "--exec=/greet"))
	allowed := strings.TrimSpace(s.mustCLI("prepare", refs[0], "--exec=/greet"))

	if _, err := s.cli("image", "rm", refs[0]); err == nil || !strings.Contains(err.Error(), "it is prepared to run with this image") {
		t.Errorf("a person removes it: %v", err)
	}
	for _, ref := range refs {
		if err := s.images.RemoveImage(s.ctx, &cri.ImageSpec{Image: ref}); err != nil {
			t.Fatal(err)
		}
		if st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: ref}, false); err != nil || st.Image != nil {
			t.Errorf("it is still listed: %v, %v", st, err)
		}
	}
	s.mustCLI("gc", "--expire-prepared=1h")
	s.fsck()

	w := s.mustPerson(errand{Verb: "run-prepared", Pod: mounting, Wait: true})
	wantEqual(t, "exit code", w.Statuses[0].ExitCode, 3)
	wantEqual(t, "output", said(t, w.Logs[0]), "hello\n42")

	if err := os.Remove(rule); err != nil {
		t.Fatal(err)
	}
	if _, err := s.cli("run-prepared", refused); err == nil || !strings.Contains(err.Error(), r.host) {
		t.Errorf("run without a rule that allows its image: %v", err)
	}
	s.allow(t, r, "")
	wantEqual(t, "output", s.mustCLI("run-prepared", allowed), "hello\n")

	for _, id := range []string{mounting, allowed} {
		s.mustCLI("rm", id)
	}
	s.mustCLI("gc")
	wantEqual(t, "records left", len(filesBelow(s.path("lib", "images", "records"))), len(before))
	s.fsck()
}

// TestImageCommands goes through those that other tests don't.
func TestImageCommands(t *testing.T) {
	s := startServer(t)
	r := newRegistry(t)
	s.allow(t, r, "")
	ref := r.push(t, "app", "v1", []busybox.File{busybox.Regular("own", 0o644, nil)})
	id := s.mustPull(t, ref)
	var inspected struct {
		ID      string
		Tags    []string
		Verdict image.Verdict
		Config  v1.Image
	}
	for _, name := range []string{ref, id, strings.TrimPrefix(id, "sha256:")[:12]} {
		if err := json.Unmarshal([]byte(s.mustCLI("image", "inspect", name)), &inspected); err != nil {
			t.Fatal(err)
		}
		if inspected.ID != id || inspected.Tags[0] != ref || inspected.Verdict.Kind != image.VerdictInsecure || inspected.Config.OS != "linux" {
			t.Errorf("%s: %+v", name, inspected)
		}
	}
	s.mustCLI("image", "pin", ref)
	s.mustCLI("image", "unpin", ref)
	if st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: ref}, false); err != nil || st.Image.GetPinned() {
		t.Errorf("%v, %v", st, err)
	}
	var listed []struct{ ID string }
	if err := json.Unmarshal([]byte(s.mustCLI("image", "list", "-o", "json")), &listed); err != nil || len(listed) != 2 {
		t.Errorf("%v, %v", listed, err)
	}
	for _, command := range []string{"inspect", "rm", "cat-manifest", "verify"} {
		if _, err := s.cli("image", command, "nothing"); err == nil || !strings.Contains(err.Error(), "exit status 3") {
			t.Errorf("%s of what isn't there: %v", command, err)
		}
	}
}

func statLayer(s *server, d digest.Digest) (os.FileInfo, error) {
	return os.Stat(s.path("lib", "images", "layers", image.FileName(d)))
}
