package terminal

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
)

func TestParseKeys(t *testing.T) {
	for text, want := range map[string]string{
		"": "", DefaultDetachKeys: "\x10\x11", "ctrl-@": "\x00", "ctrl-A,b,CTRL-]": "\x01b\x1d", `ctrl-\`: "\x1c", "~,.": "~.",
	} {
		if got, err := ParseKeys(text); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{
		",", "ctrl-", "ctrl-1", "ctrl-pq", "ab", "é", " ", "x,,y", "ctrl-],ctrl-],ctrl-]", strings.Repeat("x,", 16) + "x",
	} {
		if got, err := ParseKeys(text); !errors.Is(err, errs.Invalid) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestKeys(t *testing.T) {
	const pq = "\x10\x11"
	type typed struct {
		text string
		at   time.Duration
	}
	now := func(texts ...string) (all []typed) {
		for _, text := range texts {
			all = append(all, typed{text: text})
		}
		return all
	}
	for name, c := range map[string]struct {
		detach string
		typed  []typed
		pass   string
		wish   Wish
		rest   string
	}{
		"plain":                  {pq, now("ls\r"), "ls\r", Nothing, ""},
		"detach at once":         {pq, now("ls\x10\x11x"), "ls", Detach, ""},
		"detach piece by piece":  {pq, now("a", "\x10", "\x11"), "a", Detach, ""},
		"only the beginning":     {pq, now("\x10", "a"), "\x10a", Nothing, ""},
		"the beginning twice":    {pq, now("\x10\x10", "\x11"), "\x10", Detach, ""},
		"held at the end":        {pq, now("a\x10"), "a", Nothing, "\x10"},
		"a beginning in itself":  {"aab", now("aaab"), "a", Detach, ""},
		"a beginning that ends":  {"aab", now("aac"), "aac", Nothing, ""},
		"no keys":                {"", now(pq), pq, Nothing, ""},
		"three brackets":         {pq, now("\x1d\x1d\x1dx"), "\x1d\x1d", Kill, ""},
		"three, one by one":      {pq, now("\x1d", "\x1d", "\x1d"), "\x1d\x1d", Kill, ""},
		"two brackets":           {pq, now("\x1d\x1d"), "\x1d\x1d", Nothing, ""},
		"something in between":   {pq, now("\x1d\x1dx\x1d"), "\x1d\x1dx\x1d", Nothing, ""},
		"too slow":               {pq, []typed{{"\x1d\x1d", 0}, {"\x1d", 2 * time.Second}}, "\x1d\x1d\x1d", Nothing, ""},
		"slow, then quick":       {pq, []typed{{"\x1d", 0}, {"\x1d\x1d", 2 * time.Second}, {"\x1d", 3 * time.Second}}, "\x1d\x1d\x1d", Kill, ""},
		"without keys to detach": {"", now("\x1d\x1d\x1d"), "\x1d\x1d", Kill, ""},
	} {
		k := Keys{Detach: []byte(c.detach)}
		begin := time.Now()
		var pass []byte
		var wish Wish
		for _, piece := range c.typed {
			var p []byte
			if p, wish = k.Feed([]byte(piece.text), begin.Add(piece.at)); true {
				pass = append(pass, p...)
			}
		}
		if string(pass) != c.pass || wish != c.wish || string(k.Rest()) != c.rest {
			t.Errorf("%s: %q, %d, rest %q", name, pass, wish, k.Rest())
		}
	}
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte("\x10\x10\x11"), "ctrl-p,ctrl-q", uint8(1))
	f.Add([]byte("aab\x1d\x1d"), "a,a,b", uint8(3))
	f.Fuzz(func(t *testing.T, typed []byte, keys string, piece uint8) {
		detach, err := ParseKeys(keys)
		if err != nil {
			return
		}
		k := Keys{Detach: detach}
		var pass []byte
		for rest := typed; len(rest) > 0; {
			n := min(len(rest), int(piece)+1)
			p, wish := k.Feed(rest[:n], time.Now())
			pass, rest = append(pass, p...), rest[n:]
			if wish != Nothing {
				return
			}
		}
		if got := string(pass) + string(k.Rest()); got != string(typed) {
			t.Fatalf("%q became %q", typed, got)
		}
	})
}
