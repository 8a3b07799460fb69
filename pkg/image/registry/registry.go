// Package registry gets images, and what is said about them, from registries
// (OCI distribution-spec, and Docker's registries before it). It alone talks
// to them. Nothing that a registry says is believed: documents are checked
// against their digests here, layers by whoever unpacks them.
//
// A reference names a registry; which hosts are asked for it, in which order
// and how, is the administrator's choice (hosts.go). Each is an endpoint, and
// a request goes to one after the other until one has the answer.
package registry

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/stagelet/stagelet/pkg/image"
)

// Options of a Client.
type Options struct {
	// CertsDir holds <registry>/hosts.toml, in containerd's form, or Docker's
	// certificate files; it is read at every pull. Empty: none.
	CertsDir string
	// Credentials are those of this machine, for pulls that bring none.
	Credentials Credentials
	// PlainHTTP says which registries, as they stand in references, are to be
	// reached without TLS although no hosts.toml says so; nil: none. One on the
	// loopback is, if it doesn't speak TLS.
	PlainHTTP func(registry string) bool
	// SkipVerify says which registries' own certificates are not to be checked
	// although no hosts.toml says so; nil: none.
	SkipVerify func(registry string) bool
	// Proxy gives the proxy for a request; nil: what the environment says
	// (http.ProxyFromEnvironment).
	Proxy func(*http.Request) (*url.URL, error)
	// UserAgent is what Stagelet calls itself; empty: "stagelet".
	UserAgent string
}

// Client talks to registries. It is for several goroutines.
type Client struct {
	options Options
	timing  timing

	mu         sync.Mutex
	transports map[string]*transport // by what they were made from
	breakers   map[string]*breaker   // by the URL of the endpoint
}

// timing are the time-outs and retries of a client.
type timing struct {
	dial      time.Duration // until connected, where hosts.toml says nothing
	handshake time.Duration // of TLS
	header    time.Duration // from a request to the beginning of its answer
	stall     time.Duration // between two bytes of a body
	floor     int64         // bytes per second that a body must bring
	window    time.Duration // over which that is measured
	helper    time.Duration // for a credential helper
	page      time.Duration // for a page of a web server, attempts and all

	attempts     int           // per request at the last endpoint; an earlier one has two
	resumes      int           // in a row of one blob that bring less than floor
	backoff      time.Duration // before the second attempt; doubles with each
	maxBackoff   time.Duration
	maxWait      time.Duration // that a registry may ask for by Retry-After
	breakerOpen  time.Duration // after the first failure; doubles with each
	breakerLimit time.Duration
}

func defaultTiming() timing {
	return timing{
		dial:      10 * time.Second,
		handshake: 10 * time.Second,
		header:    30 * time.Second,
		stall:     30 * time.Second,
		floor:     1 << 10,
		window:    30 * time.Second,
		helper:    15 * time.Second,
		page:      2 * time.Minute,

		attempts:     5,
		resumes:      6,
		backoff:      500 * time.Millisecond,
		maxBackoff:   10 * time.Second,
		maxWait:      time.Minute,
		breakerOpen:  30 * time.Second,
		breakerLimit: 5 * time.Minute,
	}
}

// New gives a client.
func New(o Options) *Client {
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	if o.UserAgent == "" {
		o.UserAgent = "stagelet"
	}
	return &Client{
		options: o, timing: defaultTiming(),
		transports: map[string]*transport{}, breakers: map[string]*breaker{},
	}
}

// Close ends idle connections. Pulls under way go on.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.transports {
		t.close()
	}
	clear(c.transports)
}

// Repository gives access to the repository that ref lies in; auth is what
// the caller has to show for it, and may be nil.
func (c *Client) Repository(ctx context.Context, ref image.Ref, auth *Auth) (*Repository, error) {
	hosts, err := c.hosts(ctx, ref.Registry())
	if err != nil {
		return nil, err
	}
	r := &Repository{ref: ref, timing: c.timing}
	keys := &keyring{client: c, ref: ref, given: auth}
	for _, h := range hosts {
		t, err := c.transport(h)
		if err != nil {
			return nil, err
		}
		r.endpoints = append(r.endpoints, newEndpoint(c, h, t, ref, keys))
	}
	return r, nil
}

// maxTransports bounds how many are kept: one is made for each state that a
// host's configuration ever had.
const maxTransports = 64

func (c *Client) transport(h host) (*transport, error) {
	key := h.fingerprint()
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.transports[key]; t != nil {
		return t, nil
	}
	t, err := newTransport(h, c.options.Proxy, c.timing)
	if err != nil {
		return nil, err
	}
	if len(c.transports) >= maxTransports {
		for _, old := range c.transports {
			old.close()
		}
		clear(c.transports)
	}
	c.transports[key] = t
	return t, nil
}

func (c *Client) breaker(endpoint string) *breaker {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.breakers[endpoint]
	if b == nil {
		b = &breaker{open: c.timing.breakerOpen, limit: c.timing.breakerLimit}
		c.breakers[endpoint] = b
	}
	return b
}
