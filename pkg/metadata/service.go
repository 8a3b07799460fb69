// Package metadata is the metadata service of appc (ace.md, "App Container
// Metadata Service"): it tells apps who they are, and signs for their pods.
//
// The server listens for each registered pod apart, on the loopback of that
// pod's own network namespace, where no other pod comes. The token in the URL
// keeps others out where the namespace is the host's.
package metadata

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Options are the parts that a service is made of.
type Options struct {
	Root   string // of the node: the key lies in metadata/
	Pods   pods
	Images images
	// Warn is told of pods that can't be served.
	Warn func(err error, what string)
}

// pods is where pods are found; *stage0.Engine.
type pods interface {
	Pod(id string) (*pod.Snapshot, error)
}

// images is where images are found; *store.Store.
type images interface {
	Leased(owner string, id image.Digest) (*image.Record, error)
	AppCManifest(r *image.Record) ([]byte, error)
}

// Service answers the apps of registered pods.
type Service struct {
	Options
	key []byte

	// Serving goroutines that have not ended yet.
	serving sync.WaitGroup
}

// New gives a service. A key that is damaged is errs.Corrupt: nothing replaces
// it.
func New(o Options) (*Service, error) {
	key, err := openKey(o.Root)
	if err != nil {
		return nil, err
	}
	return &Service{Options: o, key: key}, nil
}

// Bounds of one pod's listener.
const (
	maxConnections = 32
	maxHeader      = 8 << 10 // bytes
	maxBody        = 1 << 20 // bytes
	requestTimeout = 10 * time.Second
	idleTimeout    = 30 * time.Second
)

// Attend serves a pod until leave is called, if it is registered and runs. A
// listener, and connections to it, keep a network namespace alive: leave ends
// them all before it returns.
func (s *Service) Attend(p *pod.Snapshot) (leave func()) {
	if p.Pod.Metadata == nil || p.State != pod.Running {
		return func() {}
	}
	l, err := listen(p)
	if err != nil {
		s.Warn(err, "serve metadata to pod "+p.Pod.ID)
		return func() {}
	}
	server := &http.Server{
		Handler:     s.handler(p.Pod.ID, p.Pod.Metadata.Token),
		ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
	}
	s.serving.Go(func() {
		if err := server.Serve(netutil.LimitListener(l, maxConnections)); !errors.Is(err, http.ErrServerClosed) {
			s.Warn(err, "go on serving metadata to pod "+p.Pod.ID)
		}
	})
	return func() { _ = server.Close() }
}

// Wait returns once everybody has left.
func (s *Service) Wait() { s.serving.Wait() }

func listen(p *pod.Snapshot) (l net.Listener, err error) {
	const op = "listen in pod"
	address := address(p.Pod.Metadata)
	open := func() error {
		l, err = new(net.ListenConfig).Listen(context.Background(), "tcp", address)
		return err
	}
	if p.Pod.Namespaces.Network == manifest.NamespaceHost {
		return l, errs.Wrap(op, p.Pod.ID, open())
	}
	if p.Network == nil {
		return nil, errs.New(op, errs.Precondition, p.Pod.ID, errors.New("it has no network"))
	}
	return l, errs.Wrap(op, p.Pod.ID, sys.InNetNS(p.Network.NetNS, open))
}

func address(m *manifest.Metadata) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(m.Port)))
}

func url(m *manifest.Metadata) string { return "http://" + address(m) + "/" + m.Token }
