// Package outfile writes what somebody asked for to where he said: a file is
// there whole, or as it was before, whoever dies and be the power cut.
package outfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
)

// Write has write give the content of the file at path, whose permissions
// become perm. What is there and is no regular file (a device, a pipe, a
// symbolic link to anything) is not replaced but written to, as it is.
func Write(path string, perm os.FileMode, write func(io.Writer) error) error {
	if fi, err := os.Lstat(path); err == nil && !fi.Mode().IsRegular() {
		return writeTo(path, write)
	}
	// Until the file is whole it has no name, so that nothing is left of it;
	// where the file system has no such files, it has one beside path. That is
	// how it takes the place of a file, too.
	beside := atomicfile.TempName(path)
	f, err := sys.CreateUnnamed(filepath.Dir(path))
	unnamed := err == nil
	if errors.Is(err, errs.Unsupported) {
		f, err = os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if err != nil {
		return err
	}
	if err = write(f); err == nil {
		err = errors.Join(f.Chmod(perm), f.Sync())
	}
	named := false
	if err == nil && unnamed {
		if err = sys.GiveName(f, path); errors.Is(err, errs.Exists) {
			err = sys.GiveName(f, beside)
		} else {
			named = err == nil
		}
	}
	err = errors.Join(err, f.Close())
	if err == nil && !named {
		err = os.Rename(beside, path)
	}
	if err != nil {
		err = errors.Join(err, os.RemoveAll(beside)) // if it is there
	}
	return err
}

// writeTo writes to what is at path. The kernel follows a symbolic link, and
// knows which it had better not (fs.protected_symlinks, proc(5)).
func writeTo(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
