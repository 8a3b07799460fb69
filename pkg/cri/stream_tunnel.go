package cri

import (
	"bufio"
	"net"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// serveTunnel serves the one SPDY connection that a WebSocket carries, which
// is how clients of today forward ports (KEP-4006).
func (f forwarding) serveTunnel(w http.ResponseWriter, r *http.Request, s *streams) {
	inner := r.Clone(r.Context())
	inner.Header = http.Header{}
	inner.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	inner.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	inner.Header.Set(httpstream.HeaderProtocolVersion, portforward.PortForwardV1Name)
	websocket.Server{
		Handshake: chooseTunnel,
		Handler: func(ws *websocket.Conn) {
			ws.PayloadType = websocket.BinaryFrame
			f.serveDirect(tunnelled{ws, http.Header{}}, inner, s)
		},
	}.ServeHTTP(w, r)
}

func chooseTunnel(c *websocket.Config, _ *http.Request) error {
	if !slices.ContainsFunc(c.Protocol, func(p string) bool {
		return strings.TrimSpace(p) == portforward.WebsocketsSPDYTunnelingPortForwardV1
	}) {
		return websocket.ErrBadWebSocketProtocol
	}
	c.Protocol = []string{portforward.WebsocketsSPDYTunnelingPortForwardV1}
	return nil
}

// tunnelled is a response that has been made already: what is left of it is
// the connection.
type tunnelled struct {
	ws     *websocket.Conn
	header http.Header
}

func (t tunnelled) Header() http.Header         { return t.header }
func (t tunnelled) Write(p []byte) (int, error) { return len(p), nil }
func (t tunnelled) WriteHeader(int)             {}

// Hijack is http.Hijacker's.
func (t tunnelled) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t.ws, bufio.NewReadWriter(bufio.NewReader(t.ws), bufio.NewWriter(t.ws)), nil
}
