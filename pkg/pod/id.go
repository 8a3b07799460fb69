package pod

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/stagelet/stagelet/internal/errs"
)

// idBytes is how much randomness an id holds: 64 hex characters.
const idBytes = 32

// NewID gives an id for a pod or an app, derived from nothing.
func NewID() string {
	b := make([]byte, idBytes)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// CheckID reports why s can't be a whole id. Whatever names a directory or a
// cgroup goes through here first.
func CheckID(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != idBytes || hex.EncodeToString(b) != s {
		return errs.New("check id", errs.Invalid, fmt.Sprintf("%.80q", s), fmt.Errorf("not %d lower-case hex characters", 2*idBytes))
	}
	return nil
}
