package store

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/stagelet/stagelet/internal/errs"
)

// explainFull says of which file system there was no more when that is what
// err is about: what was being written says nothing to a person.
func (s *Store) explainFull(err error) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
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
