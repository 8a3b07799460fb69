package sys

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
)

func TestSocketsAtPathsOfAnyLength(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 200))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	if _, err := Connect(t.Context(), path); !errors.Is(err, errs.NotFound) {
		t.Errorf("error %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil { // is replaced
		t.Fatal(err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	accepted := make(chan *Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	c, err := Connect(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	peer := <-accepted
	if err := c.Send([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if b, _, err := peer.Recv(100); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	c.Close()
	if _, _, err := peer.Recv(1); !errors.Is(err, io.EOF) {
		t.Errorf("error %v", err)
	}
	peer.Close()
	l.Close()
	if _, err := Connect(t.Context(), path); !errors.Is(err, errs.Unavailable) {
		t.Errorf("error %v", err)
	}
}

func TestCloseWakesWhoWaits(t *testing.T) {
	l, err := Listen(filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	a, other, err := SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	got := make(chan error, 2)
	go func() { _, err := l.Accept(); got <- err }()
	go func() { _, _, err := a.Recv(1); got <- err }()
	time.Sleep(20 * time.Millisecond)
	l.Close()
	a.Close()
	for range 2 {
		if err := <-got; !errors.Is(err, os.ErrClosed) {
			t.Errorf("error %v", err)
		}
	}
}

func TestDeadline(t *testing.T) {
	a, other, err := SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer other.Close()
	if err := a.SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Recv(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestDialLoopbackWhereNobodyListens(t *testing.T) {
	if _, err := DialLoopback(t.Context(), 1); !errors.Is(err, errs.Unavailable) {
		t.Errorf("error %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := DialLoopback(ended, 1); !errors.Is(err, errs.Canceled) {
		t.Errorf("error %v", err)
	}
}
