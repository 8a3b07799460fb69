package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
)

// stdioKind says what a process has for its standard streams.
type stdioKind int

const (
	onPipes stdioKind = iota
	onTerminal
)

// console is a socket that an OCI runtime sends the master of a terminal to
// (--console-socket; runc's docs/terminals.md).
type console struct {
	dir    *os.File
	socket string
	path   string // for the runtime: short, however long socket is
	listen *sys.Listener
}

func (r *ociRuntime) openConsole() (*console, error) {
	dir, err := os.Open(r.scratch)
	if err != nil {
		return nil, err
	}
	c := &console{dir: dir, socket: r.path(".tty")}
	// A socket's path has 107 bytes at most; a run directory may be longer.
	c.path = fmt.Sprintf("/proc/%d/fd/%s/%s", os.Getpid(), strconv.Itoa(int(dir.Fd())), filepath.Base(c.socket))
	if c.listen, err = sys.Listen(c.socket); err != nil {
		dir.Close()
		return nil, err
	}
	return c, nil
}

// terminal gives the master, which a runtime that has ended well has sent.
func (c *console) terminal() (*os.File, error) {
	const op = "receive terminal"
	deadline := time.Now().Add(consoleTime)
	if err := c.listen.SetDeadline(deadline); err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	conn, err := c.listen.Accept()
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(deadline)
	_, files, err := conn.Recv(4096)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	if len(files) != 1 {
		sys.CloseFiles(files)
		return nil, errs.New(op, errs.Internal, "", errors.New("the runtime sent none"))
	}
	return sys.Terminal(files[0])
}

func (c *console) close() {
	_ = c.listen.Close()
	_ = os.Remove(c.socket)
	c.dir.Close()
}
