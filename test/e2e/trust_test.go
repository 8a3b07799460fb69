package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/internal/testutil/signed"
)

// writeFile puts a file into the server's directory.
func (s *server) writeFile(t testing.TB, name string, data []byte) (path string) {
	t.Helper()
	path = s.path(name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// verdict gives what ImageStatus tells of an image when it is asked for all.
func (s *server) verdict(t testing.TB, ref string) string {
	t.Helper()
	st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: ref}, true)
	if err != nil || st.Image == nil {
		t.Fatal(st, err)
	}
	_, verdict, _ := strings.Cut(st.Info["info"], `"verdict":`)
	return verdict
}

// tryImage tries to make an app of an image.
func (s *server) tryImage(p *pod, ref string) error {
	_, err := p.tryCreate(s.appConfig("true", func(c *cri.ContainerConfig) { c.Image = &cri.ImageSpec{Image: ref, UserSpecifiedImage: ref} }))
	return unwrapped(err)
}

// TestSignedPulls: as "cosign sign --key" does it, in each form.
func TestSignedPulls(t *testing.T) {
	s := startServer(t)
	r := newRegistry(t)
	key := signed.NewKey(t)
	file := s.writeFile(t, "cosign.pub", key.PEM())
	p := s.runPod(t)
	for form, attach := range map[string]func(ref string, d digest.Digest){
		"referrer": func(_ string, d digest.Digest) {
			r.evidence.Refer(d, key.Bundle(signed.Statement(signed.Signature, d)), nil)
		},
		"fallback": func(_ string, d digest.Digest) {
			r.evidence.ReferByTag(d, key.Bundle(signed.Statement(signed.Signature, d)))
		},
		"legacy": func(ref string, d digest.Digest) {
			payload := signed.Payload(ref, d)
			r.evidence.AttachLegacy(d, signed.Legacy{Payload: payload, Annotations: key.Legacy(payload)})
		},
	} {
		t.Run(form, func(t *testing.T) {
			s.during(t)
			ref := r.push(t, form, "v1", []busybox.File{busybox.Regular("form", 0o644, []byte(form))})
			prefix := r.host + "/" + form
			_, err := s.pull(ref, "")
			wantPrefix(t, err, "SignatureValidationFailed: ")
			s.mustCLI("trust", "add", "--yes", "--prefix", prefix, file)
			_, err = s.pull(ref, "")
			wantPrefix(t, err, "SignatureValidationFailed: ")
			if err != nil && !strings.Contains(err.Error(), "no signature") {
				t.Errorf("got %v", err)
			}
			attach(ref, digest.Digest(r.tags[form+":v1"]))
			s.mustPull(t, ref)
			if v := s.verdict(t, ref); !strings.Contains(v, `"kind":"sigstore-key"`) || !strings.Contains(v, key.Fingerprint()) || !strings.Contains(v, prefix) {
				t.Errorf("verdict %s", v)
			}
			if out := s.mustCLI("image", "list"); !strings.Contains(out, "sigstore-key") {
				t.Errorf("list says %s", out)
			}
			if err := s.tryImage(p, ref); err != nil {
				t.Error(err)
			}
			s.mustCLI("trust", "rm", "--prefix", prefix, key.Fingerprint())
			err = s.tryImage(p, ref)
			wantPrefix(t, err, "SignatureValidationFailed: ")
			if err != nil && !strings.Contains(err.Error(), "stagelet trust add --prefix "+prefix) {
				t.Errorf("it doesn't say what to do: %v", err)
			}
			s.fsck()
		})
	}
	// Signatures that can't be had are no reason to say that there are none.
	ref := r.push(t, "other", "v1")
	s.mustCLI("trust", "add", "--yes", "--prefix", r.host, file)
	r.evidence.Fail = func(what string) error {
		if what == "referrers" {
			return os.ErrDeadlineExceeded
		}
		return nil
	}
	_, err := s.pull(ref, "")
	wantPrefix(t, err, "RegistryUnavailable: ")
}

// TestSignedImports: a signature beside an archive has to be somebody's who is
// trusted with its images.
func TestSignedImports(t *testing.T) {
	g := signed.NewGPG(t)
	key := g.Generate("release@example.com", "ed25519", "sign", "never")
	s := startServer(t)
	const name = "registry.example.com/team/app:v1"
	var archive strings.Builder
	if err := (busybox.Image{Name: name, Layers: [][]busybox.File{{busybox.Regular("greeting", 0o644, []byte("hello"))}}}).WriteOCI(&archive); err != nil {
		t.Fatal(err)
	}
	file := s.writeFile(t, "app.tar", []byte(archive.String()))
	signature := g.Run([]byte(archive.String()), "--armor", "--detach-sign")
	s.writeFile(t, "app.tar.asc", signature)
	refused := func(says string, args ...string) {
		t.Helper()
		out, err := s.cli(append([]string{"image", "import", file}, args...)...)
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "stagelet trust add --prefix registry.example.com/team/app KEYFILE") {
			t.Errorf("%s, %v", out, err)
		}
		if st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: name}, false); err != nil || st.Image != nil {
			t.Errorf("a refused image is there: %v, %v", st, err)
		}
		s.fsck()
	}
	refused("no rule covers it")
	s.mustCLI("trust", "add", "--yes", "--prefix", "registry.example.com/team", s.writeFile(t, "release.asc", g.Export(key)))
	refused("bad signature", "--signature", s.writeFile(t, "other.asc", g.Run([]byte("other"), "--detach-sign")))
	if out, err := s.cli("image", "import", file, "--signature", s.path("none.asc")); err == nil || !strings.Contains(err.Error(), "none.asc") {
		t.Errorf("%s, %v", out, err)
	}
	s.mustCLI("image", "import", file)
	if v := s.verdict(t, name); !strings.Contains(v, `"kind":"openpgp"`) || !strings.Contains(v, key) || !strings.Contains(v, string(digest.FromString(archive.String()))) {
		t.Errorf("verdict %s", v)
	}
	p := s.runPod(t)
	if err := s.tryImage(p, name); err != nil {
		t.Error(err)
	}
	s.mustCLI("trust", "rm", "--prefix", "registry.example.com/team", key)
	wantPrefix(t, s.tryImage(p, name), "SignatureValidationFailed: ")
	// Without its signature it is what an administrator brought.
	if err := os.Remove(s.path("app.tar.asc")); err != nil {
		t.Fatal(err)
	}
	s.mustCLI("image", "import", file)
	if err := s.tryImage(p, name); err != nil {
		t.Error(err)
	}
}

// TestDevicesOfImages: what an image brings along of device nodes can't be
// opened, whatever the device cgroup says.
func TestDevicesOfImages(t *testing.T) {
	s := startServer(t)
	r := newRegistry(t)
	ref := r.push(t, "app", "v1", []busybox.File{busybox.Device("null", 0o666, 1, 3)})
	s.allow(t, r, "")
	id := s.mustPull(t, ref)
	p := s.runPod(t, func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.Privileged = true
	})
	script := "[ -c $D ] && cat $D 2>&1 && echo opened"
	of := func(device string, options ...appOption) string {
		t.Helper()
		return p.output(t, "D="+device+"; "+script+" || true", options...)
	}
	named := func(c *cri.ContainerConfig) { c.Image = &cri.ImageSpec{Image: id, UserSpecifiedImage: ref} }
	volume := func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{ContainerPath: "/m", Image: &cri.ImageSpec{Image: id, UserSpecifiedImage: ref}, Readonly: true}}
	}
	privileged := func(c *cri.ContainerConfig) { c.Linux.SecurityContext.Privileged = true }
	for name, out := range map[string]string{
		"its own": of("/null", named), "a volume's": of("/m/null", volume), "a volume's, privileged": of("/m/null", volume, privileged),
	} {
		if !strings.Contains(out, "Permission denied") {
			t.Errorf("%s: %s", name, out)
		}
	}
	wantEqual(t, "its own, privileged", of("/null", named, privileged), "opened")
	wantEqual(t, "one that every app has", of("/dev/null", named), "opened")
}

// TestPolicyJSON: where it is configured, it decides, and the rules don't.
func TestPolicyJSON(t *testing.T) {
	s := newServer(t)
	r := newRegistry(t)
	policy := func(requirement string) {
		s.writeFile(t, "policy.json", []byte(`{"default": [{"type": "reject"}], "transports": {"docker": {"`+r.host+`/team": [{"type": "`+requirement+`"}]}}}`))
	}
	s.args = append(s.args, "--policy-json", s.path("policy.json"))
	s.importImage(busyboxArchive(t))
	policy("reject")
	s.start()
	t.Cleanup(s.finish)
	s.allow(t, r, "")
	content := []busybox.File{busybox.Regular("content", 0o644, nil)} // else it would be the image that was imported
	ref, other := r.push(t, "team/app", "v1", content), r.push(t, "other/app", "v1", content)
	p := s.runPod(t)
	_, err := s.pull(ref, "")
	wantPrefix(t, err, "SignatureValidationFailed: ")
	if err != nil && !strings.Contains(err.Error(), s.path("policy.json")) {
		t.Errorf("it doesn't say which policy: %v", err)
	}
	policy("insecureAcceptAnything")
	s.mustPull(t, ref)
	if v := s.verdict(t, ref); !strings.Contains(v, `"kind":"insecure"`) || !strings.Contains(v, "policy.json") {
		t.Errorf("verdict %s", v)
	}
	_, err = s.pull(other, "")
	wantPrefix(t, err, "SignatureValidationFailed: ")
	policy("reject")
	wantPrefix(t, s.tryImage(p, ref), "SignatureValidationFailed: ")
	s.writeFile(t, "policy.json", []byte("{"))
	wantPrefix(t, s.tryImage(p, ref), "SignatureValidationFailed: ")
}
