package terminal

import (
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/creack/pty"
	"golang.org/x/term"
)

func TestTyped(t *testing.T) {
	for text, want := range map[string]struct {
		app  string
		wish Wish
	}{
		"ls\r":                 {"ls\r", Nothing},
		"ls\r\x10\x11after":    {"ls\r", Detach},
		"a\x10":                {"a\x10", Nothing},
		"a\x1d\x1d\x1d":        {"a\x1d\x1d", Kill},
		"\x10\x10\x10\x10done": {"\x10\x10\x10\x10done", Nothing},
	} {
		for name, from := range map[string]io.Reader{
			"at once": strings.NewReader(text), "byte by byte": iotest.OneByteReader(strings.NewReader(text)),
			"with its end": iotest.DataErrReader(strings.NewReader(text)),
		} {
			var wish Wish
			r := Typed(from, []byte("\x10\x11"), func(w Wish) { wish = w })
			got, err := io.ReadAll(iotest.OneByteReader(r))
			if err != nil || string(got) != want.app || wish != want.wish {
				t.Errorf("%q %s: %q, %d, %v", text, name, got, wish, err)
			}
		}
	}
}

// TestPanicGivesBack: who sits there can go on typing, whatever became of us.
func TestPanicGivesBack(t *testing.T) {
	master, tty, err := pty.Open()
	if err != nil {
		t.Skipf("needs pseudo terminals: %v", err)
	}
	defer master.Close()
	defer tty.Close()
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	seat := Of(tty)
	same := func() bool {
		now, err := term.GetState(int(tty.Fd()))
		return err == nil && reflect.DeepEqual(now, before)
	}
	if err := seat.Raw(); err != nil || same() {
		t.Fatalf("it isn't in raw mode: %v", err)
	}
	seat.Guard(func() {})
	if same() {
		t.Error("given back for no reason")
	}
	func() {
		defer func() { _ = recover() }()
		seat.Guard(func() { panic("on purpose") })
	}()
	if !same() {
		t.Error("a panic leaves it in raw mode")
	}
	seat.Restore() // again
	if err := pty.Setsize(master, &pty.Winsize{Rows: 3, Cols: 7}); err != nil || seat.Size() != (Size{Rows: 3, Cols: 7}) {
		t.Errorf("size %v, %v", seat.Size(), err)
	}
}

func TestNoTerminal(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	none := Of(f)
	if none != nil || Of(nil) != nil {
		t.Fatal("/dev/null is a terminal")
	}
	none.Restore()
	if size := none.Size(); size != (Size{}) {
		t.Errorf("size %v", size)
	}
}
