package sys

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

func TestStreamPair(t *testing.T) {
	us, them, err := StreamPair()
	if err != nil {
		t.Fatal(err)
	}
	defer us.Close()
	defer them.Close()
	if _, err := us.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	if n, err := Pending(them); err != nil || n != 5 {
		t.Errorf("%d bytes wait, %v", n, err)
	}
	if err := CloseWrite(us); err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(them); err != nil || string(data) != "hello" {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := them.WriteString("back"); err != nil {
		t.Fatal(err)
	}
	them.Close()
	if data, err := io.ReadAll(us); err != nil || string(data) != "back" {
		t.Errorf("%q, %v", data, err)
	}
	if gone, err := HungUp(us); err != nil || !gone {
		t.Errorf("gone %t, %v", gone, err)
	}
}

// TestAwaitHangup: neither bytes that come nor ours that are not taken hide
// that the peer has gone.
func TestAwaitHangup(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	f, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	done := make(chan error, 1)
	go func() { done <- AwaitHangup(f) }()
	if _, err := client.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		t.Fatalf("ends with the peer there: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	client.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}

	us, them, err := StreamPair()
	if err != nil {
		t.Fatal(err)
	}
	defer us.Close()
	defer them.Close()
	if err := us.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := AwaitHangup(us); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}
