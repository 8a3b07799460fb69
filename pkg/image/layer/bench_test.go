package layer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
)

// benchLayer is a tar of 4000 files in 200 directories, 64 MB of text that
// compresses about as programs do.
func benchLayer(b *testing.B) []byte {
	words := make([]string, 4096)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range words {
		words[i] = fmt.Sprintf("%x ", random.Uint64()>>random.UintN(48))
	}
	var entries []entry
	for d := range 200 {
		dir := fmt.Sprintf("usr/lib/d%03d", d)
		entries = append(entries, entry{name: dir, kind: '5'})
		for f := range 20 {
			body := make([]byte, 0, 16<<10)
			for len(body) < 16<<10 {
				body = append(body, words[random.IntN(len(words))]...)
			}
			entries = append(entries, entry{name: fmt.Sprintf("%s/f%02d", dir, f), body: string(body)})
		}
	}
	return tarOf(b, entries...)
}

// BenchmarkUnpack prints MB/s of the uncompressed tar, and CPU time beside
// the wall time of testing.
func BenchmarkUnpack(b *testing.B) {
	testutil.NeedRoot(b)
	plain := benchLayer(b)
	for c, blob := range map[image.Compression][]byte{
		image.Uncompressed: plain, image.Gzip: gzipped(b, plain), image.Zstd: zstded(b, plain),
	} {
		b.Run(string(c), func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			base := b.TempDir()
			var cpu time.Duration
			for i := range b.N {
				dir := filepath.Join(base, fmt.Sprint(i))
				before := cpuTime(b)
				if _, err := Unpack(context.Background(), dir, closer(blob), Want{}); err != nil {
					b.Fatal(err)
				}
				cpu += cpuTime(b) - before
				b.StopTimer()
				if err := sys.RemoveTree(dir); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
