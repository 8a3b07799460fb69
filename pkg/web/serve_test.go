package web

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
)

func TestToken(t *testing.T) {
	root := t.TempDir()
	one, err := Token(root)
	if err != nil || len(one) < 40 {
		t.Fatalf("%q, %v", one, err)
	}
	fi, err := os.Stat(TokenFile(root))
	if err != nil || fi.Mode() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	if again, err := Token(root); err != nil || again != one {
		t.Errorf("%q after %q, %v", again, one, err)
	}
	if other, err := Token(t.TempDir()); err != nil || other == one {
		t.Errorf("another node's: %q, %v", other, err)
	}
	for _, bad := range []string{"", "short", strings.Repeat("ü", 50)} {
		if err := os.WriteFile(TokenFile(root), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Token(root); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// serving serves h until the test ends it, and gives the address.
func serving(t *testing.T, certDir string, h http.Handler) (address string, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l, err := Listen(ctx, "127.0.0.1:0", certDir)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, h) }()
	return l.Addr().String(), func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
}

// A handler that panics ends its own request; the end of the server ends those
// that would go on for ever.
func TestServe(t *testing.T) {
	testutil.CheckLeaks(t)
	mux := http.NewServeMux()
	mux.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic("a defect") })
	mux.HandleFunc("/hang", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	address, end := serving(t, "", withPatience(mux, patience))
	client := &http.Client{Transport: &http.Transport{}}
	get := func(path string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		return client.Do(r)
	}
	if w, err := get("/panic"); err == nil {
		_ = w.Body.Close()
		t.Errorf("an answer after a panic: %d", w.StatusCode)
	}
	w, err := get("/")
	if err != nil || w.StatusCode != http.StatusOK {
		t.Fatalf("after a panic: %v, %v", w, err)
	}
	_ = w.Body.Close()
	hanging, err := get("/hang")
	if err != nil {
		t.Fatal(err)
	}
	end()
	_, _ = io.Copy(io.Discard, hanging.Body)
	_ = hanging.Body.Close()
	client.CloseIdleConnections()
}

// Who stalls is let go, on the way in and on the way out; an answer that has
// nothing to say for a while isn't.
func TestStalledClients(t *testing.T) {
	const limit, enough = 100 * time.Millisecond, 3 * time.Second
	ended := make(chan error, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/in", func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	})
	mux.HandleFunc("/out", func(w http.ResponseWriter, _ *http.Request) {
		_, err := io.Copy(w, zeros{})
		ended <- err
	})
	quiet := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(enough + limit):
			_, err := io.WriteString(w, "at last")
			ended <- err
		case <-r.Context().Done():
			ended <- r.Context().Err()
		}
	})
	all := http.NewServeMux()
	all.Handle("/", withPatience(mux, limit))
	all.Handle("/quiet", withPatience(quiet, enough)) // for a machine that has much to do
	address, end := serving(t, "", all)
	defer end()
	begin := func(head string) net.Conn {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
		if err == nil {
			_, err = io.WriteString(c, head)
		}
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, head := range []string{"POST /in HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf", "GET /out HTTP/1.1\r\nHost: x\r\n\r\n"} {
		c := begin(head)
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q ended with %v", head, err)
		}
		_ = c.Close()
	}
	c := begin("GET /quiet HTTP/1.1\r\nHost: x\r\n\r\n")
	defer c.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	w, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || w.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", w, err)
	}
	_ = w.Body.Close()
}

// The end of the server waits for nobody who is still sending.
func TestEndDuringAnUpload(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan error, 1)
	address, end := serving(t, "", withPatience(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := r.Body.Read(make([]byte, 1))
		close(begun)
		if err == nil {
			_, err = io.Copy(io.Discard, r.Body)
		}
		ended <- err
	}), patience))
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"); err != nil {
		t.Fatal(err)
	}
	<-begun
	end()
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Who says more than a request needs is cut off.
func TestHugeHeaders(t *testing.T) {
	address, end := serving(t, "", New(Options{Token: token}))
	defer end()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 2*maxHeader) + "\r\n\r\n"))
	w, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Body.Close()
	if w.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d", w.StatusCode)
	}
}

// writePair makes a certificate for that name.
func writePair(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A certificate is read again when it changes; a bad one changes nothing.
func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	if _, err := Listen(t.Context(), "127.0.0.1:0", dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "tls.crt") {
		t.Errorf("none: %v", err)
	}
	writePair(t, dir, "one.example")
	address, end := serving(t, dir, New(Options{Token: token, Names: []string{AnyName}}))
	defer end()
	serves := func() string {
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
		c, err := d.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	touch := func(at time.Time) {
		for _, file := range []string{"tls.crt", "tls.key"} {
			if err := os.Chtimes(filepath.Join(dir, file), at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := serves(); got != "one.example" {
		t.Errorf("serves %s", got)
	}
	writePair(t, dir, "two.example")
	touch(time.Now().Add(time.Minute))
	if got := serves(); got != "two.example" {
		t.Errorf("after a change: %s", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "tls.key"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serves(); got != "two.example" {
		t.Errorf("after a bad change: %s", got)
	}
}
