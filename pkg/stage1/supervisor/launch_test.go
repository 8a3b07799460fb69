package supervisor_test

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// launching commits a pod whose launcher starts its apps, too.
func launching(t *testing.T, options ...podOption) (*pod, *sys.Conn) {
	t.Helper()
	p := prepare(t, options...)
	hold, err := p.launch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hold.Close() })
	say(t, hold)
	if err := os.Rename(p.prepareDir(), string(p.dir)); err != nil {
		t.Fatal(err)
	}
	return p, hold
}

func say(t *testing.T, hold *sys.Conn) {
	t.Helper()
	if err := hold.Send([]byte{0}); err != nil {
		t.Fatal(err)
	}
}

// A launcher that dies before it has started all apps takes the pod with it.
func TestLauncherDiesBeforeAllAppsAreStarted(t *testing.T) {
	for name, started := range map[string][]bool{ // by app
		"no app":    nil,
		"none":      {false, false},
		"the first": {true, false},
		"all":       {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			p, hold := launching(t, endsWithApps)
			var ids []string
			for _, start := range started {
				id := p.add(script("exec sleep 1000"))
				if start {
					p.startApp(id)
				}
				ids = append(ids, id)
			}
			hold.Close()
			if err := p.exited(); err != nil {
				t.Error(err)
			}
			if p.locked() {
				t.Error("the pod is still locked")
			}
			for i, id := range ids {
				st := p.onDisk(id)
				wantEnd := st.Signal == int(syscall.SIGKILL) && st.ExitCode == 137
				if !started[i] {
					wantEnd = st.ExitCode == manifest.ExitStartError && st.Reason == manifest.ReasonStartError &&
						strings.Contains(st.Message, "whoever launched it was gone")
				}
				if st.State != manifest.AppExited || !wantEnd {
					t.Errorf("app %d, started %v: %+v", i, started[i], st)
				}
			}
			if log := p.stage1Log(); !strings.Contains(log, "whoever launched it was gone") {
				t.Errorf("stage1.log says %q", log)
			}
		})
	}
}

// Who waits for an app that nobody starts any more is told of its end.
func TestLauncherDiesWhileOthersAreAttached(t *testing.T) {
	p, hold := launching(t, endsWithApps)
	id := p.add(script("exec sleep 1000"))
	conn := p.connect()
	defer conn.Close()
	null := openNull(t)
	if err := wire.Send(conn, request(t, wire.Attach, wire.AttachParams{ID: id, Foreground: true}), null, null, null); err != nil {
		t.Fatal(err)
	}
	if err := p.await(conn, nil); err != nil {
		t.Fatalf("joined: %v", err)
	}
	hold.Close()
	if err := p.await(conn, nil); err != nil {
		t.Errorf("attached: %v", err)
	}
	if err := p.exited(); err != nil {
		t.Error(err)
	}
}

// Once all apps are started the pod doesn't need its launcher, who was there
// before and after the word.
func TestLauncherDiesAfterAllAppsAreStarted(t *testing.T) {
	p, hold := launching(t, endsWithApps)
	id := p.runApp(script("exec sleep 1000"))
	say(t, hold)
	hold.Close()
	if st := p.status(id); st.State != manifest.AppRunning || !p.locked() {
		t.Errorf("status %+v, locked: %v", st, p.locked())
	}
	p.shutdown()
}

// A pod ends whether or not its launcher has let go of it.
func TestPodEndsWhileItIsLaunched(t *testing.T) {
	for name, end := range map[string]func(*pod){
		"by a shutdown":  func(p *pod) { p.must(wire.Shutdown, nil, nil) },
		"with its apps":  func(p *pod) { p.runApp(script("exit 3")) },
		"before an app ": func(p *pod) { p.add(script("true")); p.must(wire.Shutdown, nil, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := launching(t, endsWithApps)
			end(p)
			if err := p.exited(); err != nil {
				t.Error(err)
			}
		})
	}
}
