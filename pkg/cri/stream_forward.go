package cri

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/stagelet/stagelet/internal/errs"
)

// forwarding is a sandbox to whose ports connections are to be made.
type forwarding struct {
	pod   string
	ports []int32
}

func (f forwarding) serve(s *streams, w http.ResponseWriter, r *http.Request) {
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		f.serveTunnel(w, r, s)
		return
	}
	f.serveDirect(w, r, s)
}

// serveDirect has the library serve it, over SPDY or WebSocket.
func (f forwarding) serveDirect(w http.ResponseWriter, r *http.Request, s *streams) {
	portforward.ServePortForward(w, r, forwarder{r.Context(), s.verbs}, f.pod, "", &portforward.V4Options{Ports: f.ports},
		streamIdle, s.creation, portforward.SupportedProtocols)
}

// forwarder is the library's view of a forwarding, for one request: the
// library has no context of its own for what it forwards.
type forwarder struct {
	ctx   context.Context //nolint:containedctx // bounds the request that it is made for
	verbs streamVerbs
}

// PortForward is portforward.PortForwarder's: one connection. An error means
// that there was none; one that breaks later has just ended, since to clients
// an error is the end of their other connections, too.
func (f forwarder) PortForward(_ context.Context, podID, _ string, port int32, stream io.ReadWriteCloser) error {
	if port < 1 || port > maxPort {
		return invalid("port", "%d is no port", port)
	}
	file, err := f.verbs.PortForward(f.ctx, podID, uint16(port))
	if err != nil {
		return unlessHungUp(f.ctx, err)
	}
	socket, err := tcpConn(file)
	if err != nil {
		return errs.Wrap("forward port", podID, err)
	}
	joinConn(f.ctx, socket, stream)
	return nil
}

// tcpConn takes file over.
func tcpConn(file *os.File) (*net.TCPConn, error) {
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	socket, is := conn.(*net.TCPConn)
	if !is {
		return nil, errors.Join(errors.New("the supervisor gave no TCP socket"), conn.Close())
	}
	return socket, nil
}

// joinConn copies between a socket, which it takes over, and a client's stream
// until both directions have ended, the socket or the client is gone, or ctx
// ends. Where the stream can, each direction ends for itself.
func joinConn(ctx context.Context, socket *net.TCPConn, stream io.ReadWriteCloser) {
	defer socket.Close()
	sent, received := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(sent)
		if _, err := io.Copy(socket, stream); err != nil {
			// Other streams of the client's may be behind what nobody takes.
			_, _ = io.Copy(io.Discard, stream)
		}
		if wasReset(stream) {
			_ = socket.Close()
		}
		_ = socket.CloseWrite()
	}()
	go func() {
		_, err := io.Copy(unlessReset{stream}, socket)
		if _, halves := stream.(httpstream.Stream); !halves {
			received <- io.EOF
			return
		}
		received <- errors.Join(err, stream.Close())
	}()
	select {
	case err := <-received:
		if err != nil {
			return
		}
	case <-ctx.Done():
		return
	}
	select {
	case <-sent:
	case <-ctx.Done():
	}
}

// wasReset reports whether the client gave up a stream as a whole. On the
// reading side that is as its end, and writing to it is no error.
func wasReset(stream any) bool {
	s, tells := stream.(interface{ IsFinished() bool })
	return tells && s.IsFinished()
}

// unlessReset writes to a stream that the client still has.
type unlessReset struct{ stream io.Writer }

func (u unlessReset) Write(p []byte) (int, error) {
	if wasReset(u.stream) {
		return 0, io.ErrClosedPipe
	}
	return u.stream.Write(p)
}
