package registry

import (
	"bytes"
	"context"
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
	"github.com/stagelet/stagelet/pkg/image"
)

// layerServer is a registry with an image of one layer, and a script for the
// requests for that layer alone; n counts them from 1.
func layerServer(t *testing.T, size int, script func(w http.ResponseWriter, r *http.Request, layer []byte, n int) bool) (*image.Candidate, []byte, *fake) {
	t.Helper()
	return layerServerFor(t, testClient(t, Options{}), size, script)
}

func layerServerFor(t *testing.T, client *Client, size int, script func(w http.ResponseWriter, r *http.Request, layer []byte, n int) bool) (*image.Candidate, []byte, *fake) {
	t.Helper()
	f := plainFake(t)
	s := newSample(noise(size))
	s.push(f, "app", "v1")
	c, _ := mustPull(t, client, f.host()+"/app:v1", PullOptions{})
	var n atomic.Int32
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, s.manifest.Layers[0].Digest.String()) {
			return false
		}
		return script(w, r, s.layers[0], int(n.Add(1)))
	})
	return c, s.layers[0], f
}

// cut ends the connection as a crash would.
func cut(w http.ResponseWriter) {
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func TestResumesInTheMiddle(t *testing.T) {
	var ranges []string
	c, layer, _ := layerServer(t, 1<<20, func(w http.ResponseWriter, r *http.Request, layer []byte, n int) bool {
		ranges = append(ranges, r.Header.Get("Range"))
		if n == 1 {
			w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
			_, _ = w.Write(layer[:len(layer)/2])
			cut(w)
		}
		return false
	})
	got, err := readLayer(t, c, 0)
	if err != nil || !bytes.Equal(got, layer) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if len(ranges) != 2 || ranges[0] != "" || !strings.HasPrefix(ranges[1], "bytes=") || ranges[1] == "bytes=0-" {
		t.Errorf("asked for the ranges %q", ranges)
	}
}

func TestResumesManyTimes(t *testing.T) {
	c, layer, _ := layerServer(t, 100_000, func(w http.ResponseWriter, r *http.Request, layer []byte, _ int) bool {
		var from int
		_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		if len(layer)-from < 10_000 {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(layer)-from))
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(layer)-1, len(layer)))
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(layer[from : from+9_000])
		cut(w)
		return true
	})
	if got, err := readLayer(t, c, 0); err != nil || !bytes.Equal(got, layer) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestResumesAfterAStall(t *testing.T) {
	testutil.CheckLeaks(t)
	c, layer, _ := layerServerFor(t, hasty(testClient(t, Options{})), 100_000, func(w http.ResponseWriter, r *http.Request, layer []byte, n int) bool {
		if n > 1 {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
		_, _ = w.Write(layer[:1000])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	})
	if got, err := readLayer(t, c, 0); err != nil || !bytes.Equal(got, layer) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestGivesUpWhenNothingComes(t *testing.T) {
	c, _, _ := layerServer(t, 100_000, func(w http.ResponseWriter, _ *http.Request, _ []byte, _ int) bool {
		cut(w)
		return true
	})
	if _, err := readLayer(t, c, 0); errs.KindOf(err) != errs.Unavailable {
		t.Error(err)
	}
}

func TestRegistryThatKnowsNoRanges(t *testing.T) {
	c, layer, _ := layerServer(t, 100_000, func(w http.ResponseWriter, _ *http.Request, layer []byte, n int) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
		if n == 1 {
			_, _ = w.Write(layer[:50_000])
			cut(w)
		}
		_, _ = w.Write(layer)
		return true
	})
	if got, err := readLayer(t, c, 0); err != nil || !bytes.Equal(got, layer) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestLiesAboutTheRange(t *testing.T) {
	for name, header := range map[string]string{
		"other offset":   "bytes 1-99999/100000",
		"other size":     "bytes %d-99999/100001",
		"beyond the end": "bytes %d-100000/*",
		"backwards":      "bytes %d-5/100000",
		"nothing":        "",
		"garbage":        "pages 1-2",
	} {
		t.Run(name, func(t *testing.T) {
			c, _, _ := layerServer(t, 100_000, func(w http.ResponseWriter, r *http.Request, layer []byte, n int) bool {
				if n == 1 {
					w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
					_, _ = w.Write(layer[:50_000])
					cut(w)
				}
				var from int
				_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
				if strings.Contains(header, "%d") {
					w.Header().Set("Content-Range", fmt.Sprintf(header, from))
				} else if header != "" {
					w.Header().Set("Content-Range", header)
				}
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(layer[from:])
				return true
			})
			if _, err := readLayer(t, c, 0); !errors.Is(err, image.Mismatch) {
				t.Error(err)
			}
		})
	}
}

func TestBodyOfAnotherLength(t *testing.T) {
	for name, script := range map[string]func(w http.ResponseWriter, layer []byte){
		"longer, announced": func(w http.ResponseWriter, layer []byte) { _, _ = w.Write(append(layer[:len(layer):len(layer)], 'x')) },
		"longer, not announced": func(w http.ResponseWriter, layer []byte) {
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(append(layer[:len(layer):len(layer)], 'x'))
		},
		"shorter, announced": func(w http.ResponseWriter, layer []byte) { _, _ = w.Write(layer[1:]) },
		"part without a range": func(w http.ResponseWriter, layer []byte) {
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(layer)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, _ := layerServer(t, 1000, func(w http.ResponseWriter, _ *http.Request, layer []byte, _ int) bool {
				script(w, layer)
				return true
			})
			if _, err := readLayer(t, c, 0); !errors.Is(err, image.Mismatch) {
				t.Error(err)
			}
		})
	}
}

func TestContentEncodingIsRefused(t *testing.T) {
	c, _, f := layerServer(t, 1000, func(w http.ResponseWriter, _ *http.Request, _ []byte, _ int) bool {
		w.Header().Set("Content-Encoding", "gzip")
		return false
	})
	if _, err := readLayer(t, c, 0); !errors.Is(err, image.WrongFormat) {
		t.Error(err)
	}
	for _, r := range f.requests("") {
		if got := r.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("Accept-Encoding: %s", got)
		}
	}
}

func TestOpenAt(t *testing.T) {
	c, layer, f := layerServer(t, 1000, func(http.ResponseWriter, *http.Request, []byte, int) bool { return false })
	for _, offset := range []int64{0, 1, 999, 1000} {
		r, err := c.OpenAt(t.Context(), 0, offset)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, layer[offset:]) {
			t.Errorf("from %d: %d bytes, %v", offset, len(got), err)
		}
		_ = r.Close()
	}
	if n := len(f.requests("/blobs/")); n != 1+3 { // the configuration, and no request for nothing
		t.Errorf("%d requests", n)
	}
	if _, err := c.OpenAt(t.Context(), 0, 1001); errs.KindOf(err) != errs.Invalid {
		t.Error(err)
	}
}

func TestReaderEndsWithItsContext(t *testing.T) {
	c, _, _ := layerServer(t, 1000, func(w http.ResponseWriter, r *http.Request, layer []byte, _ int) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
		_, _ = w.Write(layer[:1])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	r, err := c.Open(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := r.Read(make([]byte, 1)); errs.KindOf(err) != errs.Canceled {
		t.Errorf("%v is %q", err, errs.KindOf(err))
	}
	if _, err := r.Read(make([]byte, 1)); err == nil {
		t.Error("it reads on after its end")
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	f := plainFake(t)
	s := newSample()
	s.push(f, "app", "v1")
	var begun time.Time
	var n atomic.Int32
	f.on(func(w http.ResponseWriter, _ *http.Request) bool {
		if n.Add(1) > 1 {
			return false
		}
		begun = time.Now()
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	client := testClient(t, Options{})
	mustPull(t, client, f.host()+"/app:v1", PullOptions{})
	if waited := time.Since(begun); waited < time.Second {
		t.Errorf("asked again after %s", waited)
	}

	f.on(func(w http.ResponseWriter, _ *http.Request) bool {
		n.Add(1)
		w.Header().Set("Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	n.Store(0)
	if _, _, err := pull(t, client, f.host()+"/app:v1", PullOptions{}); errs.KindOf(err) != errs.Unavailable || n.Load() != 1 {
		t.Errorf("%d requests, %v", n.Load(), err)
	}
}

func TestDocumentIsFetchedAgain(t *testing.T) {
	f := plainFake(t)
	s := newSample()
	s.push(f, "app", "v1")
	var n atomic.Int32
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/v1") {
			return false
		}
		switch n.Add(1) {
		case 1:
			w.WriteHeader(http.StatusInternalServerError)
			return true
		case 2:
			w.Header().Set("Content-Length", strconv.Itoa(len(s.data)))
			w.Header().Set("Content-Type", s.manifest.MediaType)
			_, _ = w.Write(s.data[:10])
			cut(w)
		}
		return false
	})
	mustPull(t, testClient(t, Options{}), f.host()+"/app:v1", PullOptions{})
}

// TestCloseDuringRead: whoever unpacks reads ahead, and closes the layer when
// it has seen enough.
func TestCloseDuringRead(t *testing.T) {
	testutil.CheckLeaks(t)
	c, layer, _ := layerServer(t, 200_000, func(w http.ResponseWriter, r *http.Request, layer []byte, n int) bool {
		if n%2 == 0 {
			return false
		}
		_, _ = w.Write(rest(w, r, layer)[:100_000])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	})
	for i := range 40 {
		r, err := c.Open(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		read := make(chan error)
		go func() { _, err := io.Copy(io.Discard, r); read <- err }()
		time.Sleep(time.Duration(i) * 200 * time.Microsecond)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := <-read; err != nil && errs.KindOf(err) != errs.Canceled {
			t.Errorf("it ends with %v", err)
		}
		if n, err := r.Read(make([]byte, len(layer))); n != 0 || err == nil {
			t.Errorf("%d bytes of a closed reader, %v", n, err)
		}
	}
}
