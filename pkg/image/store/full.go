package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/stagelet/stagelet/internal/errs"
)

// explainFull says of which file system there was no more when that is what
// err is about: what was being written says nothing to a person.
func (s *Store) explainFull(err error) error {
	if !isFull(err) {
		return err
	}
	var st syscall.Statfs_t
	if syscall.Statfs(s.root, &st) != nil {
		return err
	}
	unit := uint64(max(st.Bsize, 0))
	return errs.New(opAdmit, errs.Exhausted, "", fmt.Errorf("the file system of %s is full (%d of %d MB and %d of %d inodes are free): %w",
		s.root, st.Bavail*unit/1e6, st.Blocks*unit/1e6, st.Ffree, st.Files, err))
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// reserveBytes are enough for the index of some thousand images.
const reserveBytes = 1 << 20

// reserve is a file whose only use is to be given up: to take an image away, a
// new index has to be written, and that has to work on a full disk too.
func (s *Store) reserve() string { return filepath.Join(s.root, "reserve") }

// keepReserve makes the reserve, if there is none and enough room for it.
func (s *Store) keepReserve() {
	const enough = 2 * reserveBytes
	var st syscall.Statfs_t
	if fi, err := os.Lstat(s.reserve()); err == nil && fi.Size() == reserveBytes ||
		syscall.Statfs(s.root, &st) != nil || st.Bavail*uint64(max(st.Bsize, 0)) < enough {
		return
	}
	f, err := os.OpenFile(s.reserve(), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	err = syscall.Fallocate(int(f.Fd()), 0, 0, reserveBytes)
	if errors.Is(err, syscall.EOPNOTSUPP) {
		_, err = f.Write(make([]byte, reserveBytes))
	}
	if errors.Join(err, f.Close()) != nil {
		_ = os.Remove(s.reserve()) // what there is room for may be needed
	}
}

// withReserve does a small write that makes room in the end; when the disk is
// full, with the reserve's room.
func (s *Store) withReserve(write func() error) error {
	err := write()
	if !isFull(err) || removeFile(s.reserve()) != nil {
		return err
	}
	return s.explainFull(write())
}
