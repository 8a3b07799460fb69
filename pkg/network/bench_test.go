package network

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/testutil"
)

// BenchmarkAddDel prints what a pod's network costs: the built-in one, the
// same with the bridge plugin's own masquerading, and without any.
func BenchmarkAddDel(b *testing.B) {
	testutil.NeedCNI(b)
	for i, kind := range []string{"builtin", "ipMasq", "none"} {
		b.Run(kind, func(b *testing.B) {
			cidr := fmt.Sprintf("10.21%d.0.0/16", i)
			f := bridged(b, cidr, nil)
			if kind != "builtin" {
				f.conf("10.conflist", fmt.Sprintf(`{"cniVersion":"1.0.0","name":%[1]q,"plugins":[{"type":"bridge","bridge":%[1]q,"isGateway":true,"ipMasq":%t,
					"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":%q}]]}},{"type":"portmap","capabilities":{"portMappings":true}}]}`,
					f.opts.Bridge.Name, kind == "ipMasq", filepath.Join(f.opts.CacheDir, "host-local"), cidr))
			}
			var adding, deleting time.Duration
			for i := range b.N { // not b.Loop: the timer stops in between
				b.StopTimer()
				p := f.pod(fmt.Sprintf("p%d", i))
				b.StartTimer()
				started := time.Now()
				made := f.add(p)
				added := time.Now()
				f.del(p, made)
				adding += added.Sub(started)
				deleting += time.Since(added)
			}
			b.ReportMetric(float64(adding.Microseconds())/float64(b.N)/1000, "ms/ADD")
			b.ReportMetric(float64(deleting.Microseconds())/float64(b.N)/1000, "ms/DEL")
		})
	}
}
