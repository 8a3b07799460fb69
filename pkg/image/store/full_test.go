package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
)

func TestFullDiskLeavesNothingOfAPull(t *testing.T) {
	testutil.NeedRoot(t)
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=5m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	func() {
		s := pullStore(t, filepath.Join(disk, "images"))
		defer s.Close()
		r := remoteOf(t, "app", "one", layerOf(t, "a", "1"), bigLayer(t, 1))
		if _, err := s.Pull(context.Background(), Intake{Candidate: r.Candidate}); !errors.Is(err, errs.Exhausted) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("got %v", err)
		}
		if bytes, _, err := s.Usage(); err != nil || bytes != 0 || layerCount(t, s) != 0 {
			t.Errorf("%d bytes left, %v", bytes, err)
		}
		expectClean(t, s)
	}()
}

// TestRemoveFromAFullDisk: kubelet removes images because the disk is full.
func TestRemoveFromAFullDisk(t *testing.T) {
	testutil.NeedRoot(t)
	for name, options := range map[string]string{"bytes": "size=32m", "inodes": "size=32m,nr_inodes=500"} {
		t.Run(name, func(t *testing.T) {
			disk := t.TempDir()
			if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, options); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := syscall.Unmount(disk, 0); err != nil {
					t.Error(err)
				}
			})
			func() {
				s := pullStore(t, filepath.Join(disk, "images"))
				defer s.Close()
				pull(t, s, remoteOf(t, "app:1", "one", layerOf(t, "a", "1"), bigLayer(t, 1)))
				pull(t, s, remoteOf(t, "app:2", "two", layerOf(t, "a", "1"), bigLayer(t, 2)))
				fillDisk(t, disk)
				if err := s.Tag(context.Background(), "app:1", remoteOf(t, "app:3", "").Asked); !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("there is room left: %v", err)
				}
				for i, name := range []string{"app:1", "app:2"} {
					if err := s.Remove(name); err != nil {
						t.Fatal(err)
					}
					if got := ids(t, s); len(got) != 1-i || layerCount(t, s) != 2-2*i {
						t.Errorf("left are %v, %d layers", got, layerCount(t, s))
					}
					expectClean(t, s)
					fillDisk(t, disk)
				}
			}()
		})
	}
}

// fillDisk takes all bytes and inodes of a file system that are left, but for
// those of the store's.
func fillDisk(t *testing.T, disk string) {
	t.Helper()
	dir, err := os.MkdirTemp(disk, "fill")
	if err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	for i := 0; err == nil; i++ {
		data := make([]byte, 1<<20)
		for len(data) > 0 && err == nil {
			if err = os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), data, 0o600); err != nil && len(data) > 4096 {
				data, err = data[:len(data)/2], nil
				continue
			}
			data = nil
		}
	}
}
