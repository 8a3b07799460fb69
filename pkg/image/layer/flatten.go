package layer

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
)

// Owners says what the ids of files become in a tar; nil: they stay.
type Owners struct {
	UID, GID func(uint32) uint32
}

func (o Owners) of(st sys.Stat) (uid, gid int) {
	if o.UID != nil {
		st.UID = o.UID(st.UID)
	}
	if o.GID != nil {
		st.GID = o.GID(st.GID)
	}
	return int(st.UID), int(st.GID)
}

// Flatten writes what trees (lowest first; the last may be the upper directory
// of an app) show together as an uncompressed tar: no layer's whiteouts are in
// it, and nothing that lies outside. What vanishes while it is being read, as
// an app runs, is left out; a file that becomes shorter ends in zeros. Sockets
// are left out, as tar has none.
func Flatten(ctx context.Context, trees []string, owners Owners, w io.Writer) error {
	const op = "flatten layers"
	if len(trees) == 0 {
		return errs.New(op, errs.Invalid, "", errors.New("there are none"))
	}
	root, err := openMerged(trees)
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	defer root.Close()
	d := differ{tar: tar.NewWriter(until{ctx.Err, w}), seen: map[uint64]string{}, owners: owners, live: true}
	return errs.Wrap(op, "", d.run(ctx, root))
}

// until writes as long as nobody gave up: a file of an app may be huge, and
// without a byte on disk.
type until struct {
	ended func() error
	w     io.Writer
}

func (u until) Write(p []byte) (int, error) {
	if err := u.ended(); err != nil {
		return 0, err
	}
	return u.w.Write(p)
}

// openMerged mounts trees where nobody sees it. The mount goes with the
// descriptor, whoever dies.
func openMerged(trees []string) (*sys.Dir, error) {
	var mount *os.File
	err := sys.OnThrowawayThread(func() (err error) {
		// On an old kernel the mount is made over a directory, in a namespace of
		// the thread; any will do.
		mount, err = sys.Overlay{Lowers: trees}.Mount(trees[0])
		return err
	})
	if err != nil {
		return nil, err
	}
	defer mount.Close()
	return sys.OpenRoot(mount)
}

// vanished says that what was to be read is gone, or has become something
// else.
func vanished(err error) bool {
	for _, why := range []error{syscall.ENOENT, syscall.ESTALE, syscall.ENOTDIR, syscall.ELOOP, syscall.EINVAL} {
		if errors.Is(err, why) {
			return true
		}
	}
	return false
}

// zeros is read without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
