package store

import (
	"context"
	"sync"

	"github.com/stagelet/stagelet/internal/errs"
)

// keyedLock is a lock for each key, within this process.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed once it is free
}

// lock waits for the lock of key, as long as ctx lives.
func (k *keyedLock) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		busy, taken := k.held[key]
		if !taken {
			free := make(chan struct{})
			k.held[key] = free
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				defer k.mu.Unlock()
				delete(k.held, key)
				close(free)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, errs.Wrap("wait for another pull", key, ctx.Err())
		}
	}
}
