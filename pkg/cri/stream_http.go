package cri

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/stagelet/stagelet/internal/pipes"
	"github.com/stagelet/stagelet/internal/sys"
)

const (
	streamPath = "/stream/"
	// streamIdle ends a stream on which nothing has come or gone; kubelet's
	// own (streamingConnectionIdleTimeout) is as long.
	streamIdle = 4 * time.Hour
	// streamCreation is streams.creation of a server.
	streamCreation = 30 * time.Second
	// headerTimeout is how long a request may take to come in.
	headerTimeout = 10 * time.Second
	// maxHeader bounds a request's header, in bytes.
	maxHeader = 16 << 10
	// lingerTime is how long a client may take to hang up after its stream's
	// end.
	lingerTime = 5 * time.Second
)

// stream is something that was offered, and can be had over HTTP.
type stream interface {
	serve(s *streams, w http.ResponseWriter, r *http.Request)
}

// handler serves each token once.
func (s *streams) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(streamPath+"{token}", func(w http.ResponseWriter, r *http.Request) {
		taken, ok := s.tokens.take(r.PathValue("token"))
		if !ok {
			http.NotFound(w, r)
			return
		}
		conn, err := connOf(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer conn.file.Close()
		ctx, release := conn.untilHangup(r.Context())
		own := &takeover{ResponseWriter: w}
		taken.serve(s, own, r.WithContext(ctx))
		release()
		if own.taken {
			conn.end()
		}
	})
	return mux
}

// takeover notes whether the connection was taken over from the HTTP server.
type takeover struct {
	http.ResponseWriter
	taken bool
}

// Hijack is http.Hijacker's.
func (t *takeover) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(t.ResponseWriter).Hijack()
	t.taken = t.taken || err == nil
	return conn, buffered, err
}

// clientConn is a second descriptor of a client's connection. The streaming
// library owns the first one, and tells nothing of a client that goes away
// while nothing is read from it or written to it.
type clientConn struct {
	file *os.File
	conn net.Conn
}

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

func connOf(r *http.Request) (*clientConn, error) {
	conn, is := r.Context().Value(connKey{}).(*net.TCPConn)
	if !is {
		return nil, errors.New("the connection is not TCP")
	}
	file, err := conn.File()
	if err != nil {
		return nil, err
	}
	return &clientConn{file: file, conn: conn}, nil
}

// untilHangup gives a context that ends with the connection, which in turn is
// closed at the context's end: what still waits on it then fails. release ends
// the watch and leaves the connection alone.
func (c *clientConn) untilHangup(parent context.Context) (ctx context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(parent)
	keep := context.AfterFunc(ctx, func() { _ = c.conn.Close() })
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := sys.AwaitHangup(c.file); !errors.Is(err, os.ErrDeadlineExceeded) {
			cancel(errHungUp)
		}
	}()
	return ctx, func() {
		keep()
		_ = c.file.SetReadDeadline(past())
		<-done
		cancel(nil)
	}
}

// errHungUp is why the context of a stream ends whose client has gone.
var errHungUp = errors.New("the client has hung up")

// unlessHungUp gives how a stream ended, if anybody is there to be told: what
// nobody hears ends in the log, as a defect.
func unlessHungUp(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errHungUp) {
		return nil
	}
	return err
}

// end ends the connection once the client has, or after lingerTime. What the
// client sent and nobody read is taken in meanwhile: closing at once would
// reset the connection, and the client lose the end of what was sent to it.
func (c *clientConn) end() {
	if err := sys.CloseWrite(c.file); err != nil {
		return
	}
	_ = c.file.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.Copy(io.Discard, c.file)
}

// past is a deadline that is over.
func past() time.Time { return time.Unix(1, 0) }

// wanted says which streams a client asked for.
type wanted struct {
	stdin, stdout, stderr, tty bool
}

func wantedStreams(r streamRequest) wanted {
	return wanted{stdin: r.GetStdin(), stdout: r.GetStdout(), stderr: r.GetStderr(), tty: r.GetTty()}
}

func (w wanted) options() *remotecommand.Options {
	return &remotecommand.Options{Stdin: w.stdin, Stdout: w.stdout, Stderr: w.stderr, TTY: w.tty}
}

// of gives of a client's streams those that are wanted.
func (w wanted) of(in io.Reader, out, errOut io.WriteCloser) (c pipes.Client) {
	if w.stdin {
		c.In = in
	}
	if w.stdout {
		c.Out = out
	}
	if w.stderr {
		c.Err = errOut
	}
	return c
}
