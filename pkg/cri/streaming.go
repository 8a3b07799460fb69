package cri

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// streams serves Exec, Attach and PortForward. An RPC checks what is asked for
// and gives a URL; the stream is then had over HTTP, once. Its data goes
// between that connection and a descriptor of the app's.
type streams struct {
	pods    podIndex
	apps    appIndex
	verbs   streamVerbs
	address string // host:port of the HTTP server; empty: there is none
	tokens  tokens
	// creation is how long a client may take from its connection to its last
	// stream.
	creation time.Duration
}

// Exec prepares a command run with streams.
func (s *streams) Exec(_ context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	id, err := s.runningApp(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if len(r.GetCmd()) == 0 || r.GetCmd()[0] == "" {
		return nil, invalid("cmd", "names no command")
	}
	if err := checkStreams(r); err != nil {
		return nil, err
	}
	url, err := s.offer(command{app: id, args: r.GetCmd(), want: wantedStreams(r)})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ExecResponse{Url: url}, nil
}

// Attach prepares joining a container's streams.
func (s *streams) Attach(_ context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	id, err := s.runningApp(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := checkStreams(r); err != nil {
		return nil, err
	}
	url, err := s.offer(attachment{app: id, want: wantedStreams(r)})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.AttachResponse{Url: url}, nil
}

// PortForward prepares connections to ports of a sandbox. Over SPDY each
// connection names its own; those of the request are what WebSocket gets.
func (s *streams) PortForward(_ context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	p, err := findPod(s.pods, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if p.State != pod.Running {
		return nil, errs.New("forward port", errs.Precondition, p.Pod.ID, errors.New("the sandbox isn't ready"))
	}
	for i, port := range r.GetPort() {
		if port < 1 || port > maxPort {
			return nil, invalid(at("port", i), "%d is no port", port)
		}
	}
	url, err := s.offer(forwarding{pod: p.Pod.ID, ports: r.GetPort()})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PortForwardResponse{Url: url}, nil
}

const maxPort = 1<<16 - 1

// runningApp gives the full id of a container that runs.
func (s *streams) runningApp(id string) (string, error) {
	_, a, err := findApp(s.apps, id)
	if err != nil {
		return "", err
	}
	if a.Status.State != manifest.AppRunning {
		return "", errs.New("join container", errs.Precondition, a.ID, errors.New("it isn't running"))
	}
	return a.ID, nil
}

// streamRequest is what the requests of Exec and Attach have in common.
type streamRequest interface {
	GetTty() bool
	GetStdin() bool
	GetStdout() bool
	GetStderr() bool
}

func checkStreams(r streamRequest) error {
	switch {
	case r.GetTty() && r.GetStderr():
		return invalid("stderr", "is set with tty: a terminal has one output, stdout")
	case !r.GetStdin() && !r.GetStdout() && !r.GetStderr():
		return invalid("stdin", "is not set, nor is stdout or stderr: there is nothing to stream")
	}
	return nil
}

// offer gives the URL at which what can be had.
func (s *streams) offer(what stream) (url string, err error) {
	if s.address == "" {
		return "", errs.New("stream", errs.Unavailable, "", errors.New("no streaming server runs"))
	}
	token, err := s.tokens.issue(what)
	if err != nil {
		return "", err
	}
	return "http://" + s.address + streamPath + token, nil
}

// ServeStreams serves the streams that Exec, Attach and PortForward gave URLs
// for, on the listener of Options.StreamAddress, until ctx ends; what streams
// then ends with it.
func (s *Server) ServeStreams(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           s.runtime.handler(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       headerTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withConn,
		ErrorLog:          klog.NewStandardLogger("WARNING"),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return errs.Wrap("serve streams", l.Addr().String(), err)
	}
	return nil
}
