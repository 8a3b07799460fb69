package nri

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"

	"github.com/stagelet/stagelet/internal/errs"
)

// maxUnregistered bounds the connections that have not become plugins yet.
const maxUnregistered = 64

// listen accepts plugins until Close.
func (p *Plugins) listen(ctx context.Context) error {
	l, err := listenAt(ctx, p.Socket)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	p.tasks.Go(func() {
		places := make(chan struct{}, maxUnregistered)
		for {
			places <- struct{}{}
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			p.tasks.Go(func() {
				defer func() { <-places }()
				p.welcome(conn)
			})
		}
	})
	return nil
}

// welcome makes a plugin of a connection.
func (p *Plugins) welcome(conn net.Conn) {
	pl, err := p.connect(conn)
	if err != nil {
		_ = conn.Close()
	} else {
		err = pl.enrol(p.alive)
	}
	if err != nil && p.alive.Err() == nil {
		p.Warn(err, "take in an NRI plugin")
	}
}

// listenAt takes the place of a socket at which nobody listens any more. It is
// for root: a plugin can change every app of the node.
func listenAt(ctx context.Context, path string) (net.Listener, error) {
	const op = "listen"
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, errs.Wrap(op, path, err)
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSocket == 0 {
		return nil, errs.New(op, errs.Exists, path, errors.New("is there and is no socket"))
	}
	if conn, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
		_ = conn.Close()
		return nil, errs.New(op, errs.Exists, path, errors.New("another runtime serves NRI plugins there; choose another path with --nri-socket"))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errs.Wrap(op, path, err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, errs.Wrap(op, path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errs.Wrap(op, path, errors.Join(err, l.Close()))
	}
	return l, nil
}
