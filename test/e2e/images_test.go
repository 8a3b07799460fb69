package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/testutil/busybox"
)

// diskUsage is what lies below dir, as du(1) counts it, without the space that
// the store keeps for a full disk.
func diskUsage(t testing.TB, dir string) (bytes, inodes uint64) {
	t.Helper()
	seen := map[uint64]bool{} // files with several names
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		if !seen[st.Ino] && path != filepath.Join(dir, "reserve") {
			seen[st.Ino] = true
			bytes, inodes = bytes+uint64(st.Blocks)*512, inodes+1
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes, inodes
}

// near says that two figures are the same but for what file systems do on
// their own account.
func near(told, counted, slack uint64) error {
	if told > counted+counted/5+slack || counted > told+told/5+slack {
		return fmt.Errorf("told %d, counted %d", told, counted)
	}
	return nil
}

// TestImageFsInfo: kubelet collects images by these figures.
func TestImageFsInfo(t *testing.T) {
	s := startServer(t)
	r := newRegistry(t)
	small := make([]busybox.File, 500)
	for i := range small {
		small[i] = busybox.Regular(fmt.Sprint("small", i), 0o644, []byte("x"))
	}
	ref := r.push(t, "app", "v1", randomLayer(5, 6<<20), small)
	s.allow(t, r, "")
	check := func() (images *cri.FilesystemUsage) {
		t.Helper()
		info, err := s.images.ImageFsInfo(s.ctx)
		if err != nil || len(info.ImageFilesystems) != 1 || len(info.ContainerFilesystems) != 1 {
			t.Fatal(info, err)
		}
		images = info.ImageFilesystems[0]
		if images.Timestamp == 0 || images.FsId.GetMountpoint() != info.ContainerFilesystems[0].FsId.GetMountpoint() {
			t.Errorf("%v", info)
		}
		if _, err := os.Stat(images.FsId.GetMountpoint()); err != nil {
			t.Error(err)
		}
		bytes, inodes := diskUsage(t, s.path("lib", "images"))
		if err := near(images.UsedBytes.GetValue(), bytes, 128<<10); err != nil {
			t.Errorf("bytes: %v", err)
		}
		if err := near(images.InodesUsed.GetValue(), inodes, 32); err != nil {
			t.Errorf("inodes: %v", err)
		}
		return images
	}
	before := check()
	s.mustPull(t, ref)
	after := check()
	if more := after.UsedBytes.GetValue() - before.UsedBytes.GetValue(); more < 7<<20 { // each small file has a page
		t.Errorf("the image takes %d bytes", more)
	}
	a := s.runPod(t).start(t, "dd if=/dev/zero of=/big bs=1M count=5 2>/dev/null; exec sleep 1000")
	a.exec(t, "while [ $(stat -c %s /big) -lt 5242880 ]; do sleep 0.1; done")
	eventually(t, func() error { // it is measured every ten seconds
		info, err := s.images.ImageFsInfo(s.ctx)
		if err != nil {
			return err
		}
		return near(info.ContainerFilesystems[0].UsedBytes.GetValue(), 5<<20, 256<<10)
	})
	if err := s.images.RemoveImage(s.ctx, &cri.ImageSpec{Image: ref}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		info, err := s.images.ImageFsInfo(s.ctx)
		if err != nil {
			return err
		}
		return near(info.ImageFilesystems[0].UsedBytes.GetValue(), before.UsedBytes.GetValue(), 64<<10)
	})
}
