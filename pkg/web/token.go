package web

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
)

// tokenBytes are enough that nobody guesses one.
const tokenBytes = 32

// TokenFile is where the token of a node lies, for root alone.
func TokenFile(root string) string { return filepath.Join(root, "web", "token") }

// Token gives the node's token, and makes it at the first time. To change it,
// remove the file and start the server again.
func Token(root string) (string, error) {
	const op = "read token"
	path := TokenFile(root)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return makeToken(path)
	case err != nil:
		return "", errs.Wrap(op, path, err)
	}
	token := strings.TrimSpace(string(data))
	if b, err := base64.RawURLEncoding.DecodeString(token); err != nil || len(b) < tokenBytes {
		return "", errs.New(op, errs.Corrupt, path, errors.New("it is no token; remove it, and the server makes another one"))
	}
	return token, nil
}

// makeToken is called by a server alone, which holds the node's lock.
func makeToken(path string) (string, error) {
	const op = "make token"
	var b [tokenBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	token := base64.RawURLEncoding.EncodeToString(b[:])
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", errs.Wrap(op, path, err)
	}
	if err := atomicfile.WriteDurable(path, []byte(token+"\n"), 0o600); err != nil {
		return "", errs.Wrap(op, path, err)
	}
	crash.Point("web.token-made")
	return token, nil
}
