package registry

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// retry says whether a request that got err may be sent again to the same
// endpoint, and after which wait.
func (t timing) retry(err error, attempt int) (time.Duration, bool) {
	var f *failure
	if !errors.As(err, &f) || !f.again {
		return 0, false
	}
	wait := t.backoff << (attempt - 1)
	if wait > t.maxBackoff || wait <= 0 {
		wait = t.maxBackoff
	}
	wait = wait/2 + rand.N(wait/2+1) // #nosec G404 -- only to spread requests
	if f.after > t.maxWait {
		return 0, false
	}
	return max(wait, f.after), true
}

// retryAfter reads the header of that name (RFC 9110, 10.2.3): seconds, or a
// date; 0: it is not there, or not readable.
func retryAfter(resp *http.Response, now time.Time) time.Duration {
	value := resp.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil && date.After(now) {
		return date.Sub(now)
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
