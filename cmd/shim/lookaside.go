package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
)

// lookasideTimeout bounds the fetch of one signature.
const lookasideTimeout = 30 * time.Second

// fetchURL gets what lies at a URL, for signatures that are kept beside a
// registry. It has no credentials to give away.
func fetchURL(ctx context.Context, url string, limit int64) ([]byte, error) {
	const op = "fetch"
	ctx, cancel := context.WithTimeout(ctx, lookasideTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, errs.New(op, errs.Invalid, url, err)
	}
	req.Header.Set("User-Agent", "stagelet/"+version())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, errs.New(op, errs.Unavailable, url, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusGone:
		return nil, errs.New(op, errs.NotFound, url, nil)
	default:
		return nil, errs.New(op, errs.Unavailable, url, fmt.Errorf("the server answers %s", resp.Status))
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, errs.New(op, errs.Unavailable, url, err)
	}
	if int64(len(data)) > limit {
		return nil, errs.New(op, errs.Exhausted, url, fmt.Errorf("more than %d bytes", limit))
	}
	return data, nil
}
