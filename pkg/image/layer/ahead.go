package layer

import (
	"errors"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

// One ahead holds at most blocksAhead blocks for each of its two consumers,
// so a layer being unpacked keeps a few MB at most.
const (
	blockBytes  = 256 << 10
	blocksAhead = 4
)

type block struct {
	data  []byte // what is filled of buf
	buf   [blockBytes]byte
	users atomic.Int32
}

func (b *block) release(pool *sync.Pool) {
	if b.users.Add(-1) == 0 {
		pool.Put(b)
	}
}

// ahead reads a stream ahead of its reader, on one goroutine, and hashes it
// beside, on another.
//
// Only the goroutine that reads src writes err, before it closes blocks.
type ahead struct {
	blocks chan *block // to the reader
	toHash chan *block
	hashed chan struct{} // closed once all is hashed
	done   chan struct{} // closed once src is not read any more
	stop   chan struct{}
	once   sync.Once
	pool   sync.Pool

	sum hash.Hash
	err error // how src ended; io.EOF when well

	current *block
	rest    []byte
}

func newAhead(src io.Reader, sum hash.Hash) *ahead {
	a := &ahead{
		blocks: make(chan *block, blocksAhead),
		toHash: make(chan *block, blocksAhead),
		hashed: make(chan struct{}),
		done:   make(chan struct{}),
		stop:   make(chan struct{}),
		pool:   sync.Pool{New: func() any { return new(block) }},
		sum:    sum,
	}
	go a.read(src)
	go a.hash()
	return a
}

func (a *ahead) read(src io.Reader) {
	defer close(a.done)
	defer close(a.toHash)
	defer close(a.blocks)
	for {
		b, ok := a.pool.Get().(*block)
		if !ok {
			b = new(block)
		}
		n, err := io.ReadFull(src, b.buf[:])
		if errors.Is(err, io.ErrUnexpectedEOF) && n > 0 {
			// Either src ended early, and says so again, or just ended.
			err = nil
		}
		b.data = b.buf[:n]
		if n > 0 && !a.give(b) {
			a.err = io.ErrClosedPipe
			return
		}
		if err != nil {
			a.err = err
			return
		}
	}
}

// give hands b to both consumers, or reports that nobody wants it any more.
func (a *ahead) give(b *block) bool {
	b.users.Store(2)
	select {
	case a.toHash <- b:
	case <-a.stop:
		return false
	}
	select {
	case a.blocks <- b:
		return true
	case <-a.stop:
		return false
	}
}

func (a *ahead) hash() {
	defer close(a.hashed)
	for b := range a.toHash {
		a.sum.Write(b.data)
		b.release(&a.pool)
	}
}

// Read gives what src gave, and ends as src did.
func (a *ahead) Read(p []byte) (int, error) {
	if len(a.rest) == 0 {
		if err := a.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// next makes the next block the one at hand; blocks are never empty.
func (a *ahead) next() error {
	if a.current != nil {
		a.current.release(&a.pool)
	}
	b, more := <-a.blocks
	if !more {
		a.current, a.rest = nil, nil
		return a.err
	}
	a.current, a.rest = b, b.data
	return nil
}

// WriteTo writes what Read would give, without copying it.
func (a *ahead) WriteTo(w io.Writer) (total int64, err error) {
	for {
		n, err := w.Write(a.rest)
		total += int64(n)
		if err == nil {
			err = a.next()
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// digest gives the hash of the whole stream, once Read has said io.EOF.
func (a *ahead) digest() []byte {
	<-a.hashed
	return a.sum.Sum(nil)
}

// close ends both goroutines and waits for them. The read of src that may be
// under way must end by itself: close src first.
func (a *ahead) close() {
	a.once.Do(func() { close(a.stop) })
	<-a.done
	<-a.hashed
}
