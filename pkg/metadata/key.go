package metadata

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
)

// keySize is the block size of SHA-512, in bytes: a longer key adds nothing
// (RFC 2104).
const keySize = sha512.BlockSize

// openKey reads the key of a node, and makes one where there is none. What was
// signed once is good for as long as the file is.
func openKey(root string) ([]byte, error) {
	path := filepath.Join(root, "metadata", "hmac.key")
	key, err := os.ReadFile(path)
	switch {
	case err == nil && len(key) == keySize:
		return key, nil
	case err == nil:
		return nil, errs.New("read key", errs.Corrupt, path, fmt.Errorf("it has %d bytes, not %d; without it, what pods signed can't be verified: put back a copy, or remove it for a new one", len(key), keySize))
	case !errors.Is(err, fs.ErrNotExist):
		return nil, errs.Wrap("read key", path, err)
	}
	if err := emptyDir(filepath.Dir(path)); err != nil {
		return nil, errs.Wrap("make key", path, err)
	}
	key = make([]byte, keySize)
	_, _ = rand.Read(key) // it never fails
	crash.Point("metadata.key")
	return key, errs.Wrap("make key", path, atomicfile.WriteDurable(path, key, 0o600))
}

// emptyDir makes a directory, or takes away what a key's maker left that died.
func emptyDir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	left, err := os.ReadDir(path)
	for _, entry := range left {
		if atomicfile.IsTemp(entry.Name()) {
			err = errors.Join(err, os.Remove(filepath.Join(path, entry.Name())))
		}
	}
	return err
}

// sign gives the HMAC-SHA512 of the pod's identity and content. The former has
// a fixed length, so that no two pairs read the same.
func sign(key []byte, id uuid, content string) []byte {
	h := hmac.New(sha512.New, key)
	h.Write(id[:])
	h.Write([]byte(content))
	return h.Sum(nil)
}

// uuid is a pod's identity in the form that appc wants (RFC 9562).
type uuid [16]byte

// uuidOf makes one of a pod's id: a UUID of version 8, whose first twelve
// digits are the id's.
func uuidOf(podID string) (u uuid) {
	if pod.CheckID(podID) != nil {
		return u
	}
	_, _ = hex.Decode(u[:], []byte(podID[:2*len(u)]))
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return u
}

// String gives the canonical form.
func (u uuid) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

func parseUUID(text string) (u uuid, ok bool) {
	const length = 36
	if len(text) != length {
		return u, false
	}
	digits := text[:8] + text[9:13] + text[14:18] + text[19:23] + text[24:]
	_, err := hex.Decode(u[:], []byte(digits))
	return u, err == nil && u.String() == text
}
