package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/testutil/busybox"
)

// smallDisk is a server whose root is a file system of its own.
type smallDisk struct {
	*server
	t    testing.TB
	root string
}

// onSmallDisk starts a server whose root is a tmpfs of that size.
func onSmallDisk(t *testing.T, options string) *smallDisk {
	t.Helper()
	root := t.TempDir()
	s := newServer(t, "--root", root)
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	s.importImage(busyboxArchive(t))
	s.start()
	t.Cleanup(s.finish)
	return &smallDisk{server: s, t: t, root: root}
}

func (d *smallDisk) resize(options string) {
	d.t.Helper()
	if err := syscall.Mount("tmpfs", d.root, "tmpfs", syscall.MS_REMOUNT, options); err != nil {
		d.t.Fatal(err)
	}
}

func (d *smallDisk) usage() string {
	d.t.Helper()
	info, err := d.images.ImageFsInfo(d.ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	return fmt.Sprint(info.ImageFilesystems[0].UsedBytes.Value, " bytes, ", info.ImageFilesystems[0].InodesUsed.Value, " inodes")
}

// fill takes all bytes that are left, into a file of that size.
func (d *smallDisk) fill() (file *os.File, size int64) {
	d.t.Helper()
	file, err := os.Create(filepath.Join(d.root, "fill"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { file.Close() })
	for {
		n, err := file.Write(make([]byte, 4096))
		if size += int64(n); err != nil {
			return file, size
		}
	}
}

// refuses checks that a pull ends for want of room, and leaves nothing.
func (d *smallDisk) refuses(ref string, names ...string) {
	d.t.Helper()
	before := d.usage()
	_, err := d.pull(ref, "")
	text := wantCode(d.t, err, codes.ResourceExhausted)
	for _, name := range names {
		if !strings.Contains(text, name) {
			d.t.Errorf("the error doesn't name %s: %s", name, text)
		}
	}
	if st, err := d.images.ImageStatus(d.ctx, &cri.ImageSpec{Image: ref}, false); err != nil || st.Image != nil {
		d.t.Errorf("half an image is there: %v, %v", st, err)
	}
	if _, err := d.cli("fsck"); err != nil {
		d.t.Error(err)
	}
	wantEqual(d.t, "usage", d.usage(), before)
}

func TestPullOntoAFullDisk(t *testing.T) {
	d := onSmallDisk(t, "size=16m")
	r := newRegistry(t)
	d.allow(t, r, "")
	ref := r.push(t, "large", "v1", randomLayer(1, 1<<20), randomLayer(2, 24<<20))
	d.refuses(ref, d.root, "full")
	if _, err := d.cli("fetch", ref); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("fetch: %v", err)
	}
	d.resize("size=100m")
	d.mustPull(t, ref)
	d.mustCLI("image", "verify", ref)
}

func TestPullWithoutInodes(t *testing.T) {
	d := onSmallDisk(t, "size=100m,nr_inodes=1000")
	r := newRegistry(t)
	d.allow(t, r, "")
	var files []busybox.File
	for i := range 1000 {
		files = append(files, busybox.Regular(fmt.Sprint("many/", i), 0o644, nil))
	}
	ref := r.push(t, "many", "v1", files)
	d.refuses(ref, d.root, "of 1000 inodes are free")
	d.resize("nr_inodes=10000")
	d.mustPull(t, ref)
}

// TestNoRoomForTheCommit: the disk is full at each write of a pull whose
// layers are there, one after the other.
func TestNoRoomForTheCommit(t *testing.T) {
	d := onSmallDisk(t, "size=16m")
	r := newRegistry(t)
	d.allow(t, r, "")
	ref := r.push(t, "same-layers", "v1")
	fill, size := d.fill()
	refused := 0
	for ; refused < 50; refused++ {
		if _, err := d.pull(ref, ""); err == nil {
			break
		}
		d.refuses(ref, d.root, "full")
		size -= 4096
		if err := fill.Truncate(size); err != nil {
			t.Fatal(err)
		}
	}
	if refused < 3 || refused == 50 {
		t.Errorf("it was refused %d times", refused)
	}
	d.mustCLI("image", "verify", ref)
	if err := os.Remove(fill.Name()); err != nil {
		t.Error(err)
	}
}

// TestRemovalsFromAFullDisk: whatever gives room back works without any.
func TestRemovalsFromAFullDisk(t *testing.T) {
	d := onSmallDisk(t, "size=64m")
	r := newRegistry(t)
	d.allow(t, r, "")
	before := d.usage()
	ref := r.push(t, "app", "v1", randomLayer(3, 4<<20))
	id := d.mustPull(t, ref)
	a := d.runPod(t).start(t, "exec sleep 1000", func(c *cri.ContainerConfig) { c.Image = &cri.ImageSpec{Image: id, UserSpecifiedImage: ref} })
	file, _ := d.fill()
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"RemoveImage", func() error { return d.images.RemoveImage(d.ctx, &cri.ImageSpec{Image: ref}) }},
		{"StopContainer", func() error { return d.runtime.StopContainer(d.ctx, a.id, 1) }},
		{"RemoveContainer", func() error { return d.runtime.RemoveContainer(d.ctx, a.id) }},
		{"StopPodSandbox", func() error { return d.runtime.StopPodSandbox(d.ctx, a.pod.id) }},
		{"RemovePodSandbox", func() error { return d.runtime.RemovePodSandbox(d.ctx, a.pod.id) }},
		{"gc", func() error { _, err := d.cli("gc"); return err }},
		{"fsck", func() error { _, err := d.cli("fsck"); return err }},
	} {
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.what, err)
		}
	}
	wantEqual(t, "usage", d.usage(), before)
	if err := os.Remove(file.Name()); err != nil {
		t.Error(err)
	}
}
