// Package site gives tests web servers of any name, with TLS: what lies below
// a directory of a host's name is what https://that-name/ has. Clients reach
// them all by one proxy.
package site

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// The paths that misbehave, on every host.
const (
	Endless = "/endless" // never ends
	Circle  = "/circle"  // redirects to itself
	Short   = "/short"   // says that it is longer than it is
	Away    = "/away/"   // redirects to the URL that follows
)

// Sites are all the hosts.
type Sites struct {
	// Proxy is the URL of the proxy by which they are reached (HTTPS_PROXY,
	// HTTP_PROXY).
	Proxy string
	// CA is the certificate of their authority, in PEM.
	CA []byte

	dir string
	key *ecdsa.PrivateKey
	ca  *x509.Certificate
	web *httptest.Server

	mu  sync.Mutex
	log []string
}

// New serves what lies in dir. A file .auth in a host's directory holds
// "user:password", or "Bearer token", that the host asks for.
func New(t testing.TB, dir string) *Sites {
	t.Helper()
	s := &Sites{dir: dir}
	if err := s.makeCA(); err != nil {
		t.Fatal(err)
	}
	s.web = httptest.NewUnstartedServer(s)
	s.web.Config.ErrorLog = nil
	s.web.TLS = &tls.Config{GetCertificate: s.certificate, MinVersion: tls.VersionTLS12}
	s.web.StartTLS()
	proxy := httptest.NewServer(http.HandlerFunc(s.proxy))
	s.Proxy = proxy.URL
	t.Cleanup(func() {
		proxy.CloseClientConnections()
		s.web.CloseClientConnections()
		proxy.Close()
		s.web.Close()
	})
	return s
}

// Log gives what was asked for, in order: "GET https://host/path", and the
// Authorization that came with it; "unchanged https://host/path" after it for a
// file that was known.
func (s *Sites) Log() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.log...)
}

func (s *Sites) makeCA() (err error) {
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &s.key.PublicKey, s.key)
	if err != nil {
		return err
	}
	s.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	s.ca, err = x509.ParseCertificate(der)
	return err
}

// certificate is for whichever host is asked for.
func (s *Sites) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	template := x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{hello.ServerName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, s.ca, &s.key.PublicKey, s.key)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: s.key}, err
}

// proxy leads all connections to the one server.
func (s *Sites) proxy(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		s.ServeHTTP(w, r) // without TLS
		return
	}
	to, err := new(net.Dialer).DialContext(r.Context(), "tcp", s.web.Listener.Addr().String())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer to.Close()
	w.WriteHeader(http.StatusOK)
	from, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer from.Close()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		_, _ = io.Copy(to, buffered)
		_ = to.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(from, to)
	_ = from.Close()
	<-ctx.Done()
}

// ServeHTTP is all hosts.
func (s *Sites) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	s.mu.Lock()
	s.log = append(s.log, strings.TrimSpace(fmt.Sprintf("%s %s://%s%s %s", r.Method, scheme, r.Host, r.URL.RequestURI(), r.Header.Get("Authorization"))))
	s.mu.Unlock()
	if want, err := os.ReadFile(filepath.Join(s.dir, r.Host, ".auth")); err == nil && !authorized(r, strings.TrimSpace(string(want))) {
		w.Header().Set("Www-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if away, ok := strings.CutPrefix(r.URL.Path, Away); ok {
		http.Redirect(w, r, away, http.StatusFound) // #nosec G710 -- that is what it is for
		return
	}
	switch r.URL.Path {
	case Circle:
		http.Redirect(w, r, Circle, http.StatusFound)
	case Short:
		w.Header().Set("Content-Length", "1000000")
		_, _ = io.WriteString(w, "short")
	case Endless:
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	default:
		s.file(w, r)
	}
}

func authorized(r *http.Request, want string) bool {
	user, password, _ := r.BasicAuth()
	return r.Header.Get("Authorization") == want || user+":"+password == want
}

// file gives a file, or the index.html of a directory.
func (s *Sites) file(w http.ResponseWriter, r *http.Request) {
	path := filepath.Join(s.dir, r.Host, filepath.Clean("/"+r.URL.Path))
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		path = filepath.Join(path, "index.html")
	}
	f, err := os.Open(path)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	if strings.Contains(r.URL.Path, "/manifests/") { // of a registry
		var document struct{ MediaType string }
		if json.NewDecoder(f).Decode(&document) == nil {
			w.Header().Set("Content-Type", document.MediaType)
		}
	}
	tag, err := tagOf(f)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Etag", tag)
	if r.Header.Get("If-None-Match") == tag {
		s.mu.Lock()
		s.log = append(s.log, "unchanged https://"+r.Host+r.URL.Path)
		s.mu.Unlock()
	}
	http.ServeContent(w, r, filepath.Base(path), time.Time{}, f)
}

// tagOf gives an ETag that the same content has again.
func tagOf(f *os.File) (string, error) {
	sum := sha256.New()
	_, err := f.Seek(0, io.SeekStart)
	if err == nil {
		_, err = io.Copy(sum, f)
	}
	return fmt.Sprintf("%q", hex.EncodeToString(sum.Sum(nil))), err
}
