package supervisor_test

import (
	"slices"
	"testing"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

func TestEvents(t *testing.T) {
	p := start(t)
	id := p.runApp(script("exit 1"))
	p.awaitExit(id)
	p.must(wire.RemoveApp, wire.AppParams{ID: id}, nil)
	all := p.follow(0, 4)
	var kinds []wire.EventKind
	for i, e := range all {
		if e.Seq != uint64(i+1) || e.App != id {
			t.Errorf("event %+v", e)
		}
		kinds = append(kinds, e.Kind)
	}
	if !slices.Equal(kinds, []wire.EventKind{wire.EventAdded, wire.EventStarted, wire.EventExited, wire.EventRemoved}) {
		t.Errorf("events %v", kinds)
	}
	if all[2].Status.ExitCode != 1 || all[2].Status.State != manifest.AppExited {
		t.Errorf("event %+v", all[2])
	}
	if some := p.follow(2, 2); some[0].Seq != 3 {
		t.Errorf("events %+v", some)
	}
	if reset := p.follow(99, 5); reset[0].Kind != wire.EventReset || reset[0].Seq != 1 || reset[1].Seq != 1 {
		t.Errorf("events %+v", reset)
	}
	var st wire.StatusResult
	p.must(wire.Status, nil, &st)
	if st.Seq != 4 || len(st.Apps) != 0 {
		t.Errorf("status %+v", st)
	}
	p.shutdown()
}

// follow gives the next n events.
func (p *pod) follow(since uint64, n int) (all []wire.Event) {
	p.t.Helper()
	c := p.connect()
	defer c.Close()
	if err := wire.Send(c, request(p.t, wire.Events, wire.EventsParams{Since: since})); err != nil {
		p.t.Fatal(err)
	}
	for range n {
		var e wire.Event
		if err := p.await(c, &e); err != nil {
			p.t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func TestForgottenEvents(t *testing.T) {
	p := start(t)
	for range 300 {
		a := p.write()
		p.must(wire.AddApp, wire.AddAppParams{App: a}, nil)
		p.must(wire.RemoveApp, wire.AppParams{ID: a.ID}, nil)
	}
	first := p.follow(0, 2)
	if first[0].Kind != wire.EventReset || first[0].Seq != first[1].Seq || first[1].Seq < 2 || first[1].Seq > 600 {
		t.Errorf("events %+v", first)
	}
	p.shutdown()
}

func TestEventsArriveWhileFollowing(t *testing.T) {
	p := start(t)
	c := p.connect()
	defer c.Close()
	if err := wire.Send(c, request(t, wire.Events, wire.EventsParams{})); err != nil {
		t.Fatal(err)
	}
	id := p.runApp(script("sleep 1000"))
	for _, kind := range []wire.EventKind{wire.EventAdded, wire.EventStarted} {
		var e wire.Event
		if err := p.await(c, &e); err != nil || e.Kind != kind {
			t.Fatalf("event %+v, %v", e, err)
		}
	}
	p.shutdown()
	var e wire.Event
	if err := p.await(c, &e); err != nil || e.Kind != wire.EventExited || e.App != id {
		t.Errorf("event %+v, %v", e, err)
	}
}
