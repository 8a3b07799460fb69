package terminal

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
)

// Wish is what a person asks of us by keys that the app would get otherwise.
type Wish int

// The wishes.
const (
	Nothing Wish = iota
	// Detach: leave the app, which goes on.
	Detach
	// Kill: end the pod by force.
	Kill
)

// DefaultDetachKeys are Docker's.
const DefaultDetachKeys = "ctrl-p,ctrl-q"

// The keys that end a pod by force: killCount times killKey within killTime,
// as with rkt and machinectl(1).
const (
	killKey   = 0x1d // ^]
	killCount = 3
	killTime  = time.Second
)

// maxDetachKeys bounds the length of a sequence.
const maxDetachKeys = 16

// ParseKeys reads a sequence of keys: single characters, or "ctrl-" and one of
// a to z, @, [, \, ], ^ and _, separated by commas. Empty: none, so nobody can
// detach by keys.
func ParseKeys(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	var keys []byte
	for _, name := range strings.Split(text, ",") {
		key, ok := parseKey(name)
		if !ok {
			return nil, errs.New("read keys", errs.Invalid, fmt.Sprintf("%.80q", text),
				fmt.Errorf("%.20q is no key: say a single character, or ctrl- and a letter, as in %s", name, DefaultDetachKeys))
		}
		keys = append(keys, key)
	}
	if len(keys) > maxDetachKeys {
		return nil, errs.New("read keys", errs.Invalid, "", fmt.Errorf("%d keys, more than %d", len(keys), maxDetachKeys))
	}
	if bytes.Contains(keys, bytes.Repeat([]byte{killKey}, killCount)) {
		return nil, errs.New("read keys", errs.Invalid, text, errors.New("they hold those that end the pod by force"))
	}
	return keys, nil
}

func parseKey(name string) (byte, bool) {
	control, is := strings.CutPrefix(strings.ToLower(name), "ctrl-")
	switch {
	case is && len(control) == 1 && strings.Contains(`abcdefghijklmnopqrstuvwxyz@[\]^_`, control):
		return control[0] & 0x1f, true
	case !is && len(name) == 1 && name[0] > ' ' && name[0] < 0x7f:
		return name[0], true
	}
	return 0, false
}

// Keys looks for wishes in what is typed. Its zero value knows no keys to
// detach by.
type Keys struct {
	Detach []byte

	matched int       // how many of Detach were typed last, and are held back
	kills   int       // how many times killKey was
	since   time.Time // the first of these
}

// Feed takes what was typed at a time, and gives what of it is the app's and
// the first wish in it. What begins like the keys to detach by is held back
// until it is clear that it goes on otherwise.
func (k *Keys) Feed(typed []byte, now time.Time) (pass []byte, wish Wish) {
	for _, b := range typed {
		if k.killed(b, now) {
			return pass, Kill
		}
		if len(k.Detach) == 0 {
			pass = append(pass, b)
			continue
		}
		held := append(append([]byte(nil), k.Detach[:k.matched]...), b)
		k.matched = overlap(held, k.Detach)
		pass = append(pass, held[:len(held)-k.matched]...)
		if k.matched == len(k.Detach) {
			k.matched = 0
			return pass, Detach
		}
	}
	return pass, Nothing
}

// Rest gives what is held back at the end of all input.
func (k *Keys) Rest() []byte { return k.Detach[:k.matched] }

func (k *Keys) killed(b byte, now time.Time) bool {
	switch {
	case b != killKey:
		k.kills = 0
		return false
	case k.kills == 0 || now.Sub(k.since) > killTime:
		k.kills, k.since = 1, now
		return false
	}
	k.kills++
	return k.kills >= killCount
}

// overlap gives the length of the longest end of typed that keys begin with.
func overlap(typed, keys []byte) int {
	for n := min(len(typed), len(keys)); n > 0; n-- {
		if bytes.HasSuffix(typed, keys[:n]) {
			return n
		}
	}
	return 0
}
