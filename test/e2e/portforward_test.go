package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
)

// dialers are the ways in which clients forward ports.
var dialers = map[string]func(address string) (httpstream.Dialer, error){
	"SPDY": func(address string) (httpstream.Dialer, error) {
		to, err := url.Parse(address)
		if err != nil {
			return nil, err
		}
		round, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
		if err != nil {
			return nil, err
		}
		return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: round}, http.MethodPost, to), nil
	},
	"SPDY in WebSocket": func(address string) (httpstream.Dialer, error) {
		to, err := url.Parse(address)
		if err != nil {
			return nil, err
		}
		return portforward.NewSPDYOverWebsocketDialerForStreaming(to, &rest.Config{})
	},
}

// forward makes a port of a pod a port of this host, as kubectl does, and
// gives its address.
func (p *pod) forward(t testing.TB, by string, port int) (address string) {
	t.Helper()
	r, err := p.s.runtime.PortForward(p.s.ctx, &cri.PortForwardRequest{PodSandboxId: p.id})
	if err != nil {
		t.Fatalf("PortForward: %v", err)
	}
	dialer, err := dialers[by](r.GetUrl())
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	var out bytes.Buffer
	f, err := portforward.NewForStreaming(dialer, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, &out)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.ForwardPorts() }()
	t.Cleanup(func() {
		close(stop)
		<-done
	})
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("%v: %s", err, &out)
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local)
}

// talk sends a text, ends its own direction, and gives all that is answered.
func talk(t testing.TB, address, text string) string {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// listening waits until something listens at a port of the pod's.
func (a *app) listening(t testing.TB, port int) {
	t.Helper()
	eventually(t, func() error {
		_, _, err := a.tryExec(fmt.Sprintf("netstat -ltn | grep -q ':%d '", port))
		return err
	})
}

// bytesCounter answers with how much came, once the client's half of the
// connection has ended.
const bytesCounter = `exec nc -ll -p %d -e /bin/sh -c 'n=$(wc -c); echo "$n bytes came"'`

func TestPortForward(t *testing.T) {
	s := startServer(t)
	for by := range dialers {
		t.Run(by, func(t *testing.T) {
			p := s.runPod(t)
			address := p.forward(t, by, 8080) // before anybody listens there
			p.start(t, fmt.Sprintf(bytesCounter, 8080)).listening(t, 8080)
			for range 3 {
				wantEqual(t, "answer", talk(t, address, "hello"), "5 bytes came\n")
			}
			t.Run("big", func(t *testing.T) {
				wantEqual(t, "answer", talk(t, address, strings.Repeat("x", 32<<20)), "33554432 bytes came\n")
			})
			t.Run("many at once", func(t *testing.T) {
				a := p.start(t, fmt.Sprintf(webServer, "page"))
				a.listening(t, 80)
				web := p.forward(t, by, 80)
				var wg sync.WaitGroup
				for range 8 { // no more wait in busybox's backlog
					wg.Go(func() {
						for range 5 {
							if got := talk(t, web, "GET / HTTP/1.0\r\n\r\n"); !strings.HasSuffix(got, "page\n") {
								t.Errorf("answer %q", got)
							}
						}
					})
				}
				wg.Wait()
			})
			t.Run("from the pod alone", func(t *testing.T) {
				a := p.start(t, `exec nc -ll -p 8082 -e /bin/sh -c 'exec <&-; head -c 10000000 /dev/zero'`)
				a.listening(t, 8082)
				wantEqual(t, "bytes", len(talk(t, p.forward(t, by, 8082), "")), 10_000_000)
			})
			t.Run("IPv6 alone", func(t *testing.T) {
				a := p.start(t, "mkdir /tmp/w; echo six > /tmp/w/index.html; exec httpd -f -p '[::1]:8083' -h /tmp/w")
				a.listening(t, 8083)
				wantEqual(t, "body", get(t, p.forward(t, by, 8083)), "six")
			})
			t.Run("nobody listens", func(t *testing.T) {
				wantEqual(t, "answer", talk(t, p.forward(t, by, 9999), ""), "")
			})
		})
	}
	t.Run("host network", func(t *testing.T) {
		p := s.runPod(t, func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
		})
		port := int(freePort(t))
		p.start(t, fmt.Sprintf(bytesCounter, port), func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
		}).listening(t, port)
		wantEqual(t, "answer", talk(t, p.forward(t, "SPDY", port), "hello"), "5 bytes came\n")
	})
}

// TestForwardsEndWithTheirClient: nothing stays of them in the server.
func TestForwardsEndWithTheirClient(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	p.start(t, "exec nc -ll -p 8080 -e /bin/sleep 1000").listening(t, 8080)
	before := len(s.descriptors())
	for by := range dialers {
		t.Run(by, func(t *testing.T) {
			address := p.forward(t, by, 8080)
			for range 20 {
				conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
			}
			eventually(t, func() error {
				if n := len(s.descriptors()); n < before+20 {
					return fmt.Errorf("%d descriptors", n)
				}
				return nil
			})
		})
	}
	eventually(t, func() error {
		if n := len(s.descriptors()); n > before {
			return fmt.Errorf("%d descriptors, %d before", n, before)
		}
		return nil
	})
}
