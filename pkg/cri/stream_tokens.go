package cri

import (
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
)

const (
	// tokenLife is how long a URL can be used after its RPC.
	tokenLife = time.Minute
	// maxTokens bounds the URLs that nobody has used yet.
	maxTokens = 1000
)

// tokens keeps what was offered until it is taken, or too old. Who knows a
// token may take it: it is as good as a password, and good once. The zero
// value is ready for use.
type tokens struct {
	mu      sync.Mutex
	offered map[string]offer
}

type offer struct {
	stream  stream
	expires time.Time
}

// issue gives a token for s; errs.Exhausted when too many wait.
func (t *tokens) issue(s stream) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for token, o := range t.offered {
		if now.After(o.expires) {
			delete(t.offered, token)
		}
	}
	if len(t.offered) >= maxTokens {
		return "", errs.New("stream", errs.Exhausted, "", fmt.Errorf("%d streams were asked for and not begun; try again in %v", maxTokens, tokenLife))
	}
	if t.offered == nil {
		t.offered = map[string]offer{}
	}
	token := rand.Text()
	t.offered[token] = offer{stream: s, expires: now.Add(tokenLife)}
	return token, nil
}

// take gives what was offered for a token, once.
func (t *tokens) take(token string) (s stream, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, ok := t.offered[token]
	delete(t.offered, token)
	if !ok || time.Now().After(o.expires) {
		return nil, false
	}
	return o.stream, true
}
