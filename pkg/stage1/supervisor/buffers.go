package supervisor

import "sync"

// bufferSize is what is read of a stream at once, in bytes.
const bufferSize = 32 << 10

// buffers lends memory to whoever has bytes in hand right now: a stream that
// is silent holds none.
type buffers struct{ pool sync.Pool }

func (b *buffers) take() []byte {
	if p, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return p[:]
	}
	return new([bufferSize]byte)[:]
}

func (b *buffers) give(p []byte) { b.pool.Put((*[bufferSize]byte)(p[:bufferSize])) }
