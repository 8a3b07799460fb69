package registry

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"golang.org/x/net/http/httpguts"

	"github.com/stagelet/stagelet/pkg/image"
)

// hostsFile is containerd's hosts.toml (its docs/hosts.md). An unknown key is
// refused: a misspelt one would otherwise widen what a mirror may do.
type hostsFile struct {
	Server string `toml:"server"`
	hostTable
	Host map[string]hostTable `toml:"host"`
}

type hostTable struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // path | [path …]
	Client       any            `toml:"client"` // path | [path | [certificate, key] …]
	SkipVerify   bool           `toml:"skip_verify"`
	Header       map[string]any `toml:"header"` // name = value | [value …]
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
	Proxy        string         `toml:"proxy"`
}

// maxHosts bounds the hosts of one file.
const maxHosts = 32

// parseHosts reads a hosts.toml; own is the registry itself, which comes last
// unless server names another one. Files that it names are not read yet.
func parseHosts(data []byte, own host) ([]host, error) {
	var f hostsFile
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return nil, explainTOML(err)
	}
	order, err := hostOrder(data)
	if err != nil {
		return nil, err
	}
	if len(order) > maxHosts {
		return nil, fmt.Errorf("%d hosts, more than %d", len(order), maxHosts)
	}
	if len(order) != len(f.Host) {
		return nil, errors.New(`write each host as a table of its own, [host."https://…"]: their order counts`)
	}
	var hosts []host
	for _, name := range order {
		table := f.Host[name]
		h, err := table.host(name)
		if err != nil {
			return nil, fmt.Errorf("host %s: %w", redacted(name), err)
		}
		hosts = append(hosts, h)
	}
	server, err := f.server(own)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	return append(hosts, server), nil
}

// server gives what is asked after all hosts.
func (f *hostsFile) server(own host) (host, error) {
	if f.Server != "" {
		h, err := f.host(f.Server)
		h.Own, h.SkipVerify = true, h.SkipVerify || own.SkipVerify
		return h, err
	}
	h, err := f.host(own.URL.String())
	h.Own, h.Path = true, own.Path
	if h.wantsTLS() {
		h.URL.Scheme = "https"
	}
	h.SkipVerify = h.SkipVerify || own.SkipVerify
	return h, err
}

// host gives the host at address with the settings of its table.
func (t *hostTable) host(address string) (h host, err error) {
	if h.URL, h.Path, err = parseAddress(address, t.OverridePath); err != nil {
		return h, err
	}
	if h.Can, err = parseCapabilities(t.Capabilities); err != nil {
		return h, err
	}
	if h.CAs, err = parseCA(t.CA); err != nil {
		return h, err
	}
	if h.Clients, err = parseClient(t.Client); err != nil {
		return h, err
	}
	if h.Extra, err = parseHeader(t.Header); err != nil {
		return h, err
	}
	if t.DialTimeout != "" {
		if h.DialTimeout, err = time.ParseDuration(t.DialTimeout); err != nil || h.DialTimeout <= 0 {
			return h, fmt.Errorf("dial_timeout: %s is not a duration such as 1s", image.Printable(t.DialTimeout))
		}
	}
	if h.Proxy, err = parseProxy(t.Proxy); err != nil {
		return h, err
	}
	h.SkipVerify = t.SkipVerify
	return h, nil
}

// parseAddress reads "https://host[:port][/path]"; without a scheme it is
// https. The API's root is the path with "/v2", or just the path.
func parseAddress(address string, override bool) (url.URL, string, error) {
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return url.URL{}, "", fmt.Errorf("%s is not a URL", redacted(address))
	}
	if u.Scheme != "https" && u.Scheme != "http" {
		return url.URL{}, "", fmt.Errorf("%s: only http and https are possible", redacted(address))
	}
	if u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return url.URL{}, "", fmt.Errorf("%s is not of the form https://host[:port][/path]", redacted(address))
	}
	root := strings.TrimSuffix(path.Clean("/"+u.Path), "/")
	if !override && !strings.HasSuffix(root, "/v2") {
		root += "/v2"
	}
	return url.URL{Scheme: u.Scheme, Host: u.Host}, root, nil
}

// redacted leaves out what may be a password.
func redacted(address string) string {
	if i := strings.LastIndex(address, "@"); i >= 0 {
		address = "…" + address[i:]
	}
	return image.Printable(address)
}

func parseCapabilities(names []string) (can capability, err error) {
	if len(names) == 0 {
		return canPull | canResolve, nil
	}
	for _, name := range names {
		switch strings.ToLower(name) {
		case "pull":
			can |= canPull
		case "resolve":
			can |= canResolve
		case "push": // nothing is pushed here
		default:
			return 0, fmt.Errorf("capabilities: %s is none of pull, resolve, push", image.Printable(name))
		}
	}
	return can, nil
}

func parseCA(value any) (files []pemFile, err error) {
	paths, err := parseStrings(value)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	for _, p := range paths {
		files = append(files, pemFile{Name: p})
	}
	return files, nil
}

func parseClient(value any) (pairs []keyPair, err error) {
	list, isList := value.([]any)
	if !isList && value != nil {
		list = []any{value}
	}
	for _, entry := range list {
		files, err := parseStrings(entry)
		_, single := entry.(string)
		if err != nil || !single && len(files) != 2 || files[0] == "" {
			return nil, errors.New("client: each must be the path of a file, or [certificate, key]")
		}
		pair := keyPair{Cert: pemFile{Name: files[0]}}
		if !single {
			pair.Key.Name = files[1]
		}
		pairs = append(pairs, pair)
	}
	return pairs, nil
}

func parseHeader(table map[string]any) (http.Header, error) {
	if len(table) == 0 {
		return nil, nil
	}
	header := http.Header{}
	for name, value := range table {
		values, err := parseStrings(value)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", image.Printable(name), err)
		}
		if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			return nil, fmt.Errorf("header %s can't be sent", image.Printable(name))
		}
		header[http.CanonicalHeaderKey(name)] = values
	}
	return header, nil
}

func parseProxy(address string) (*url.URL, error) {
	if address == "" {
		return nil, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" ||
		!slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) {
		return nil, errors.New("proxy: must be a URL such as http://proxy:3128")
	}
	return u, nil
}

// parseStrings reads a string or a list of them.
func parseStrings(value any) ([]string, error) {
	switch v := value.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		var all []string
		for _, entry := range v {
			s, ok := entry.(string)
			if !ok {
				return nil, errors.New("must be a string or a list of strings")
			}
			all = append(all, s)
		}
		return all, nil
	}
	return nil, errors.New("must be a string or a list of strings")
}

// hostOrder lists the keys of [host."…"] tables as they stand in the file.
func hostOrder(data []byte) ([]string, error) {
	var order []string
	var p unstable.Parser
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table {
			continue
		}
		var parts []string
		for it := e.Key(); it.Next(); {
			parts = append(parts, string(it.Node().Data))
		}
		if len(parts) >= 2 && parts[0] == "host" && !slices.Contains(order, parts[1]) {
			order = append(order, parts[1])
		}
	}
	return order, p.Error()
}

// explainTOML names the key that is unknown.
func explainTOML(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		row, _ := strict.Errors[0].Position()
		return fmt.Errorf("line %d: the key %s is not known", row, image.Printable(strings.Join(strict.Errors[0].Key(), ".")))
	}
	return err
}
