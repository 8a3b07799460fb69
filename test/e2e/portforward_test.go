package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// forward makes a port of a pod a port of this host, as kubectl does, and
// gives its address.
func (p *pod) forward(t testing.TB, port int) (address string) {
	t.Helper()
	r, err := p.s.runtime.PortForward(p.s.ctx, &cri.PortForwardRequest{PodSandboxId: p.id})
	if err != nil {
		t.Fatalf("PortForward: %v", err)
	}
	to, err := url.Parse(r.GetUrl())
	if err != nil {
		t.Fatal(err)
	}
	round, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: round}, http.MethodPost, to)
	stop, ready := make(chan struct{}), make(chan struct{})
	var out bytes.Buffer
	f, err := portforward.New(dialer, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, &out)
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

func TestPortForward(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t)
	address := p.forward(t, 8080)
	a := p.start(t, `exec nc -ll -p 8080 -e /bin/sh -c 'n=$(wc -c); echo "$n bytes came"'`)
	eventually(t, func() error {
		_, _, err := a.tryExec("netstat -ltn | grep -q 8080")
		return err
	})
	wantEqual(t, "answer after the client's half of the connection", talk(t, address, "hello"), "5 bytes came\n")
}
