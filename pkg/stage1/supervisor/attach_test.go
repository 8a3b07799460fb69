package supervisor_test

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// attached is one who is attached to an app.
type attached struct {
	p    *pod
	conn *sys.Conn
	in   *os.File
	out  *os.File
}

func (p *pod) attach(id string) *attached {
	p.t.Helper()
	inR, inW := pipe(p.t)
	outR, outW := pipe(p.t)
	a := &attached{p: p, conn: p.connect(), in: inW, out: outR}
	p.t.Cleanup(func() { a.conn.Close() })
	if err := wire.Send(a.conn, request(p.t, wire.Attach, wire.AttachParams{ID: id}), inR, outW, outW); err != nil {
		p.t.Fatal(err)
	}
	inR.Close()
	outW.Close()
	return a
}

// expect reads until what was read ends like that.
func (a *attached) expect(end string) {
	a.p.t.Helper()
	var got []byte
	b := make([]byte, 4096)
	_ = a.out.SetReadDeadline(time.Now().Add(patience))
	for !strings.HasSuffix(string(got), end) {
		n, err := a.out.Read(b)
		got = append(got, b[:n]...)
		if err != nil {
			a.p.t.Fatalf("read %q, then %v; want %q", got, err, end)
		}
	}
}

func TestAttach(t *testing.T) {
	p := start(t)
	id := p.add(script("read x; read x; echo first; while read x; do echo got $x; [ $x = end ] && exit 0; done; echo eof"), stdin)
	one, two := p.attach(id), p.attach(id)
	p.startApp(id)
	for _, a := range []*attached{one, two} { // both are in before the app speaks
		letTalk(t, a)
	}
	one.expect("first\n")
	two.expect("first\n")
	io.WriteString(one.in, "a\n")
	one.expect("got a\n")
	two.expect("got a\n")
	one.in.Close() // no end for the app: there is no StdinOnce
	one.conn.Close()
	io.WriteString(two.in, "end\n")
	two.expect("got end\n")
	if err := p.await(two.conn, nil); err != nil {
		t.Error(err)
	}
	if st := p.awaitExit(id); st.ExitCode != 0 {
		t.Errorf("status %+v", st)
	}
	if got := text(readLog(t, p.logPath(id)), "stdout"); got != "first\ngot a\ngot end\n" {
		t.Errorf("log %q", got)
	}
	wantKind(t, p.call(wire.Attach, wire.AttachParams{ID: id}, nil, openNull(t), openNull(t), openNull(t)), errs.Precondition)
	p.shutdown()
}

func TestStdinOnce(t *testing.T) {
	p := start(t)
	id := p.runApp(script("cat; echo done"), stdinOnce)
	null := openNull(t)
	watcher := p.connect() // brings no input, so it can't take any away
	defer watcher.Close()
	if err := wire.Send(watcher, request(t, wire.Attach, wire.AttachParams{ID: id}), null, null, null); err != nil {
		t.Fatal(err)
	}
	a := p.attach(id)
	io.WriteString(a.in, "text\n")
	a.in.Close()
	a.expect("text\ndone\n")
	if st := p.awaitExit(id); st.ExitCode != 0 {
		t.Errorf("status %+v", st)
	}
	p.shutdown()
}

func TestAppWithoutStdinReadsNothing(t *testing.T) {
	p := start(t)
	id := p.runApp(script("cat; echo eof"))
	p.awaitExit(id)
	if got := text(readLog(t, p.logPath(id)), "stdout"); got != "eof\n" {
		t.Errorf("log %q", got)
	}
	p.shutdown()
}

func TestSlowAttacherIsLetGo(t *testing.T) {
	p := start(t)
	const times, size = 10, 200_000 // who takes so much before more comes is never behind
	id := p.runApp(script("read x; for i in 1 2 3 4 5 6 7 8 9 10; do read x; head -c 200000 /dev/zero | tr '\\0' '\\n'; done; echo end"), stdin, withZero)
	slow, other := p.attach(id), p.attach(id)
	letTalk(t, slow)
	for range times {
		letTalk(t, other)
		if _, err := io.CopyN(io.Discard, other.out, size); err != nil {
			t.Fatal(err)
		}
	}
	if st := p.awaitExit(id); st.ExitCode != 0 {
		t.Errorf("status %+v", st)
	}
	wantKind(t, p.await(slow.conn, nil), errs.Exhausted)
	if err := p.await(other.conn, nil); err != nil {
		t.Error(err)
	}
	log := readLog(t, p.logPath(id))
	if len(log) != times*size+1 || log[len(log)-1].content != "end" {
		t.Errorf("log has %d records", len(log))
	}
	p.shutdown()
}

func TestTerminal(t *testing.T) {
	p := start(t)
	id := p.add(script("read x; tty; read x; stty size; echo got $x; exit 6"), tty, stdin)
	a := p.attach(id)
	p.startApp(id)
	letTalk(t, a)
	a.expect("/dev/pts/0\r\n")
	p.must(wire.ResizeTTY, wire.ResizeParams{ID: id, Rows: 40, Cols: 132}, nil)
	io.WriteString(a.in, "typed\n")
	a.expect("40 132\r\ngot typed\r\n")
	if err := p.await(a.conn, nil); err != nil {
		t.Error(err)
	}
	if st := p.awaitExit(id); st.ExitCode != 6 {
		t.Errorf("status %+v", st)
	}
	log := text(readLog(t, p.logPath(id)), "stdout")
	if !strings.Contains(log, "/dev/pts/0\r\n") || !strings.HasSuffix(log, "got typed\r\n") {
		t.Errorf("log %q", log)
	}
	p.shutdown()
}

func TestForegroundIsWaitedFor(t *testing.T) {
	p := start(t)
	const size = 2_000_000
	id := p.add(script("echo first; head -c 2000000 /dev/zero"), withZero)
	outR, outW := pipe(t)
	conn := p.connect()
	defer conn.Close()
	if err := wire.Send(conn, request(t, wire.Attach, wire.AttachParams{ID: id, Foreground: true}), openNull(t), outW, openNull(t)); err != nil {
		t.Fatal(err)
	}
	outW.Close()
	if err := p.await(conn, nil); err != nil { // joined
		t.Fatal(err)
	}
	p.startApp(id)
	time.Sleep(500 * time.Millisecond) // longer than others would be waited for
	data, err := io.ReadAll(outR)
	if want := len("first\n") + size; err != nil || len(data) != want {
		t.Errorf("read %d bytes of %d: %v", len(data), want, err)
	}
	if err := p.await(conn, nil); err != nil {
		t.Error(err)
	}
	if st := p.awaitExit(id); st.ExitCode != 0 {
		t.Errorf("status %+v", st)
	}
	p.shutdown()
}

func TestForegroundThatLeavesHoldsNothingUp(t *testing.T) {
	p := start(t)
	id := p.add(script("head -c 2000000 /dev/zero; exit 3"), withZero)
	outR, outW := pipe(t)
	conn := p.connect()
	if err := wire.Send(conn, request(t, wire.Attach, wire.AttachParams{ID: id, Foreground: true}), openNull(t), outW, outW); err != nil {
		t.Fatal(err)
	}
	outW.Close()
	if err := p.await(conn, nil); err != nil {
		t.Fatal(err)
	}
	p.startApp(id)
	if _, err := outR.Read(make([]byte, 1)); err != nil { // the app waits now, or will soon
		t.Fatal(err)
	}
	conn.Close()
	if st := p.awaitExit(id); st.ExitCode != 3 {
		t.Errorf("status %+v", st)
	}
	outR.Close()
	p.shutdown()
}
