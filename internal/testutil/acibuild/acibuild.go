// Package acibuild makes App Container Images for tests.
package acibuild

import (
	"archive/tar"
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"os/exec"
	"testing"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/pkg/image/appc"
)

// New makes an ACI with these files below its rootfs. Kind and version of the
// manifest are filled in.
func New(t testing.TB, m appc.ImageManifest, files ...busybox.File) []byte {
	t.Helper()
	return Tar(t, Manifest(t, m), append([]busybox.File{busybox.Directory("rootfs", 0o755)}, Below("rootfs", files...)...)...)
}

// Manifest gives the manifest of an ACI as its entry.
func Manifest(t testing.TB, m appc.ImageManifest) busybox.File {
	t.Helper()
	m.Kind, m.Version = appc.ImageManifestKind, appc.SpecVersion
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return busybox.Regular("manifest", 0o644, data)
}

// Below gives files as they are called below a directory.
func Below(dir string, files ...busybox.File) []busybox.File {
	var all []busybox.File
	for _, f := range files {
		f.Header.Name = dir + "/" + f.Header.Name
		if f.Header.Typeflag == tar.TypeLink {
			f.Header.Linkname = dir + "/" + f.Header.Linkname
		}
		all = append(all, f)
	}
	return all
}

// Tar makes a tar of entries as they are.
func Tar(t testing.TB, first busybox.File, more ...busybox.File) []byte {
	t.Helper()
	data, err := busybox.Tar(append([]busybox.File{first}, more...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Busybox makes an ACI of busybox with all of its applets.
func Busybox(t testing.TB, m appc.ImageManifest, more ...busybox.File) []byte {
	t.Helper()
	files, err := busybox.Files()
	if err != nil {
		t.Fatal(err)
	}
	return New(t, m, append(files, more...)...)
}

// Label makes labels of names and values in turn.
func Label(namesAndValues ...string) (all appc.Labels) {
	for i := 0; i+1 < len(namesAndValues); i += 2 {
		all = append(all, appc.Label{Name: namesAndValues[i], Value: namesAndValues[i+1]})
	}
	return all
}

// ID gives the image id of an ACI that isn't compressed: "sha512-…".
func ID(data []byte) string {
	sum := sha512.Sum512(data)
	return "sha512-" + hex.EncodeToString(sum[:])
}

// Packed compresses data with gzip, xz or bzip2.
func Packed(t testing.TB, program string, data []byte) []byte {
	t.Helper()
	testutil.NeedProgram(t, program)
	cmd := exec.CommandContext(t.Context(), program, "-c")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}
