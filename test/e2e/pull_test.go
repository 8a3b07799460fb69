package e2e

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/testutil/busybox"
)

// allow writes the exception for images of a registry that nobody signed;
// below the namespace's rules when there is one.
func (s *server) allow(t testing.TB, r *imageRegistry, namespace string) (file string) {
	t.Helper()
	dir := s.path("trust")
	if namespace != "" {
		dir = filepath.Join(dir, "namespace.d", namespace)
	}
	file = filepath.Join(dir, "prefix.d", r.host, "insecure.yaml")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("insecure: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (s *server) pull(ref, namespace string) (string, error) {
	var sandbox *cri.PodSandboxConfig
	if namespace != "" {
		sandbox = &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "p", Namespace: namespace, Uid: "u"}}
	}
	return s.images.PullImage(s.ctx, &cri.ImageSpec{Image: ref}, nil, sandbox)
}

func (s *server) mustPull(t testing.TB, ref string) string {
	t.Helper()
	id, err := s.pull(ref, "")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// wantPrefix checks what kubelet looks at.
func wantPrefix(t testing.TB, err error, prefix string) {
	t.Helper()
	if err == nil || !strings.HasPrefix(err.Error(), prefix) {
		t.Errorf("got %v, want %s…", err, prefix)
	}
}

// randomLayer is a layer of that many bytes, which don't compress.
func randomLayer(seed byte, size int) []busybox.File {
	body := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(body)
	return []busybox.File{busybox.Regular("random", 0o644, body)}
}

func TestPullsAreVerified(t *testing.T) {
	s := startServer(t)
	r := newRegistry(t)
	ref := r.push(t, "team/app", "v1", []busybox.File{busybox.Regular("greeting", 0o644, []byte("hello\n"))})

	_, err := s.pull(ref, "")
	wantPrefix(t, err, "SignatureValidationFailed: ")
	if err != nil && !strings.Contains(err.Error(), "stagelet trust") {
		t.Errorf("it doesn't say what to do: %v", err)
	}
	if st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: ref}, false); err != nil || st.Image != nil {
		t.Errorf("a refused image is there: %v, %v", st, err)
	}
	if n := r.served.Load(); n > 4<<10 { // the configuration
		t.Errorf("%d bytes of a refused image were fetched", n)
	}

	s.allow(t, r, "other")
	_, err = s.pull(ref, "e2e")
	wantPrefix(t, err, "SignatureValidationFailed: ")
	rule := s.allow(t, r, "")
	id := s.mustPull(t, ref)
	st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: ref}, true)
	if err != nil || st.Image == nil {
		t.Fatal(st, err)
	}
	wantEqual(t, "id", st.Image.Id, id)
	wantEqual(t, "tags", strings.Join(st.Image.RepoTags, " "), ref)
	if want := r.host + "/team/app@" + r.tags["team/app:v1"]; !slices.Equal(st.Image.RepoDigests, []string{want}) {
		t.Errorf("repo digests %v, want %s", st.Image.RepoDigests, want)
	}
	if info := st.Info["info"]; !strings.Contains(info, `"kind":"insecure"`) {
		t.Errorf("the exception isn't told: %s", info)
	}

	p := s.runPod(t)
	named := func(c *cri.ContainerConfig) {
		c.Image = &cri.ImageSpec{Image: id, UserSpecifiedImage: ref}
	}
	a := p.create(t, "true", named)
	if got := a.status(t); got.ImageId != id || got.Image.GetImage() != ref {
		t.Errorf("image %v, id %s", got.Image, got.ImageId)
	}
	wantEqual(t, "output", p.output(t, "cat /greeting", named), "hello")

	// A policy that has become stricter holds for what is there already.
	if err := os.Remove(rule); err != nil {
		t.Fatal(err)
	}
	for _, option := range []appOption{named, func(c *cri.ContainerConfig) { c.Image = &cri.ImageSpec{Image: id} }} {
		_, err = p.tryCreate(s.appConfig("true", option))
		wantPrefix(t, unwrapped(err), "SignatureValidationFailed: ")
	}
	s.allow(t, r, "e2e") // the namespace of the tests' pods
	wantEqual(t, "output by the namespace's rule", p.output(t, "cat /greeting", named), "hello")
	if err := s.images.RemoveImage(s.ctx, &cri.ImageSpec{Image: ref}); err != nil {
		t.Error(err)
	}
}

// unwrapped leaves out what gRPC puts before a message.
func unwrapped(err error) error {
	if err == nil {
		return nil
	}
	if _, text, found := strings.Cut(err.Error(), " desc = "); found {
		return textError(text)
	}
	return err
}

type textError string

func (e textError) Error() string { return string(e) }

func TestRegistriesThatCantBeHad(t *testing.T) {
	s := startServer(t)
	r := newRegistry(t)
	ref := r.push(t, "app", "v1")
	s.allow(t, r, "")
	if _, err := s.pull(r.host+"/app:none", ""); err == nil || strings.HasPrefix(err.Error(), "Registry") || strings.HasPrefix(err.Error(), "Signature") {
		t.Errorf("a tag that isn't there: %v", err)
	}
	r.http.Close()
	_, err := s.pull(ref, "")
	wantPrefix(t, err, "RegistryUnavailable: ")
}

func TestPullGoesOnAfterTheServerDied(t *testing.T) {
	s := startServer(t)
	r := newRegistry(t)
	const size = 4 << 20
	ref := r.push(t, "app", "v1", randomLayer(1, size))
	s.allow(t, r, "")
	r.hold.Store(3 << 20)
	manifest, _ := r.documents(t, ref)
	pulled := make(chan error, 1)
	go func() { _, err := s.pull(ref, ""); pulled <- err }()
	s.awaitPartial(t, manifest.Layers[len(manifest.Layers)-1].Digest, r)
	s.kill()
	if err := <-pulled; err == nil {
		t.Error("it was pulled")
	}
	r.hold.Store(0)
	s.start()
	s.fsck()
	if st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: ref}, false); err != nil || st.Image != nil {
		t.Errorf("half an image is there: %v, %v", st, err)
	}
	before := r.served.Load()
	s.mustPull(t, ref)
	if n := r.served.Load() - before; n > 3<<20 {
		t.Errorf("%d bytes were fetched again", n)
	}
	s.mustCLI("image", "verify", ref)
}

func TestFetch(t *testing.T) {
	s := startServer(t)
	r := newRegistry(t)
	ref := r.push(t, "app", "v1", randomLayer(2, 1<<20))
	out, err := s.cli("fetch", ref)
	if err == nil || !strings.Contains(err.Error(), "stagelet trust") {
		t.Errorf("unsigned: %s, %v", out, err)
	}
	out, err = s.cli("fetch", "--insecure-options=image", "docker://"+ref)
	if err != nil {
		t.Fatal(err)
	}
	id, _, _ := strings.Cut(out, "\t")
	st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: ref}, true)
	if err != nil || st.Image.GetId() != id || !strings.Contains(st.Info["info"], `"insecure":["image"]`) {
		t.Errorf("%v, %v", st, err)
	}
	// What was taken in without a rule runs nowhere.
	_, err = s.runPod(t).tryCreate(s.appConfig("true", func(c *cri.ContainerConfig) { c.Image = &cri.ImageSpec{Image: ref} }))
	wantPrefix(t, unwrapped(err), "SignatureValidationFailed: ")

	manifest := s.mustCLI("image", "cat-manifest", ref)
	if !strings.Contains(manifest, `"schemaVersion":2`) {
		t.Errorf("manifest %s", manifest)
	}
	s.mustCLI("image", "tag", ref, "localhost/other:v1")
	s.mustCLI("image", "pin", "localhost/other:v1")
	if st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: "localhost/other:v1"}, false); err != nil || !st.Image.GetPinned() || len(st.Image.GetRepoTags()) != 2 {
		t.Errorf("%v, %v", st, err)
	}
	archive := s.path("export.tar")
	s.mustCLI("image", "export", ref, "-o", archive)
	s.mustCLI("image", "rm", ref)
	s.mustCLI("image", "import", archive)
	if st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: ref}, false); err != nil || st.Image.GetId() != id {
		t.Errorf("the exported image is another: %v, %v", st, err)
	}
	out = s.mustCLI("image", "verify")
	if !strings.Contains(out, "by diff id") || strings.Contains(out, "DAMAGED") {
		t.Errorf("verify says %s", out)
	}
	damage, err := filepath.Glob(s.path("lib", "images", "layers", "*", "fs", "random"))
	if err != nil || len(damage) != 1 {
		t.Fatal(damage, err)
	}
	f, err := os.OpenFile(damage[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("bit rot"), 1000)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	if out, err = s.cli("image", "verify", ref); err == nil || !strings.Contains(out, "DAMAGED") || !strings.Contains(out, "/random") {
		t.Errorf("a damaged image verifies: %s, %v", out, err)
	}
}

func TestImageVolumes(t *testing.T) {
	s := startServer(t)
	r := newRegistry(t)
	ref := r.push(t, "models", "v1",
		[]busybox.File{busybox.Regular("weights/a", 0o644, []byte("lower\n")), busybox.Regular("weights/b", 0o644, []byte("lower\n"))},
		[]busybox.File{
			busybox.Regular("weights/b", 0o644, []byte("upper\n")),
			busybox.Symlink("inside", "/weights"), busybox.Symlink("outside", "/etc/shadow"), busybox.Symlink("above", "../../../../../../etc/shadow"),
		})
	rule := s.allow(t, r, "")
	id := s.mustPull(t, ref)
	p := s.runPod(t)
	volume := func(sub string) appOption {
		return func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/m", Image: &cri.ImageSpec{Image: id, UserSpecifiedImage: ref}, ImageSubPath: sub, Readonly: true}}
		}
	}
	wantEqual(t, "whole image", p.output(t, "cat /m/weights/a /m/weights/b; ls /m/bin/sh", volume("")), "lower\nupper\n/m/bin/sh")
	wantEqual(t, "a directory of it", p.output(t, "cat /m/a; ls /m", volume("weights")), "lower\na\nb")
	wantEqual(t, "a file of it", p.output(t, "cat /m", volume("weights/b")), "upper")
	wantEqual(t, "a link in it", p.output(t, "cat /m/a", volume("inside")), "lower")
	for _, sub := range []string{"outside", "above", "weights/../../etc", "..", "/etc", "weights/a/x"} { // of the host, none
		if a, err := p.tryCreate(s.appConfig("cat /m", volume(sub))); err == nil {
			t.Errorf("sub-path %q: app %s was created", sub, a.id)
		}
	}
	if out := p.output(t, "touch /m/x 2>&1; rm /m/weights/a 2>&1 || true", volume("")); !strings.Contains(out, "Read-only") {
		t.Errorf("it can be written to: %s", out)
	}
	_, err := p.tryCreate(s.appConfig("true", volume("no/such")))
	wantPrefix(t, unwrapped(err), "ImageVolumeMountFailed: ")
	_, err = p.tryCreate(s.appConfig("true", func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{ContainerPath: "/m", Image: &cri.ImageSpec{Image: "nowhere"}, Readonly: true}}
	}))
	wantPrefix(t, unwrapped(err), "ImageVolumeMountFailed: ")

	// The volume outlives its image.
	a := p.start(t, "exec sleep 1000", volume("weights"))
	if err := s.images.RemoveImage(s.ctx, &cri.ImageSpec{Image: ref}); err != nil {
		t.Fatal(err)
	}
	s.mustCLI("gc")
	s.fsck()
	wantEqual(t, "what is there without the image", strings.TrimSpace(a.exec(t, "cat /m/b")), "upper")
	mounts := a.status(t).Mounts
	if len(mounts) != 1 || mounts[0].GetImage().GetImage() != id || mounts[0].Image.ImageRef != id || mounts[0].GetImageSubPath() != "weights" {
		t.Errorf("mounts %v", mounts)
	}
	if err := s.runtime.RemoveContainer(s.ctx, a.id); err != nil {
		t.Fatal(err)
	}
	s.mustPull(t, ref)
	if err := os.Remove(rule); err != nil {
		t.Fatal(err)
	}
	_, err = p.tryCreate(s.appConfig("true", volume("")))
	wantPrefix(t, unwrapped(err), "ImageVolumeMountFailed: ")
}

func TestOneImageForManyPulls(t *testing.T) {
	s := startServer(t)
	r := newRegistry(t)
	ref := r.push(t, "app", "v1", randomLayer(3, 2<<20))
	s.allow(t, r, "")
	errs := make(chan error)
	const pulls = 5
	for i := range pulls {
		go func() {
			if i == 0 {
				_, err := s.cli("fetch", ref)
				errs <- err
				return
			}
			ctx, cancel := context.WithTimeout(s.ctx, patience)
			defer cancel()
			_, err := s.images.PullImage(ctx, &cri.ImageSpec{Image: ref}, nil, nil)
			errs <- err
		}()
	}
	for range pulls {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := r.served.Load(); n > 5<<20 {
		t.Errorf("%d bytes were fetched for %d pulls", n, pulls)
	}
	fs, err := s.images.ImageFsInfo(s.ctx)
	if err != nil || fs.ImageFilesystems[0].UsedBytes.Value < 2<<20 || fs.ContainerFilesystems[0].UsedBytes.Value > 1<<20 {
		t.Errorf("%v, %v", fs, err)
	}
}
