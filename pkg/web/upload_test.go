package web

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil/acibuild"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/internal/testutil/hostile"
	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
)

func last(story []chapter) chapter { return story[len(story)-1] }

func steps(story []chapter) (all []step) {
	for _, c := range story {
		if len(all) == 0 || all[len(all)-1] != c.Step {
			all = append(all, c.Step)
		}
	}
	return all
}

// Each form of archive is taken in where a rule asks for no signature, and what
// was checked is told.
func TestUpload(t *testing.T) {
	gzipped := func(data []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, err := w.Write(data)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	const name = "example.com/free/app:v1"
	for form, archive := range map[string][]byte{
		"docker save": dockerSave(t, name), "OCI image layout": layout(t, name), "uncompressed": gzipped(dockerSave(t, name)),
	} {
		t.Run(form, func(t *testing.T) {
			n := newNode(t)
			status, story := n.upload("", bytes.NewReader(archive))
			if status != http.StatusOK || last(story).Step != stepDone {
				t.Fatalf("%d: %+v", status, last(story))
			}
			want := []step{stepArchive, stepName, stepConfig, stepTrust, stepLayer, stepDone}
			if got := steps(story); !equal(got, want) {
				t.Errorf("told %v, want %v", got, want)
			}
			if !strings.Contains(story[0].Text, form) {
				t.Errorf("the archive is called %q", story[0].Text)
			}
			layers := 0
			for _, c := range story {
				if c.Layer != nil && c.Layer.State == layerChecked {
					layers++
					if c.Layer.Digest == "" || c.Layer.DiffID == "" || c.Layer.Total == 0 {
						t.Errorf("a layer without digests: %+v", c.Layer)
					}
				}
			}
			images := get[[]imageView](n, "/api/images")
			if len(images) != 1 || images[0].Tags[0] != name || len(images[0].Layers) != layers {
				t.Fatalf("images %+v", images)
			}
			if v := images[0].Verdict; v.Kind != image.VerdictInsecure || v.Reference != name || !strings.Contains(v.Rule, "rule.yaml") {
				t.Errorf("verdict %+v", v)
			}
		})
	}
}

// An ACI goes the same way.
func TestUploadACI(t *testing.T) {
	n := newNode(t)
	aci := func(name string, dependencies ...appc.Dependency) []byte {
		return acibuild.New(t, appc.ImageManifest{Name: name, Labels: acibuild.Label("version", "1"), Dependencies: dependencies}, busybox.Regular("file", 0o644, []byte("x")))
	}
	if _, story := n.upload("", bytes.NewReader(aci("example.com/team/app"))); last(story).Needs != needTrust || len(last(story).Next) == 0 {
		t.Errorf("without a rule: %+v", last(story))
	}
	n.nothingLeft()
	_, story := n.upload("", bytes.NewReader(aci("example.com/free/app", appc.Dependency{ImageName: "example.com/free/base"})))
	if end := last(story); end.Step != stepRefused || !strings.Contains(end.Text, "example.com/free/base") {
		t.Errorf("without what it depends on: %+v", end)
	}
	n.nothingLeft()
	data := aci("example.com/free/app")
	_, story = n.upload("", bytes.NewReader(data))
	if end := last(story); end.Step != stepDone || !strings.Contains(story[0].Text, "ACI") || len(end.Images) != 1 || end.Images[0].AppCID != acibuild.ID(data) {
		t.Errorf("%+v", end)
	}
}

// A disk that gets full while an upload comes in, or is unpacked, has nothing of
// it afterwards.
func TestUploadToAFullDisk(t *testing.T) {
	archive := dockerSave(t, "example.com/free/app:v1")
	for _, size := range []int{len(archive) / 2, len(archive) * 3 / 2} {
		disk := t.TempDir()
		if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d", size+1<<20)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(disk, 0); err != nil {
				t.Error(err)
			}
		})
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			n := newNodeIn(t, disk)
			_, story := n.upload("", struct{ io.Reader }{bytes.NewReader(archive)}) // of a length that nobody says
			if end := last(story); end.Step != stepRefused || end.Needs != needRoom {
				t.Errorf("%+v", end)
			}
			n.nothingLeft()
		})
	}
}

func equal[T comparable](a, b []T) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// The token doesn't stand for a signature.
func TestUnsignedUploadsAreRefused(t *testing.T) {
	n := newNode(t)
	_, story := n.upload("", bytes.NewReader(dockerSave(t, "example.com/team/app:v1")))
	end := last(story)
	if end.Step != stepRefused || end.Kind != errs.Denied || end.Needs != needTrust || !strings.Contains(end.Text, "no rule covers it") {
		t.Errorf("%+v", end)
	}
	if len(end.Next) != 2 || end.Next[1] != "stagelet trust add --prefix example.com/team/app --insecure" {
		t.Errorf("next steps %q", end.Next)
	}
	n.nothingLeft()
	n.rule("example.com/team/app", "insecure: true\n")
	if _, story := n.upload("", bytes.NewReader(dockerSave(t, "example.com/team/app:v1"))); last(story).Step != stepDone {
		t.Errorf("with an exception: %+v", last(story))
	}
}

func TestSignedUpload(t *testing.T) {
	n := newNode(t)
	g := signed.NewGPG(t)
	key, stranger := g.Generate("signer", "ed25519", "sign", "never"), g.Generate("stranger", "ed25519", "sign", "never")
	file := filepath.Join(n.dir, "trust/prefix.d/example.com/team", key)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, g.Export(key), 0o600)); err != nil {
		t.Fatal(err)
	}
	archive := dockerSave(t, "example.com/team/app:v1")
	by := func(key string, what []byte) string {
		return base64.StdEncoding.EncodeToString(g.Run(what, "--local-user", key, "--armor", "--detach-sign"))
	}
	for name, signature := range map[string]string{"by a stranger": by(stranger, archive), "of something else": by(key, []byte("x"))} {
		if _, story := n.upload("", bytes.NewReader(archive), signatureHeader, signature); last(story).Kind != errs.Denied {
			t.Errorf("%s: %+v", name, last(story))
		}
		n.nothingLeft()
	}
	_, story := n.upload("", bytes.NewReader(archive), signatureHeader, by(key, archive))
	if end := last(story); end.Step != stepDone || len(end.Images) != 1 || end.Images[0].Verdict.Kind != image.VerdictOpenPGP {
		t.Errorf("%+v", end)
	}
	for _, signature := range []string{"%", base64.StdEncoding.EncodeToString(make([]byte, maxSignature+1))} {
		if status, data := n.do("POST", "/api/images", bytes.NewReader(archive), signatureHeader, signature); status != http.StatusBadRequest {
			t.Errorf("%d: %s", status, data)
		}
	}
}

// Who uploads says the name where the archive doesn't.
func TestUploadWithoutName(t *testing.T) {
	n := newNode(t)
	archive := bytes.ReplaceAll(dockerSave(t, "example.com/x:1"), []byte(`["example.com/x:1"]`), []byte(`[                 ]`))
	status, story := n.upload("", bytes.NewReader(archive))
	if end := last(story); status != http.StatusBadRequest || end.Needs != needName {
		t.Fatalf("%d: %+v", status, end)
	}
	n.nothingLeft()
	if status, _ := n.do("POST", "/api/images?name=UPPER", bytes.NewReader(archive)); status != http.StatusBadRequest {
		t.Errorf("a bad name: %d", status)
	}
	if _, story := n.upload("?name="+url.QueryEscape("example.com/free/named"), bytes.NewReader(archive)); last(story).Step != stepDone {
		t.Errorf("%+v", last(story))
	}
	if images := get[[]imageView](n, "/api/images"); len(images) != 1 || images[0].Tags[0] != "example.com/free/named:latest" {
		t.Errorf("%+v", images)
	}
}

// What can't be taken in is refused, named, and leaves nothing.
func TestHostileUploads(t *testing.T) {
	n := newNode(t)
	n.rule("docker.io", "insecure: true\n")
	for _, a := range slices.Concat(hostile.Archives(), hostile.ACIs()) {
		query := ""
		if a.Named != "" {
			query = "?name=" + url.QueryEscape(a.Named)
		}
		status, data := n.do("POST", "/api/images"+query, bytes.NewReader(a.Data(t)))
		if !bytes.HasPrefix(data, []byte(`{"step":`)) { // a name that never could be one
			if status != http.StatusBadRequest {
				t.Errorf("%s: %d %s", a.Name, status, data)
			}
			continue
		}
		end := last(n.chapters(data))
		if end.Step != stepRefused || !strings.Contains(end.Text, a.Says) && end.Needs != needName {
			t.Errorf("%s: %+v, want %q", a.Name, end, a.Says)
		}
		if t.Failed() {
			break
		}
	}
	n.nothingLeft()
	status, data := n.do("POST", "/api/images", strings.NewReader("x"), "Content-Type", "multipart/form-data; boundary=x")
	if status != http.StatusBadRequest || !strings.Contains(string(data), "not a form") {
		t.Errorf("a form: %d %s", status, data)
	}
}

// What is more than the disk takes is refused before it is sent.
func TestTooLargeForTheDisk(t *testing.T) {
	n := newNode(t)
	if err := n.server.checkRoom(image.MaxArchiveBytes + 1); !errors.Is(err, image.TooLarge) {
		t.Errorf("more than any archive: %v", err)
	}
	if err := n.server.checkRoom(-1); err != nil {
		t.Errorf("of unknown length: %v", err)
	}
	if err := fits(1001, 1000); !errors.Is(err, errs.Exhausted) {
		t.Errorf("more than there is: %v", err)
	}
}

// begin sends the head of an upload and a part of its body over a connection of
// its own.
func (n *node) begin(part []byte) net.Conn {
	n.Helper()
	c, err := new(net.Dialer).DialContext(n.Context(), "tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		n.Fatal(err)
	}
	head := "POST /api/images HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + token + "\r\nContent-Length: 100000000\r\n\r\n"
	if _, err := c.Write(append([]byte(head), part...)); err != nil {
		n.Fatal(err)
	}
	return c
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// More uploads than there are slots wait for nobody; one that breaks off gives
// its slot back, and leaves nothing.
func TestUploadsThatBreakOff(t *testing.T) {
	n := newNode(t)
	archive := dockerSave(t, "example.com/free/app:v1")
	var open []net.Conn
	for range maxUploads {
		open = append(open, n.begin(archive[:len(archive)/2]))
	}
	eventually(t, "uploads have begun", func() bool { return len(n.server.uploads) == maxUploads })
	status, data := n.do("POST", "/api/images", bytes.NewReader(archive))
	if status != http.StatusServiceUnavailable || !strings.Contains(string(data), "under way") {
		t.Errorf("one more: %d %s", status, data)
	}
	for _, c := range open {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "uploads have ended", func() bool { return len(n.server.uploads) == 0 })
	n.nothingLeft()
	if _, story := n.upload("", bytes.NewReader(archive)); last(story).Step != stepDone {
		t.Errorf("afterwards: %+v", last(story))
	}
}
