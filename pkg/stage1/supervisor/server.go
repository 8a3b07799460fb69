package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

const (
	// requestTime bounds how long a request may take to come in once its
	// connection is there, and replyTime how long its reply may take to go out.
	requestTime = 10 * time.Second
	replyTime   = 10 * time.Second
	// acceptPause is how long we wait when no descriptor is left.
	acceptPause = 50 * time.Millisecond
)

// call is one request under way.
type call struct {
	conn  *sys.Conn
	files []*os.File // the server closes them after the call
	last  bool       // the supervisor ends after it

	answered func() // see Supervisor.expect
}

// reply is what a verb answers with.
type reply struct {
	result any
	files  []*os.File // closed once sent
	silent bool       // nothing is sent
}

type handler func(s *Supervisor, ctx context.Context, c *call, params json.RawMessage) (reply, error)

// verb makes a handler of a method.
func verb[P any](f func(*Supervisor, context.Context, *call, P) (reply, error)) handler {
	return func(s *Supervisor, ctx context.Context, c *call, params json.RawMessage) (reply, error) {
		var p P
		if len(params) > 0 {
			if err := json.Unmarshal(params, &p); err != nil {
				return reply{}, errs.New("read parameters", errs.Invalid, "", err)
			}
		}
		return f(s, ctx, c, p)
	}
}

// handlerOf gives what answers m; nil for a verb of another version.
func handlerOf(m wire.Method) handler {
	switch m {
	case wire.Hello:
		return verb((*Supervisor).sayHello)
	case wire.Status:
		return verb((*Supervisor).statuses)
	case wire.AddApp:
		return verb((*Supervisor).addApp)
	case wire.StartApp:
		return verb((*Supervisor).startApp)
	case wire.SignalApp:
		return verb((*Supervisor).signalApp)
	case wire.StopApp:
		return verb((*Supervisor).stopApp)
	case wire.RemoveApp:
		return verb((*Supervisor).removeApp)
	case wire.UpdateApp:
		return verb((*Supervisor).updateApp)
	case wire.ReopenLog:
		return verb((*Supervisor).reopenLog)
	}
	return streamHandlerOf(m)
}

func streamHandlerOf(m wire.Method) handler {
	switch m {
	case wire.Exec:
		return verb((*Supervisor).execApp)
	case wire.Attach:
		return verb((*Supervisor).attach)
	case wire.ResizeTTY:
		return verb((*Supervisor).resizeTTY)
	case wire.Stats:
		return verb((*Supervisor).stats)
	case wire.Dial:
		return verb((*Supervisor).dial)
	case wire.Events:
		return verb((*Supervisor).events)
	case wire.Shutdown:
		return verb((*Supervisor).shutdown)
	case wire.Freeze:
		return verb((*Supervisor).freeze)
	case wire.Checkpoint:
		return verb((*Supervisor).checkpoint)
	}
	return nil
}

// serve answers connections, each on its own, until the listener is closed.
func (s *Supervisor) serve() {
	for {
		conn, err := s.listener.Accept()
		switch {
		case err == nil:
			go s.answer(conn)
		case errors.Is(err, errs.Exhausted):
			time.Sleep(acceptPause)
		case errors.Is(err, os.ErrClosed):
			return
		default:
			s.complain("%v", err)
			time.Sleep(acceptPause)
		}
	}
}

// answer serves one connection: one request.
func (s *Supervisor) answer(conn *sys.Conn) {
	defer conn.Close()
	defer s.trim.touch()
	c := &call{conn: conn, answered: func() {}}
	defer func() { sys.CloseFiles(c.files) }()
	defer func() { c.answered() }()
	r, err := s.dispatch(c)
	defer sys.CloseFiles(r.files)
	if !r.silent {
		s.send(conn, r, err)
	}
	if c.last {
		s.finish.Do(func() { close(s.finished) })
	}
}

func (s *Supervisor) dispatch(c *call) (reply, error) {
	_ = c.conn.SetDeadline(time.Now().Add(requestTime))
	var req wire.Request
	var err error
	if c.files, err = wire.Recv(c.conn, &req); err != nil {
		// Who sent half a request may wait for an answer; who just looked does not.
		return reply{silent: !errors.Is(err, errs.Corrupt)}, err
	}
	_ = c.conn.SetDeadline(time.Time{})
	const op = "answer request"
	if req.Major != wire.Major {
		return reply{}, errs.New(op, errs.Unsupported, string(req.Method),
			fmt.Errorf("of version %d of the protocol; this supervisor speaks %d.%d", req.Major, wire.Major, wire.Minor))
	}
	h := handlerOf(req.Method)
	if h == nil {
		return reply{}, errs.New(op, errs.Unsupported, fmt.Sprintf("%.64q", req.Method),
			fmt.Errorf("is no verb of version %d.%d of the protocol", wire.Major, wire.Minor))
	}
	c.answered = s.expect(req.Method)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		// Nothing more is to come: whatever does, or the end, is the caller leaving.
		_, files, _ := c.conn.Recv(1)
		sys.CloseFiles(files)
	}()
	return h(s, ctx, c, req.Params)
}

func (s *Supervisor) send(conn *sys.Conn, r reply, err error) {
	var w wire.Reply
	if err == nil && r.result != nil {
		w.Result, err = json.Marshal(r.result)
	}
	if err != nil {
		w = wire.Reply{Error: wire.FromError(err)}
	}
	_ = conn.SetDeadline(time.Now().Add(replyTime))
	// A caller that has gone needs no reply: the state tells what became.
	_ = wire.Send(conn, w, r.files...)
}

// sendFirst sends a reply that another one follows, however much later.
func (s *Supervisor) sendFirst(conn *sys.Conn) {
	s.send(conn, reply{}, nil)
	_ = conn.SetDeadline(time.Time{})
}

func (s *Supervisor) sayHello(context.Context, *call, struct{}) (reply, error) {
	return reply{result: s.hello}, nil
}
