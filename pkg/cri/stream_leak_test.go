package cri

import (
	"context"
	"io"
	"net"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/stage0"
)

// relay is between a client and the streams' server, as kubelet is, and can
// fail.
type relay struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	conns []*net.TCPConn
	cutUp bool
}

func newRelay(t testing.TB, address string) (r *relay, changed string) {
	t.Helper()
	to, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r = &relay{listener: l, to: to.Host}
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			on, err := net.Dial("tcp", r.to)
			if err != nil {
				from.Close()
				return
			}
			r.join(from.(*net.TCPConn), on.(*net.TCPConn))
			r.join(on.(*net.TCPConn), from.(*net.TCPConn))
		}
	}()
	to.Host = l.Addr().String()
	return r, to.String()
}

func (r *relay) join(from, to *net.TCPConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, from)
	if r.cutUp {
		from.Close()
	}
	go func() {
		_, _ = io.Copy(to, from)
		_ = to.CloseWrite()
	}()
}

// cut breaks all connections, as the death of a peer does.
func (r *relay) cut() {
	r.listener.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cutUp = true
	for _, c := range r.conns {
		_ = c.SetLinger(0)
		c.Close()
	}
}

// TestCancelledStreamsLeaveNothing: neither goroutine nor descriptor, and no
// command.
func TestCancelledStreamsLeaveNothing(t *testing.T) {
	s := newStreaming(t)
	const streams = 100
	var running atomic.Int32
	began := make([]chan struct{}, streams)
	for i := range began {
		began[i] = make(chan struct{})
	}
	s.node.exec = func(ctx context.Context, app string, r stage0.ExecRequest) (int, error) {
		running.Add(1)
		defer running.Add(-1)
		i, err := strconv.Atoi(r.Args[3])
		if err != nil {
			return 0, err
		}
		close(began[i])
		return withStreams(ctx, app, r)
	}
	var all []func(string) (remotecommand.Executor, error)
	for _, client := range streamClients() {
		all = append(all, client)
	}
	scripts := []string{"sleep 1000", "cat /dev/zero", "cat", "yes >&2"}
	once := func(i int) {
		between, address := newRelay(t, s.execURL(t, &runtimeapi.ExecRequest{
			Cmd: []string{"sh", "-c", "exec " + scripts[i%len(scripts)], strconv.Itoa(i)}, Stdin: true, Stdout: true, Stderr: true,
		}))
		executor, err := all[i%len(all)](address)
		if err != nil {
			t.Error(err)
			return
		}
		go func() {
			<-began[i]
			time.Sleep(time.Duration(2+i%7) * 10 * time.Millisecond)
			between.cut()
		}()
		var in io.Reader = zeros{}
		if i%3 == 0 {
			r, w := io.Pipe()
			defer w.Close()
			in = r
		}
		_ = executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: in, Stdout: io.Discard, Stderr: io.Discard})
	}
	before := takeCensus(t)
	var wg sync.WaitGroup
	for worker := range 10 {
		wg.Go(func() {
			for i := worker; i < streams; i += 10 {
				once(i)
			}
		})
	}
	wg.Wait()
	settle(t, before)
	if n := running.Load(); n > 0 {
		t.Errorf("%d commands run on", n)
	}
}

// census is what a server may leave.
type census struct{ goroutines, files int }

// takeCensus leaves out the goroutines of clients that are clients alone.
func takeCensus(t *testing.T) (c census) {
	t.Helper()
	for _, stack := range stacks() {
		if !strings.Contains(stack, "k8s.io/client-go") {
			c.goroutines++
		}
	}
	c.files = ownDescriptors(t)
	return c
}

func stacks() []string {
	all := make([]byte, 4<<20)
	return strings.Split(string(all[:runtime.Stack(all, true)]), "\n\n")
}

// settle waits until no more is there than before.
func settle(t *testing.T, before census) {
	t.Helper()
	var now census
	for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if now = takeCensus(t); now.goroutines <= before.goroutines && now.files <= before.files {
			return
		}
	}
	t.Errorf("%+v, before %+v\n%s", now, before, strings.Join(stacks(), "\n\n"))
}

func ownDescriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// zeros is input without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestClientsThatGoHalfway ask for streams and make none, or not all.
func TestClientsThatGoHalfway(t *testing.T) {
	s := newStreaming(t)
	s.node.exec = func(context.Context, string, stage0.ExecRequest) (int, error) {
		t.Error("a command runs")
		return 0, nil
	}
	before := takeCensus(t)
	var left []net.Conn
	for i, head := range []string{
		"Upgrade: SPDY/3.1\r\nConnection: Upgrade\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n",
		"Upgrade: SPDY/3.1\r\nConnection: Upgrade\r\nX-Stream-Protocol-Version: v9.channel.k8s.io\r\n",
		"Upgrade: SPDY/3.1\r\nConnection: Upgrade\r\n",
		"Upgrade: websocket\r\nConnection: Upgrade\r\n",
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n",
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n",
		"Upgrade: nonsense\r\nConnection: Upgrade\r\n",
		"",
	} {
		to, err := url.Parse(s.execURL(t, &runtimeapi.ExecRequest{Cmd: []string{"true"}, Stdin: true, Stdout: true}))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", to.Host)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "POST "+to.Path+" HTTP/1.1\r\nHost: x\r\n"+head+"\r\n"); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			conn.Close()
		} else {
			left = append(left, conn) // the server doesn't wait for it
		}
	}
	time.Sleep(2 * time.Second)
	for _, conn := range left {
		conn.Close()
	}
	settle(t, before)
}

func TestStreamsEndWithTheirServer(t *testing.T) {
	n := newNode()
	n.addImage()
	began, ended := make(chan struct{}), make(chan struct{})
	n.exec = func(ctx context.Context, _ string, _ stage0.ExecRequest) (int, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return 0, ctx.Err()
	}
	t.Run("server", func(t *testing.T) {
		s := &streaming{clients: serve(t, n), node: n}
		s.app = addContainer(t, s.clients, addPod(t, s.clients, "web"), "app")
		executor, err := spdyClient("v4.channel.k8s.io")(s.execURL(t, &runtimeapi.ExecRequest{Cmd: []string{"x"}, Stdout: true}))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_ = executor.StreamWithContext(context.Background(), remotecommand.StreamOptions{Stdout: io.Discard})
		}()
		<-began
	})
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the command outlives the server")
	}
}
