package registry

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stagelet/stagelet/pkg/image"
)

// BenchmarkBlob reads a layer over the loopback.
func BenchmarkBlob(b *testing.B) {
	const size = 64 << 20
	for name, start := range map[string]func(http.Handler) *httptest.Server{"http": httptest.NewServer, "https": httptest.NewTLSServer} {
		b.Run(name, func(b *testing.B) {
			f := &fake{docs: map[string]doc{}}
			f.Server = start(f)
			defer f.Close()
			s := newSample(make([]byte, size))
			s.push(f, "app", "v1")
			client := New(Options{SkipVerify: func(string) bool { return true }})
			defer client.Close()
			ref, err := image.ParseRef(f.host() + "/app:v1")
			if err != nil {
				b.Fatal(err)
			}
			c, _, err := client.Pull(b.Context(), ref, PullOptions{})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(size)
			for b.Loop() {
				r, err := c.Open(b.Context(), 0)
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, r); n != size || err != nil {
					b.Fatal(n, err)
				}
				_ = r.Close()
			}
		})
	}
}
