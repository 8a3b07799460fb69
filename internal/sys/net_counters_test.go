package sys

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
)

func TestParseNetDev(t *testing.T) {
	const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     300       4    0    0    0     0          0         0      300       4    0    0    0     0       0          0
  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
  eth1:18446744073709551615 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
 short: 1 2 3
   bad: 1 x 3 4 5 6 7 8 9 10 11 12 13 14 15 16
`
	want := []InterfaceCounters{
		{"eth0", 1, 2, 3, 4, 9, 10, 11, 12},
		{"eth1", 1<<64 - 1, 2, 3, 4, 9, 10, 11, 12},
	}
	if got := ParseNetDev(text); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func FuzzParseNetDev(f *testing.F) {
	f.Add("Inter-|\n face |\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, i := range ParseNetDev(text) {
			if i.Name == "lo" {
				t.Errorf("loopback in %q", text)
			}
		}
	})
}

// TestNetCounters: only a process in the namespace tells of it, stopped or not.
func TestNetCounters(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	path := filepath.Join(t.TempDir(), "ns")
	if err := NewNetNS(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = RemoveNetNS(path) })
	sleep := exec.Command("sleep", "1000")
	if err := InNetNS(path, sleep.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sleep.Process.Kill(); _ = sleep.Wait() })
	if got, err := NetCounters(path, sleep.Process.Pid); err != nil || len(got) != 0 {
		t.Errorf("of a namespace with loopback alone: %+v, %v", got, err)
	}
	for _, pid := range []int{os.Getpid(), 0, 1 << 30} {
		if got, err := NetCounters(path, pid); !errors.Is(err, errs.NotFound) {
			t.Errorf("process %d: %+v, %v", pid, got, err)
		}
	}
	if _, err := NetCounters(path+"x", sleep.Process.Pid); !errors.Is(err, errs.NotFound) {
		t.Errorf("without the namespace: %v", err)
	}
}

func TestOpenFiles(t *testing.T) {
	before, socketsBefore, whole := OpenFiles([]int{os.Getpid(), 1 << 30})
	if !whole || before == 0 {
		t.Fatalf("%d files, all of them: %t", before, whole)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if files, sockets, _ := OpenFiles([]int{os.Getpid()}); files < before+2 || sockets < socketsBefore+1 {
		t.Errorf("%d files and %d sockets became %d and %d", before, socketsBefore, files, sockets)
	}
	if n, limited := OpenFilesLimit(os.Getpid()); !limited || n == 0 {
		t.Errorf("limit %d, %t", n, limited)
	}
	if _, limited := OpenFilesLimit(1 << 30); limited {
		t.Error("nobody has a limit")
	}
}
