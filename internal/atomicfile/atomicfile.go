// Package atomicfile writes files that are there whole or not at all.
//
// Write survives the death of any process (the page cache outlives us);
// WriteDurable also survives a power cut. Records carry a checksum and the
// boot id, so that a file torn by a power cut is recognised as such.
package atomicfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
)

// MaxRecord bounds what ReadRecord takes in, in bytes: a larger file is not
// one of ours.
const MaxRecord = 16 << 20

// TempPrefix starts the name of a file or directory that is still being
// made. After a crash everything of that name is garbage.
const TempPrefix = ".tmp-"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// counter makes the temporary names of one process distinct.
var counter atomic.Uint64

// TempName gives a name beside path that no other writer uses.
func TempName(path string) string {
	return filepath.Join(filepath.Dir(path), TempPrefix+filepath.Base(path)+"-"+
		strconv.Itoa(os.Getpid())+"-"+strconv.FormatUint(counter.Add(1), 36))
}

// IsTemp reports whether name (a last path element) is an unfinished write.
func IsTemp(name string) bool { return strings.HasPrefix(name, TempPrefix) }

// Untemp gives the name (a last path element) that an unfinished write is to
// have in the end; any other name it gives back.
func Untemp(name string) string {
	rest, temp := strings.CutPrefix(name, TempPrefix)
	if !temp {
		return name
	}
	for range 2 { // the maker's process id and counter
		if i := strings.LastIndexByte(rest, '-'); i > 0 {
			rest = rest[:i]
		}
	}
	return rest
}

// AbandonedAge is how long a temporary name may be someone's work in progress
// when whether its maker lives can't be told.
const AbandonedAge = time.Minute

// Abandoned reports whether the temporary file or directory at path will never
// be finished: its maker is dead, or has had all the time it can need.
func Abandoned(path string) bool {
	parts := strings.Split(filepath.Base(path), "-")
	if len(parts) < 3 || !IsTemp(filepath.Base(path)) {
		return false
	}
	maker, err := strconv.Atoi(parts[len(parts)-2])
	if err == nil && maker > 0 && errors.Is(syscall.Kill(maker, 0), syscall.ESRCH) {
		return true
	}
	fi, err := os.Lstat(path)
	return err == nil && time.Since(fi.ModTime()) > AbandonedAge
}

// Write replaces path by data in one rename, without any sync.
func Write(path string, data []byte, perm os.FileMode) error {
	return write(path, data, perm, nosync)
}

// WriteDurable replaces path by data, and returns once file and directory
// are on stable storage.
func WriteDurable(path string, data []byte, perm os.FileMode) error {
	if err := write(path, data, perm, (*os.File).Sync); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func nosync(*os.File) error { return nil }

func write(path string, data []byte, perm os.FileMode, sync func(*os.File) error) (err error) {
	temp := TempName(path)
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp)
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = sync(f)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// envelope is a record as it lies on disk. The checksum covers the bytes of
// Body exactly as they stand in the file.
type envelope struct {
	Kind  string          `json:"kind"`
	Boot  string          `json:"boot"`
	CRC   string          `json:"crc32c"`
	Value json.RawMessage `json:"value"`
}

// EncodeRecord gives the bytes of v as a record of that kind.
func EncodeRecord(kind string, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	boot, err := BootID()
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(envelope{Kind: kind, Boot: boot, CRC: sum(body), Value: body})
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// WriteRecord replaces path by the record of v, without any sync.
func WriteRecord(path, kind string, v any) error {
	data, err := EncodeRecord(kind, v)
	if err != nil {
		return err
	}
	return Write(path, data, 0o600)
}

// WriteRecordDurable is WriteRecord that survives a power cut.
func WriteRecordDurable(path, kind string, v any) error {
	data, err := EncodeRecord(kind, v)
	if err != nil {
		return err
	}
	return WriteDurable(path, data, 0o600)
}

// ReadRecord reads the record of that kind at path into v and gives the id of
// the boot that wrote it. A file that is torn, altered or of another kind is
// errs.Corrupt; a missing one errs.NotFound.
func ReadRecord(path, kind string, v any) (boot string, err error) {
	const op = "read record"
	if fi, err := os.Lstat(path); err != nil {
		return "", errs.New(op, errs.KindOf(err), path, err)
	} else if !fi.Mode().IsRegular() || fi.Size() > MaxRecord {
		return "", errs.New(op, errs.Corrupt, path, fmt.Errorf("not a regular file of at most %d bytes", MaxRecord))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", errs.Wrap(op, path, err)
	}
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return "", errs.New(op, errs.Corrupt, path, err)
	}
	switch {
	case e.Kind != kind:
		return "", errs.New(op, errs.Corrupt, path, fmt.Errorf("is a %q record, not a %q", e.Kind, kind))
	case e.CRC != sum(e.Value):
		return "", errs.New(op, errs.Corrupt, path, fmt.Errorf("checksum is %s, the record says %s", sum(e.Value), e.CRC))
	}
	if err := json.Unmarshal(e.Value, v); err != nil {
		return "", errs.New(op, errs.Corrupt, path, err)
	}
	return e.Boot, nil
}

func sum(b []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli)) }

// BootIDFile is where the kernel tells the id of this boot (proc(5)).
// STAGELET_BOOT_ID overrides it in tests that play a reboot.
const (
	BootIDFile = "/proc/sys/kernel/random/boot_id"
	BootIDEnv  = "STAGELET_BOOT_ID"
)

// BootID gives the id of this boot.
func BootID() (string, error) { return bootID() }

var bootID = sync.OnceValues(readBootID)

func readBootID() (string, error) {
	if id := os.Getenv(BootIDEnv); id != "" {
		return id, nil
	}
	b, err := os.ReadFile(BootIDFile)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}
