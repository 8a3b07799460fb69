package supervisor_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// counter is an app that counts on in a file, and how far it came.
func (p *pod) counter() (id string, count func() int) {
	id = p.runApp(script("n=0; while :; do n=$((n+1)); echo $n > /count.new; mv /count.new /count; sleep 0.02; done"))
	file := filepath.Join(p.dir.App(id).Upper(), "count")
	return id, func() int {
		data, _ := os.ReadFile(file)
		n, _ := strconv.Atoi(strings.TrimSpace(string(data)))
		return n
	}
}

// goesOn waits until something counts on.
func goesOn(t *testing.T, count func() int) {
	t.Helper()
	before := count()
	for deadline := time.Now().Add(patience); count() == before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the app stands still")
		}
	}
}

func TestFreeze(t *testing.T) {
	p := start(t)
	one, oneCount := p.counter()
	two, twoCount := p.counter()
	goesOn(t, oneCount)
	goesOn(t, twoCount)
	freeze := wire.FreezeParams{Apps: []string{one, two}}

	t.Run("thawed on demand", func(t *testing.T) {
		c := p.connect()
		defer c.Close()
		if err := wire.Send(c, request(t, wire.Freeze, freeze)); err != nil {
			t.Fatal(err)
		}
		if err := p.await(c, nil); err != nil {
			t.Fatal(err)
		}
		before := [2]int{oneCount(), twoCount()}
		time.Sleep(100 * time.Millisecond) // in which they would count on
		if now := [2]int{oneCount(), twoCount()}; now != before {
			t.Errorf("frozen at %v, and now at %v", before, now)
		}
		if err := c.Send([]byte{0}); err != nil {
			t.Fatal(err)
		}
		if err := p.await(c, nil); err != nil {
			t.Error(err)
		}
		goesOn(t, oneCount)
		goesOn(t, twoCount)
	})
	t.Run("thawed when the caller is gone", func(t *testing.T) {
		c := p.connect()
		if err := wire.Send(c, request(t, wire.Freeze, freeze)); err != nil {
			t.Fatal(err)
		}
		if err := p.await(c, nil); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		goesOn(t, oneCount)
		goesOn(t, twoCount)
	})
	t.Run("stopped while frozen", func(t *testing.T) {
		c := p.connect()
		defer c.Close()
		if err := wire.Send(c, request(t, wire.Freeze, freeze)); err != nil {
			t.Fatal(err)
		}
		if err := p.await(c, nil); err != nil {
			t.Fatal(err)
		}
		p.stop(one, syscall.SIGKILL, 0)
		if err := c.Send([]byte{0}); err != nil {
			t.Fatal(err)
		}
		if err := p.await(c, nil); err != nil {
			t.Error(err)
		}
		goesOn(t, twoCount)
	})
	wantKind(t, p.call(wire.Freeze, freeze, nil), errs.Precondition)
	goesOn(t, twoCount)
	wantKind(t, p.call(wire.Freeze, wire.FreezeParams{Apps: []string{"none"}}, nil), errs.NotFound)
	p.shutdown()
}

// What CRIU can't do is told in its own words, and leaves the app as it was.
func TestCheckpointThatFails(t *testing.T) {
	p := start(t)
	id, count := p.counter()
	goesOn(t, count)
	wantKind(t, p.call(wire.Checkpoint, wire.CheckpointParams{ID: "none"}, nil), errs.NotFound)
	wantKind(t, p.call(wire.Checkpoint, wire.CheckpointParams{ID: id, Dir: filepath.Join(t.TempDir(), "none")}, nil), errs.NotFound)
	goesOn(t, count)
	dir := t.TempDir()
	err := p.call(wire.Checkpoint, wire.CheckpointParams{ID: id, Dir: dir}, nil)
	goesOn(t, count)
	if err != nil { // CRIU is not there, or can't work on this kernel
		wantKind(t, err, errs.Precondition)
	} else if _, err := os.Stat(filepath.Join(dir, wire.CheckpointImages, "inventory.img")); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Join(string(p.run), "scratch")); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	p.shutdown()
}
