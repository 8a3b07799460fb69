package registry

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

const opHosts = "read registry configuration"

// capability is what a host may be asked.
type capability uint8

const (
	canPull    capability = 1 << iota // content by its digest
	canResolve                        // what a tag stands for, or refers to a digest now
)

// host is one place to ask for the images of a registry.
type host struct {
	URL   url.URL // without the API's root: scheme and host
	Path  string  // the API's root: "/v2"
	Can   capability
	Own   bool // it is the registry itself, not a mirror of it
	Extra http.Header

	CAs         []pemFile
	Clients     []keyPair
	SkipVerify  bool
	DialTimeout time.Duration // 0: the default
	Told        bool          // somebody over the network named it: it may not be on this machine or link
	Proxy       *url.URL      // nil: as the client does it
}

// pemFile is a file as it was when it was read: a new one makes a new
// transport.
type pemFile struct {
	Name string
	Data []byte
}

type keyPair struct{ Cert, Key pemFile }

// fingerprint is equal for hosts that can share a transport.
func (h host) fingerprint() string {
	data, err := json.Marshal(h)
	if err != nil {
		return h.URL.String() // can't be: it is plain data
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// dockerHub is what references call the registry whose API is elsewhere.
const (
	dockerHub    = "docker.io"
	dockerHubAPI = "registry-1.docker.io"
)

// hosts gives the endpoints of a registry, in order: what CertsDir says, or
// else the registry itself.
func (c *Client) hosts(ctx context.Context, registry string) ([]host, error) {
	return c.configured(registry, c.ownHost(ctx, registry))
}

// configured is hosts, for a registry that is reached as own where nobody says
// otherwise.
func (c *Client) configured(registry string, own host) ([]host, error) {
	if c.options.CertsDir == "" {
		return []host{own}, nil
	}
	for _, name := range hostDirs(registry) {
		dir := filepath.Join(c.options.CertsDir, name)
		fi, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errs.Wrap(opHosts, dir, err)
		}
		if !fi.IsDir() {
			return nil, errs.New(opHosts, errs.Invalid, dir, errors.New("is not a directory"))
		}
		return readHostDir(dir, own)
	}
	return []host{own}, nil
}

// hostDirs gives the directories that may be about a registry, best first.
func hostDirs(registry string) []string {
	var names []string
	if name, port, found := strings.Cut(registry, ":"); found && !strings.Contains(port, ":") {
		names = append(names, name+"_"+port+"_")
	}
	return append(names, registry, "_default")
}

// readHostDir reads a directory of CertsDir; own is the registry itself.
func readHostDir(dir string, own host) ([]host, error) {
	path := filepath.Join(dir, "hosts.toml")
	data, err := readSmall(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return readDockerDir(dir, own)
	case err != nil:
		return nil, errs.Wrap(opHosts, path, err)
	}
	hosts, err := parseHosts(data, own)
	if err != nil {
		return nil, errs.New(opHosts, errs.Invalid, path, err)
	}
	for i := range hosts {
		if err := hosts[i].load(dir); err != nil {
			return nil, err
		}
	}
	return hosts, nil
}

// readDockerDir reads a directory in Docker's form: x.crt is the certificate
// of an authority, x.cert with x.key the client's own.
func readDockerDir(dir string, own host) ([]host, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, errs.Wrap(opHosts, dir, err)
	}
	for _, e := range entries {
		switch base, ext := strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())), filepath.Ext(e.Name()); ext {
		case ".crt":
			own.CAs = append(own.CAs, pemFile{Name: e.Name()})
		case ".cert":
			own.Clients = append(own.Clients, keyPair{Cert: pemFile{Name: e.Name()}, Key: pemFile{Name: base + ".key"}})
		}
	}
	if len(own.CAs) > 0 || len(own.Clients) > 0 {
		own.URL.Scheme = "https"
	}
	return []host{own}, own.load(dir)
}

// wantsTLS says that there are settings for TLS.
func (h *host) wantsTLS() bool { return len(h.CAs) > 0 || len(h.Clients) > 0 || h.SkipVerify }

// load reads the files that h names, relative to dir.
func (h *host) load(dir string) error {
	for i := range h.CAs {
		if err := h.CAs[i].load(dir); err != nil {
			return err
		}
	}
	for i := range h.Clients {
		pair := &h.Clients[i]
		if err := pair.Cert.load(dir); err != nil {
			return err
		}
		if pair.Key.Name == "" {
			pair.Key = pair.Cert
		} else if err := pair.Key.load(dir); err != nil {
			return err
		}
	}
	return nil
}

func (f *pemFile) load(dir string) (err error) {
	if !filepath.IsAbs(f.Name) {
		f.Name = filepath.Join(dir, f.Name)
	}
	f.Data, err = readSmall(f.Name)
	return errs.Wrap(opHosts, f.Name, err)
}

// ownHost gives the registry itself, as it is reached when nobody says how.
func (c *Client) ownHost(ctx context.Context, registry string) host {
	address := registry
	if registry == dockerHub {
		address = dockerHubAPI
	}
	h := host{URL: url.URL{Scheme: "https", Host: address}, Path: "/v2", Can: canPull | canResolve, Own: true}
	if c.options.PlainHTTP != nil && c.options.PlainHTTP(registry) || isLoopback(address) && c.isPlain(ctx, address) {
		h.URL.Scheme = "http"
	}
	h.SkipVerify = c.options.SkipVerify != nil && c.options.SkipVerify(registry)
	return h
}

// isPlain says that somebody listens at address who doesn't speak TLS.
func (c *Client) isPlain(ctx context.Context, address string) bool {
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), "443")
	}
	ctx, cancel := context.WithTimeout(ctx, c.timing.handshake)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // #nosec G402 -- nothing is sent
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err == nil {
		_ = conn.Close()
	}
	var noTLS tls.RecordHeaderError
	return errors.As(err, &noTLS)
}

// isLoopback says whether an address "host[:port]" is this machine.
func isLoopback(address string) bool {
	name := address
	if h, _, err := net.SplitHostPort(address); err == nil {
		name = h
	}
	if strings.EqualFold(name, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}

// maxConfigFile bounds a file of configuration or credentials, in bytes.
const maxConfigFile = 1 << 20

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readLimited(f, maxConfigFile)
	if errors.Is(err, image.TooLarge) {
		return nil, errs.New("read", image.TooLarge.Kind(), path, err)
	}
	return data, err
}
