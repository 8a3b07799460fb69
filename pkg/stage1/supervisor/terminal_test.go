package supervisor_test

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// onTerminal runs a command on a terminal and gives our side of it.
func (p *pod) onTerminal(params wire.ExecParams) (ours *os.File, conn *sys.Conn) {
	p.t.Helper()
	ours, theirs, err := sys.StreamPair()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { ours.Close() })
	defer theirs.Close()
	conn = p.connect()
	p.t.Cleanup(func() { conn.Close() })
	params.TTY = true
	if err := wire.Send(conn, request(p.t, wire.Exec, params), theirs); err != nil {
		p.t.Fatal(err)
	}
	return ours, conn
}

func TestTerminalHasItsSizeFromTheStart(t *testing.T) {
	p := start(t)
	id := p.runApp(sleeper)
	for _, env := range []string{"", "TERM=vt100"} {
		want := "33 77\r\nxterm\r\n"
		args := []string{"sh", "-c", "stty size; echo $TERM"}
		if env != "" {
			id = p.runApp(sleeper, process("env", []string{"PATH=/bin", env}))
			want = "33 77\r\nvt100\r\n"
		}
		ours, _ := p.onTerminal(wire.ExecParams{ID: id, Args: args, Rows: 33, Cols: 77})
		if got, err := io.ReadAll(ours); err != nil || string(got) != want {
			t.Errorf("with %q: %q, %v", env, got, err)
		}
	}
	p.shutdown()
}

// Everything that a command wrote to its terminal comes, when it is taken long
// after the command's end.
func TestTerminalWaitsForItsReader(t *testing.T) {
	p := start(t)
	id := p.runApp(sleeper)
	const lines = 60_000
	ours, conn := p.onTerminal(wire.ExecParams{ID: id, Args: []string{"sh", "-c", "stty -opost; seq 60000; exit 7"}})
	time.Sleep(3 * time.Second) // longer than somebody left behind is waited for
	out, err := io.ReadAll(ours)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(out), "\n"); got != lines {
		t.Errorf("%d lines of %d came", got, lines)
	}
	var r wire.ExecResult
	if err := p.await(conn, &r); err != nil || r.ExitCode != 7 {
		t.Errorf("%+v, %v", r, err)
	}
	p.shutdown()
}
