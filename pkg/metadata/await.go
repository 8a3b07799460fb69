package metadata

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	neturl "net/url"
	"os"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Dial connects to a TCP port in a pod (stage0.Engine.PortForward).
type Dial func(ctx context.Context, pod string, port uint16) (*os.File, error)

// How long a server may take to come to a new pod, and between two questions.
const (
	awaitTimeout = 10 * time.Second
	awaitPause   = 20 * time.Millisecond
)

// Await returns once the service answers a registered pod. It is
// errs.Unavailable when none does: no server runs, most likely.
func Await(ctx context.Context, p *manifest.Pod, dial Dial) error {
	ctx, cancel := context.WithTimeout(ctx, awaitTimeout)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			f, err := dial(ctx, p.ID, p.Metadata.Port)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			return net.FileConn(f)
		},
	}}
	for {
		err := ask(ctx, &client, p)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(awaitPause):
		case <-ctx.Done():
			return errs.New("wait for the metadata service", errs.Unavailable, p.ID,
				fmt.Errorf("no server answers in the pod (%w): it is stagelet serve, on the same directories", err))
		}
	}
}

// ask wants the answer that only our service gives.
func ask(ctx context.Context, client *http.Client, p *manifest.Pod) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url(p.Metadata)+"/acMetadata/v1/pod/uuid", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		if full := (*neturl.Error)(nil); errors.As(err, &full) {
			err = full.Err // without the URL, which has the token
		}
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxHeader))
	if err == nil && string(body) != uuidOf(p.ID).String() {
		err = errors.New("somebody else listens there")
	}
	return err
}
