package supervisor

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func TestLastError(t *testing.T) {
	long := strings.Repeat("é", manifest.MaxMessage)
	for log, want := range map[string]string{
		"": "",
		`{"level":"warning","msg":"w"}` + "\n" + `{"level":"error","msg":"first"}` + "\n" + `{"level":"error","msg":"last","time":"t"}` + "\n": "last",
		`{"msg":"crun's way","level":"error"}`:   "crun's way",
		"panic: oh\n\ngoroutine 1":               "goroutine 1",
		`{"level":"info","msg":"i"}`:             "",
		`{"level":"error","msg":"` + long + `"}`: truncate(long),
		"\xff\xfe":                               "�",
	} {
		if got := lastError([]byte(log)); got != want {
			t.Errorf("%.80q gives %.80q, want %.80q", log, got, want)
		}
	}
	if got := truncate(long); len(got) > manifest.MaxMessage || !strings.HasSuffix(got, "…") {
		t.Errorf("%d bytes, end %q", len(got), got[len(got)-8:])
	}
}

func TestCutterEdges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for _, size := range []int{1, 7, maxLine - 1, maxLine, maxLine + 1, bufferSize} {
		input := []byte(strings.Repeat("a", maxLine) + "\n" + strings.Repeat("b", maxLine+1) + "\n\n" +
			strings.Repeat("c", 3*maxLine) + "\nlast")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		log := &criLog{pool: &buffers{}, complain: t.Logf}
		log.swap(f)
		c := cutter{log: log, stream: stdout}
		for rest := input; len(rest) > 0; {
			n := min(size, len(rest))
			c.feed(rest[:n])
			rest = rest[n:]
		}
		c.end()
		log.close()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		for line := range bytes.Lines(data) {
			_, rest, _ := bytes.Cut(line, []byte(" stdout "))
			if len(rest) > maxLine+3 {
				t.Errorf("pieces of %d: record of %d bytes", size, len(rest))
			}
			got.Write(bytes.TrimSuffix(rest[2:], []byte("\n")))
			if rest[0] == 'F' {
				got.WriteByte('\n')
			}
		}
		if want := string(input) + "\n"; got.String() != want {
			t.Errorf("pieces of %d: %d bytes, want %d", size, got.Len(), len(want))
		}
	}
}

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":              "net/ipv4/ip_forward",
		"net/ipv4/ip_forward":              "net/ipv4/ip_forward",
		"net.ipv4.conf.eth0/100.rp_filter": "net/ipv4/conf/eth0.100/rp_filter",
		"net/ipv4/conf/eth0.100/rp_filter": "net/ipv4/conf/eth0.100/rp_filter",
		"plain":                            "plain",
	} {
		if got := sysctlPath(name); got != want {
			t.Errorf("%s is at %s, want %s", name, got, want)
		}
	}
}

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		end    sys.ExitStatus
		kills  uint64
		code   int
		reason string
	}{
		{sys.ExitStatus{}, 0, 0, manifest.ReasonCompleted},
		{sys.ExitStatus{}, 1, 0, manifest.ReasonOOMKilled},
		{sys.ExitStatus{Code: 3}, 0, 3, manifest.ReasonError},
		{sys.ExitStatus{Signal: syscall.SIGKILL}, 2, 137, manifest.ReasonOOMKilled},
		{sys.ExitStatus{Signal: syscall.SIGTERM}, 0, 143, manifest.ReasonError},
	} {
		st := exitStatus(manifest.Status{StartedAt: 1}, c.end, c.kills)
		if st.ExitCode != c.code || st.Reason != c.reason || st.OOMKilled != (c.kills > 0) || st.FinishedAt == 0 {
			t.Errorf("%+v gives %+v", c, st)
		}
	}
}

// A runtime that hangs gives its slot away.
func TestHungRuntimesDoNotKeepTheirSlots(t *testing.T) {
	r := &ociRuntime{slots: make(chan struct{}, 1)}
	release, err := r.slot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := r.slot(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	second, err := r.slot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	release() // must not free what is the second's now
	if len(r.slots) != 1 {
		t.Error("a slot was given away twice")
	}
	second()
	if len(r.slots) != 0 {
		t.Error("the slot was not given back")
	}
}
