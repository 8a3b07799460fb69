package supervisor

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// bare gives a supervisor of a pod without a runtime.
func bare(t testing.TB) *Supervisor {
	t.Helper()
	dir := t.TempDir()
	r := newReaper()
	rt, err := newRuntime(manifest.Executor{Runtime: manifest.Artifact{Path: "/bin/false"}}, manifest.RunDir(dir), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.null.Close() })
	return &Supervisor{
		dir: manifest.Dir(dir), run: manifest.RunDir(dir), pod: &podConfig{ID: "pod"},
		runtime: rt, reaper: r, pool: &buffers{}, trim: &trimmer{}, apps: map[string]*app{},
		finished: make(chan struct{}), cgroups: sync.OnceValues(sys.DetectCgroups),
	}
}

// Whatever comes in a frame, there is an answer, and no app comes of it.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		`{"major":1,"method":"Hello"}`, `{"major":1,"method":"Status"}`, `{"major":1,"method":"Stats"}`,
		`{"major":1,"method":"AddApp","params":{"app":{"id":"../x"}}}`,
		`{"major":1,"method":"StopApp","params":{"id":"x","signal":15,"graceMS":-1}}`,
		`{"major":1,"method":"Exec","params":{"id":"x","args":[""]}}`,
		`{"major":1,"method":"ResizeTTY","params":{"id":"x","rows":70000}}`,
		`{"major":1,"method":"UpdateApp","params":{"id":"x","resources":{"cpuQuota":1e99}}}`,
		`{"major":1,"method":"Shutdown","params":[]}`, `{"major":-1}`, `null`, `[]`, `{`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s := bare(t)
		ours, theirs, err := sys.SocketPair()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		conn, err := sys.FileConn(theirs)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.answer(conn)
		}()
		_ = ours.SetDeadline(time.Now().Add(2 * time.Second))
		frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
		if err := ours.Send(frame); err != nil {
			t.Fatal(err)
		}
		var r wire.Reply
		if files, err := wire.Recv(ours, &r); err == nil {
			sys.CloseFiles(files)
		} else if !errors.Is(err, os.ErrDeadlineExceeded) { // Events, Dial: nothing to tell yet
			t.Fatalf("%s: %v", body, err)
		}
		ours.Close()
		<-done
		if len(s.apps) > 0 {
			t.Fatalf("%s: made apps %v", body, s.apps)
		}
	})
}
