package web

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/netutil"
	"k8s.io/klog/v2"

	"github.com/stagelet/stagelet/internal/errs"
)

const (
	// maxConnections bounds how many clients are served at once; more wait.
	maxConnections = 256
	// headerTimeout bounds how long a client may take to say what it wants.
	headerTimeout = 10 * time.Second
	// maxHeader bounds what it says, in bytes.
	maxHeader = 32 << 10
	// drainTimeout is how long requests under way may take when the server
	// ends. What an upload has brought by then is given up.
	drainTimeout = 5 * time.Second
)

// Listen takes the address for the page. With a directory of a certificate
// (tls.crt, tls.key) it speaks TLS.
func Listen(ctx context.Context, address, certDir string) (net.Listener, error) {
	var config *tls.Config
	if certDir != "" {
		c, err := openCertificate(certDir)
		if err != nil {
			return nil, err
		}
		config = &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, errs.Wrap("listen for web page", address, err)
	}
	l = netutil.LimitListener(l, maxConnections)
	if config != nil {
		l = tls.NewListener(l, config)
	}
	return l, nil
}

// Serve serves h until ctx ends, and then until requests under way have ended,
// or were ended.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return ctx }, // streams end with the server
		ErrorLog:    log.New(klogWriter{}, "", 0),
	}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		err := s.Shutdown(drain)
		if err != nil {
			err = s.Close()
		}
		ended <- err
	}()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return errs.Wrap("serve web page", l.Addr().String(), err)
	}
	return <-ended
}

// klogWriter logs what net/http has to say: broken connections, and handlers
// that panicked.
type klogWriter struct{}

func (klogWriter) Write(line []byte) (int, error) {
	message := strings.TrimSpace(string(line))
	if strings.HasPrefix(message, "http: panic") {
		klog.ErrorS(nil, "Web page", "message", message)
	} else {
		klog.V(2).InfoS("Web page", "message", message)
	}
	return len(line), nil
}
