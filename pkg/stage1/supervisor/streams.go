package supervisor

import (
	"errors"
	"os"
	"sync"
	"time"

	"github.com/stagelet/stagelet/internal/sys"
)

const (
	stdout = "stdout"
	stderr = "stderr"
)

// partialAfter is how long the begin of a line waits for its end before it is
// logged as a part.
const partialAfter = 250 * time.Millisecond

// drainTime bounds how long an app that has ended is not yet reported as such
// because somebody it left behind holds its streams open.
const drainTime = 2 * time.Second

// streams are the supervisor's side of an app's standard streams: output goes
// to the log and to those attached, input comes from those attached.
type streams struct {
	pool *buffers
	log  *criLog
	hub  hub
	in   *inlet

	mu    sync.Mutex
	open  []*os.File // what is read; closed by its pump
	pumps int
	idle  chan struct{} // closed when the last pump ended
}

func newStreams(pool *buffers, complain func(string, ...any)) *streams {
	return &streams{
		pool: pool,
		log:  &criLog{pool: pool, complain: complain},
		in:   newInlet(),
		idle: make(chan struct{}),
	}
}

// appFiles are an app's ends of its streams.
type appFiles struct {
	stdio [3]*os.File // theirs; nil: /dev/null
	ours  [3]*os.File
}

// openPipes makes the pipes of an app without a terminal. They are root's, the
// app's: it may open /dev/stdout, which is one of them.
func openPipes(stdin bool, root sys.Owner) (f appFiles, err error) {
	for i, end := range []sys.PipeEnd{sys.WriteEnd, sys.ReadEnd, sys.ReadEnd} {
		if i == 0 && !stdin {
			continue
		}
		f.ours[i], f.stdio[i], err = sys.Pipe(end)
		if err == nil {
			err = sys.GivePipe(f.stdio[i], root)
		}
		if err != nil {
			f.close()
			return appFiles{}, err
		}
	}
	return f, nil
}

// close closes all ends, of an app that didn't start.
func (f *appFiles) close() {
	sys.CloseFiles(f.stdio[:])
	sys.CloseFiles(f.ours[:])
}

// start begins to pump. It takes over our ends, and closes the app's.
func (s *streams) start(f appFiles) error {
	sys.CloseFiles(f.stdio[:])
	if f.ours[0] != nil {
		s.in.open(f.ours[0], onPipes)
	}
	return s.pump(source{stdout, f.ours[1]}, source{stderr, f.ours[2]})
}

// startTerminal begins to pump a terminal, which it takes over. Its output is
// logged as stdout.
func (s *streams) startTerminal(terminal *os.File, stdin bool) error {
	if stdin {
		s.in.open(terminal, onTerminal)
	}
	return s.pump(source{stdout, terminal})
}

// source is where output comes from.
type source struct {
	stream string
	file   *os.File
}

func (s *streams) pump(sources ...source) error {
	readers := make([]*sys.Source, len(sources))
	for i, from := range sources {
		r, err := sys.NewSource(from.file)
		if err != nil {
			return err
		}
		readers[i] = r
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pumps = len(sources)
	for i, from := range sources {
		s.open = append(s.open, from.file)
		go func() {
			s.copy(from, readers[i])
			from.file.Close()
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.pumps--; s.pumps == 0 {
				s.log.close()
				close(s.idle)
			}
		}()
	}
	return nil
}

// copy takes all that comes until the end.
func (s *streams) copy(from source, r *sys.Source) {
	c := cutter{log: s.log, stream: from.stream}
	defer c.end()
	timed := false
	for {
		b, err := r.Read(s.pool.take, s.pool.give)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.flush()
		case err != nil:
			return
		default:
			c.feed(b)
			s.hub.publish(from.stream, b)
			s.pool.give(b)
		}
		if c.waiting() == timed && err == nil {
			continue // the clock runs from the first byte that waits
		}
		timed = c.waiting()
		var deadline time.Time
		if timed {
			deadline = time.Now().Add(partialAfter)
		}
		_ = from.file.SetReadDeadline(deadline)
	}
}

// drain waits until all output is taken in, but not longer than drainTime:
// then the pumps go on without anyone waiting for them.
func (s *streams) drain() {
	s.mu.Lock()
	none := s.pumps == 0
	s.mu.Unlock()
	if none {
		return
	}
	timer := time.NewTimer(drainTime)
	defer timer.Stop()
	select {
	case <-s.idle:
	case <-timer.C:
	}
}

// close ends the streams, whoever still holds their other ends.
func (s *streams) close() {
	s.in.close()
	s.mu.Lock()
	for _, f := range s.open {
		f.Close() // closing twice does no harm
	}
	s.mu.Unlock()
	s.log.close()
}
