package supervisor_test

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

func endsWithApps(c *manifest.Pod) { c.EndsWithApps = true }

// onDisk gives an app's status once its supervisor has gone.
func (p *pod) onDisk(id string) (st manifest.Status) {
	p.t.Helper()
	if _, err := atomicfile.ReadRecord(p.dir.App(id).Status(), manifest.KindStatus, &st); err != nil {
		p.t.Fatal(err)
	}
	return st
}

func TestPodEndsWithItsApps(t *testing.T) {
	p := start(t, endsWithApps)
	first, second := p.add(script("exit 3")), p.add(script("read x; exit 4"), stdin)
	events := p.connect()
	defer events.Close()
	if err := wire.Send(events, request(t, wire.Events, wire.EventsParams{})); err != nil {
		t.Fatal(err)
	}
	p.startApp(first)
	p.awaitExit(first)
	if !p.locked() {
		t.Fatal("the pod ended before its second app was started")
	}
	p.startApp(second)
	a := p.attach(second)
	if _, err := io.WriteString(a.in, "go\n"); err != nil {
		t.Fatal(err)
	}
	if err := p.await(a.conn, nil); err != nil {
		t.Errorf("attached: %v", err)
	}
	if err := p.exited(); err != nil {
		t.Error(err)
	}
	if p.locked() {
		t.Error("the lock is held")
	}
	for id, code := range map[string]int{first: 3, second: 4} {
		if st := p.onDisk(id); st.State != manifest.AppExited || st.ExitCode != code {
			t.Errorf("status %+v, want exit code %d", st, code)
		}
	}
	told := 0
	for {
		var e wire.Event
		var r wire.Reply
		_ = events.SetDeadline(time.Now().Add(patience))
		if _, err := wire.Recv(events, &r); err != nil {
			break
		}
		if err := json.Unmarshal(r.Result, &e); err != nil {
			t.Fatal(err)
		}
		if e.Kind == wire.EventExited {
			told++
		}
	}
	if told != 2 {
		t.Errorf("%d ends were told", told)
	}
}

// talker says 200 kB, once a line came: whoever sent it is attached by then.
var talker = script("read x; i=0; while [ $i -lt 2000 ]; do echo " + strings.Repeat("x", 99) + "; i=$((i+1)); done")

func letTalk(t *testing.T, a *attached) {
	t.Helper()
	if _, err := io.WriteString(a.in, "go\n"); err != nil {
		t.Fatal(err)
	}
}

// Who reads slowly gets all of what the last app said.
func TestPodEndsAfterItsOutputIsTaken(t *testing.T) {
	p := start(t, endsWithApps)
	id := p.add(talker, stdin)
	a := p.attach(id)
	p.startApp(id)
	letTalk(t, a)
	eventually(t, "the app's end", func() bool { return p.status(id).State == manifest.AppExited })
	data, err := io.ReadAll(a.out)
	if err != nil || len(data) != 2000*100 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if err := p.exited(); err != nil {
		t.Error(err)
	}
}

// Who doesn't read at all holds the pod up for a while only, and not against a
// shutdown.
func TestShutdownWhileThePodEnds(t *testing.T) {
	p := start(t, endsWithApps)
	id := p.add(talker, stdin)
	a := p.attach(id)
	p.startApp(id)
	letTalk(t, a)
	eventually(t, "the app's end", func() bool { return p.status(id).State == manifest.AppExited })
	other := p.write(script("true"))
	other.ID = id // it is refused, this way or the other
	other.LogPath = "other"
	eventually(t, "the pod's end to begin", func() bool {
		return errors.Is(p.call(wire.AddApp, wire.AddAppParams{App: other}, nil), errs.Unavailable)
	})
	p.shutdown()
}

func TestPodEndsWithAnAppThatCannotStart(t *testing.T) {
	p := start(t, endsWithApps)
	id := p.add(command("/no/such/command"))
	wantKind(t, p.call(wire.StartApp, wire.AppParams{ID: id}, nil), errs.Invalid)
	if err := p.exited(); err != nil {
		t.Error(err)
	}
	if st := p.onDisk(id); st.Reason != manifest.ReasonStartError {
		t.Errorf("status %+v", st)
	}
}

// An app that was never started keeps its pod; without it, the pod ends.
func TestPodEndsWhenTheLastAppIsRemoved(t *testing.T) {
	p := start(t, endsWithApps)
	first, second := p.add(script("true")), p.add(script("true"))
	p.startApp(first)
	p.awaitExit(first)
	p.must(wire.RemoveApp, wire.AppParams{ID: second}, nil)
	if err := p.exited(); err != nil {
		t.Error(err)
	}
}

// An app comes in time, and then the pod goes on, or it doesn't.
func TestAppsComeWhileThePodEnds(t *testing.T) {
	p := start(t, endsWithApps)
	id, late := p.add(script("true")), p.write(script("true"))
	p.startApp(id)
	eventually(t, "the app's end", func() bool {
		var st manifest.Status
		_, err := atomicfile.ReadRecord(p.dir.App(id).Status(), manifest.KindStatus, &st)
		return err == nil && st.State == manifest.AppExited
	})
	c, err := sys.Connect(t.Context(), p.run.Socket())
	if err == nil {
		defer c.Close()
		err = wire.Send(c, request(t, wire.AddApp, wire.AddAppParams{App: late}))
	}
	var r wire.Reply
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(patience))
		_, err = wire.Recv(c, &r)
	}
	switch {
	case err == nil && r.Error == nil:
		p.startApp(late.ID)
	case err == nil && errs.KindOf(r.Error.Err()) != errs.Unavailable:
		t.Error(r.Error.Err())
	}
	if err := p.exited(); err != nil {
		t.Error(err)
	}
}
