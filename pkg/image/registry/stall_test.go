package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
)

func TestPace(t *testing.T) {
	for _, c := range []struct {
		bytes int
		over  time.Duration
		below bool
	}{{1024, time.Second, false}, {1023, time.Second, true}, {512, 500 * time.Millisecond, false}, {0, time.Millisecond, true}, {0, 0, false}} {
		var p pace
		p.add(c.bytes/2, c.over/2)
		p.add(c.bytes-c.bytes/2, c.over-c.over/2)
		if p.below(1024) != c.below {
			t.Errorf("%+v is below 1024 per second: %t", p, !c.below)
		}
	}
}

// rest begins the answer to a request for data, or a range of it, and gives
// what has to follow.
func rest(w http.ResponseWriter, r *http.Request, data []byte) []byte {
	var from int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)-from))
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	return data[from:]
}

// drip sends byte by byte, each before the stall timer's end, until the client
// is gone.
func drip(w http.ResponseWriter, r *http.Request, data []byte) {
	for _, b := range rest(w, r, data) {
		_, err := w.Write([]byte{b})
		if err = errors.Join(err, http.NewResponseController(w).Flush()); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// impatient makes a client measure soon how fast bytes come.
func impatient(c *Client) *Client {
	c.timing.floor, c.timing.window = 2<<10, 50*time.Millisecond
	return c
}

func TestGoesOnAfterADrip(t *testing.T) {
	testutil.CheckLeaks(t)
	f := plainFake(t)
	s := newSample(noise(100_000))
	s.push(f, "app", "v1")
	c, _ := mustPull(t, impatient(testClient(t, Options{})), f.host()+"/app:v1", PullOptions{})
	var ranges []string
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) > 1 {
			return false
		}
		drip(w, r, s.layers[0])
		return true
	})
	if got, err := readLayer(t, c, 0); err != nil || !bytes.Equal(got, s.layers[0]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if len(ranges) < 2 || !strings.HasPrefix(ranges[1], "bytes=") || ranges[1] == "bytes=0-" {
		t.Errorf("asked for the ranges %q", ranges)
	}
}

// TestGivesUpOnADrip: each connection brings new bytes, and none brings enough
// of them.
func TestGivesUpOnADrip(t *testing.T) {
	f := plainFake(t)
	s := newSample(noise(100_000))
	s.push(f, "app", "v1")
	client := impatient(testClient(t, Options{}))
	c, _ := mustPull(t, client, f.host()+"/app:v1", PullOptions{})
	var n atomic.Int32
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if n.Add(1)%2 == 0 { // one that ends before it is found out
			_, _ = w.Write(rest(w, r, s.layers[0])[:1])
			time.Sleep(10 * time.Millisecond)
			cut(w)
		}
		drip(w, r, s.layers[0])
		return true
	})
	_, err := readLayer(t, c, 0)
	if errs.KindOf(err) != errs.Unavailable || !errors.Is(err, errSlow) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if got := int(n.Load()); got != client.timing.resumes {
		t.Errorf("%d connections, want %d", got, client.timing.resumes)
	}
}

func TestMirrorThatDrips(t *testing.T) {
	mirror, own := plainFake(t), plainFake(t)
	s := newSample(noise(100_000))
	s.push(mirror, "app", "v1")
	s.push(own, "app", "v1")
	const name = "registry.example"
	dir := hostsDir(t, name, fmt.Sprintf("server = %q\n[host.%q]\n", own.URL, mirror.URL))
	client := impatient(testClient(t, Options{CertsDir: dir}))
	c, _ := mustPull(t, client, name+"/app:v1", PullOptions{})
	mirror.on(func(w http.ResponseWriter, r *http.Request) bool {
		drip(w, r, s.layers[0])
		return true
	})
	if got, err := readLayer(t, c, 0); err != nil || !bytes.Equal(got, s.layers[0]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if n := len(mirror.requests("/blobs/")); n != 1+fewAttempts { // the configuration, and the layer
		t.Errorf("the mirror was asked %d times", n)
	}
	if got := own.requests("/blobs/"); len(got) != 1 || got[0].Header.Get("Range") == "" {
		t.Errorf("the registry was asked for %d blobs", len(got))
	}
}

func TestDocumentThatDrips(t *testing.T) {
	f := plainFake(t)
	s := newSample(noise(10))
	s.push(f, "app", "v1")
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		drip(w, r, append(s.data, bytes.Repeat([]byte(" "), 10_000)...)) // too much to come while we have no turn
		return true
	})
	_, _, err := pull(t, impatient(testClient(t, Options{})), f.host()+"/app:v1", PullOptions{})
	if errs.KindOf(err) != errs.Unavailable || !errors.Is(err, errSlow) {
		t.Error(err)
	}
}

// TestSlowReaderIsNoSlowRegistry: only what is waited for counts.
func TestSlowReaderIsNoSlowRegistry(t *testing.T) {
	f := plainFake(t)
	s := newSample(noise(1000))
	s.push(f, "app", "v1")
	client := impatient(testClient(t, Options{}))
	client.timing.window = 2 * time.Second // so long the registry may well have no turn
	c, _ := mustPull(t, client, f.host()+"/app:v1", PullOptions{})
	r, err := c.Open(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 2 {
		time.Sleep(1100 * time.Millisecond)
		if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if rest, err := io.ReadAll(r); err != nil || len(rest) != 800 {
		t.Errorf("%d bytes, %v", len(rest), err)
	}
	if n := len(f.requests("/blobs/")); n != 2 {
		t.Errorf("%d requests", n)
	}
}
