package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image/trust"
	"github.com/stagelet/stagelet/pkg/stage0"
	"github.com/stagelet/stagelet/pkg/stage1/cdi"
	"github.com/stagelet/stagelet/pkg/stage1/ocispec"
	"github.com/stagelet/stagelet/pkg/web"
)

// config is /etc/stagelet/config.yaml; docs/configuration.md has a line for
// each key. What it leaves out has the built-in value.
type config struct {
	Root   string `json:"root"`   // what outlives a boot
	Run    string `json:"run"`    // what doesn't
	Listen string `json:"listen"` // path of the CRI socket; empty: <run>/stagelet.sock

	Registry registryConfig           `json:"registry"`
	Trust    trustConfig              `json:"trust"`
	Network  networkConfig            `json:"network"`
	Cgroup   cgroupConfig             `json:"cgroup"`
	Stage1   stage1Config             `json:"stage1"`
	Handlers map[string]handlerConfig `json:"handlers"` // by RuntimeHandler name
	GC       gcConfig                 `json:"gc"`
	NRI      nriConfig                `json:"nri"`
	Ulimits  map[string]string        `json:"ulimits"` // of all apps' processes, by name: "soft:hard"
	Web      webConfig                `json:"web"`

	cdiDirs []string // by a flag alone: vendors know no other places
}

type registryConfig struct {
	CertsDir      string   `json:"certsDir"`      // <registry>/hosts.toml: mirrors, certificates
	AuthDirs      []string `json:"authDirs"`      // credentials in rkt's form, strongest first
	DockerConfigs []string `json:"dockerConfigs"` // credentials in Docker's, strongest first
}

type trustConfig struct {
	Dirs          []string `json:"dirs"`          // rules and keys, strongest first
	PolicyJSON    string   `json:"policyJSON"`    // containers-policy.json(5) instead of them; empty: none
	RegistriesDir string   `json:"registriesDir"` // containers-registries.d(5): lookasides of signatures; empty: none
}

type networkConfig struct {
	NetNSDir string   `json:"-"`       // where network namespaces are pinned; by flag alone
	ConfDir  string   `json:"confDir"` // CNI network configurations
	BinDirs  []string `json:"binDirs"` // CNI plugins; empty: the usual places
	Default  string   `json:"default"` // "bridge" or "none": without a CNI configuration
	Bridge   string   `json:"-"`       // interface of the built-in bridge; by flag alone
	CIDR     string   `json:"cidr"`    // its range, until kubelet tells one
}

type cgroupConfig struct {
	// Driver makes the cgroups of pods: "systemd", "cgroupfs" or, "auto", the
	// one of this host.
	Driver string `json:"driver"`
}

// autoDriver is systemd where that is the service manager, else cgroupfs.
const autoDriver = "auto"

// driver: check has seen that there is such a one.
func (c cgroupConfig) driver() stage0.CgroupDriver {
	if c.Driver == autoDriver {
		return stage0.HostCgroupDriver()
	}
	return stage0.CgroupDriver(c.Driver)
}

type stage1Config struct {
	Supervisor string   `json:"supervisor"` // program; empty: beside this one, or in the usual places
	Runtime    string   `json:"runtime"`    // OCI runtime of the default handler
	Args       []string `json:"args"`       // its global arguments
}

// handlerConfig is a further RuntimeHandler of the ns flavor.
type handlerConfig struct {
	Runtime string   `json:"runtime"`
	Args    []string `json:"args"`
}

type gcConfig struct {
	Grace    string `json:"grace"`    // how long an ended pod of a person is kept; a Go duration
	Interval string `json:"interval"` // how often the server cleans up; a Go duration
}

type nriConfig struct {
	Socket string `json:"socket"` // where plugins come; empty: there are none
}

type webConfig struct {
	Listen  string `json:"listen"`  // host:port; empty: there is no web page
	CertDir string `json:"certDir"` // tls.crt and tls.key; empty: no TLS, and for this host alone
}

// check finds what the page can't be served with.
func (c webConfig) check() error {
	const op, key = "check configuration", "web.listen"
	if c.Listen == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return errs.New(op, errs.Invalid, key, fmt.Errorf("%q is not an address such as 127.0.0.1:8080", c.Listen))
	}
	if c.CertDir == "" && !web.IsLoopback(host) {
		return errs.New(op, errs.Invalid, key, fmt.Errorf("%q can be reached from elsewhere: that needs TLS, and so web.certDir; or use 127.0.0.1", c.Listen))
	}
	return nil
}

const defaultConfigPath = "/etc/stagelet/config.yaml"

func defaults() config {
	return config{
		Root: "/var/lib/stagelet", Run: "/run/stagelet",
		Registry: registryConfig{
			CertsDir: "/etc/stagelet/certs.d",
			AuthDirs: []string{"/etc/stagelet/auth.d", "/usr/lib/stagelet/auth.d"},
		},
		Trust:   trustConfig{Dirs: []string{trust.LocalDir, trust.SystemDir}},
		Network: networkConfig{NetNSDir: "/run/netns", ConfDir: "/etc/cni/net.d", Default: "none"},
		Cgroup:  cgroupConfig{Driver: autoDriver},
		Stage1:  stage1Config{Runtime: "runc"},
		GC:      gcConfig{Grace: "30m", Interval: "5m"},
		NRI:     nriConfig{Socket: "/var/run/nri/nri.sock"},
		cdiDirs: cdi.DefaultDirs(),
	}
}

// load reads the file over the built-in values. Only a path that somebody
// named must exist.
func (c *config) load(path string) error {
	const op = "read configuration"
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && path == defaultConfigPath {
		return nil
	}
	if err != nil {
		return errs.Wrap(op, path, err)
	}
	if err := yaml.UnmarshalStrict(data, c); err != nil {
		return errs.New(op, errs.Invalid, path, err)
	}
	return nil
}

// check finds what can't work, before anything is begun.
func (c *config) check() error {
	const op = "check configuration"
	if err := c.checkPaths(); err != nil {
		return err
	}
	if d := c.Network.Default; d != "bridge" && d != "none" {
		return errs.New(op, errs.Invalid, "network.default", fmt.Errorf("%q is neither bridge nor none", d))
	}
	if d := c.Cgroup.Driver; d != autoDriver && d != string(stage0.CgroupFS) && d != string(stage0.Systemd) {
		return errs.New(op, errs.Invalid, "cgroup.driver", fmt.Errorf("%q is neither auto nor systemd nor cgroupfs", d))
	}
	if _, err := ocispec.ParseUlimits(c.Ulimits); err != nil {
		return errs.Wrap(op, "ulimits", err)
	}
	for name := range c.Handlers {
		if name == "" {
			return errs.New(op, errs.Invalid, "handlers", errors.New("the default handler is configured under stage1"))
		}
	}
	if err := c.Web.check(); err != nil {
		return err
	}
	for key, text := range map[string]string{"gc.grace": c.GC.Grace, "gc.interval": c.GC.Interval} {
		if d, err := time.ParseDuration(text); err != nil || d <= 0 {
			return errs.New(op, errs.Invalid, key, fmt.Errorf("%q is not a duration such as 30m", text))
		}
	}
	return nil
}

func (c *config) checkPaths() error {
	for key, paths := range map[string][]string{
		"root": {c.Root}, "run": {c.Run}, "listen": {c.socket()}, "--netns-dir": {c.Network.NetNSDir}, "network.confDir": {c.Network.ConfDir},
		"registry.authDirs": c.Registry.AuthDirs, "registry.dockerConfigs": c.Registry.DockerConfigs, "trust.dirs": c.Trust.Dirs,
		"registry.certsDir": set(c.Registry.CertsDir), "trust.policyJSON": set(c.Trust.PolicyJSON), "trust.registriesDir": set(c.Trust.RegistriesDir),
		"nri.socket": set(c.NRI.Socket), "web.certDir": set(c.Web.CertDir),
	} {
		for _, path := range paths {
			if !filepath.IsAbs(path) {
				return errs.New("check configuration", errs.Invalid, key, fmt.Errorf("%q is not an absolute path", path))
			}
		}
	}
	return nil
}

// set gives path as a list, of nothing when it is empty.
func set(path string) []string {
	if path == "" {
		return nil
	}
	return []string{path}
}

func (c *config) socket() string {
	if c.Listen != "" {
		return c.Listen
	}
	return filepath.Join(c.Run, "stagelet.sock")
}

// grace and interval: check has seen that they parse.
func (c *config) grace() time.Duration    { d, _ := time.ParseDuration(c.GC.Grace); return d }
func (c *config) interval() time.Duration { d, _ := time.ParseDuration(c.GC.Interval); return d }

// settings is the configuration as the command line gives it: a file, and
// flags that are stronger.
type settings struct {
	file  string
	flags config
	set   *pflag.FlagSet
}

// register declares the flags that every command has.
func (s *settings) register(set *pflag.FlagSet) {
	d := defaults()
	s.set = set
	set.StringVar(&s.file, "config", defaultConfigPath, "configuration file")
	set.StringVar(&s.flags.Root, "root", d.Root, "directory for what outlives a boot: images and pods")
	set.StringVar(&s.flags.Run, "run", d.Run, "directory for what doesn't: sockets and run-time state")
	set.StringVar(&s.flags.Listen, "listen", "", "path of the CRI socket (default <run>/stagelet.sock)")
	set.StringVar(&s.flags.Registry.CertsDir, "certs-dir", d.Registry.CertsDir, "directory of registries' hosts.toml: mirrors and certificates")
	set.StringSliceVar(&s.flags.Registry.AuthDirs, "auth-dir", d.Registry.AuthDirs, "directory of credentials; may be repeated, the strongest first")
	set.StringSliceVar(&s.flags.Registry.DockerConfigs, "docker-config", nil, "file of credentials in the form of Docker's config.json; may be repeated, the strongest first")
	set.StringSliceVar(&s.flags.Trust.Dirs, "trust-dir", d.Trust.Dirs, "directory of keys and rules for images; may be repeated, the strongest first")
	set.StringVar(&s.flags.Trust.PolicyJSON, "policy-json", "", "containers-policy.json(5) that decides on images instead of --trust-dir")
	set.StringVar(&s.flags.Trust.RegistriesDir, "registries-dir", "", "containers-registries.d(5): where GPG signatures of registries' images are")
	set.StringVar(&s.flags.Network.NetNSDir, "netns-dir", d.Network.NetNSDir, "directory in which network namespaces are pinned")
	set.StringVar(&s.flags.Network.ConfDir, "cni-conf-dir", d.Network.ConfDir, "directory of CNI network configurations")
	set.StringSliceVar(&s.flags.Network.BinDirs, "cni-bin-dir", nil, "directory of CNI plugins; may be repeated (default: the usual places)")
	set.StringVar(&s.flags.Network.Default, "network-default", d.Network.Default, "network of pods where no CNI configuration exists: bridge or none")
	set.StringVar(&s.flags.Network.Bridge, "network-bridge", "", "interface of the built-in bridge")
	set.StringVar(&s.flags.Network.CIDR, "network-cidr", "", "address range of the built-in bridge, until kubelet tells one")
	set.StringVar(&s.flags.Cgroup.Driver, "cgroup-driver", d.Cgroup.Driver, "who makes the cgroups of pods: systemd, cgroupfs, or auto for the one of this host")
	set.StringVar(&s.flags.Stage1.Supervisor, "supervisor", "", "supervisor program (default: stagelet-stage1 beside this program, or in /usr/libexec/stagelet)")
	set.StringVar(&s.flags.NRI.Socket, "nri-socket", d.NRI.Socket, "path of the socket for NRI plugins; empty: no plugins")
	set.StringVar(&s.flags.Web.Listen, "web-listen", "", "host and port of the web page; empty: there is none")
	set.StringVar(&s.flags.Web.CertDir, "web-cert-dir", "", "directory of tls.crt and tls.key for the web page, which is then for other hosts too")
	set.StringSliceVar(&s.flags.cdiDirs, "cdi-dir", d.cdiDirs, "directory of descriptions of CDI devices; may be repeated, the weakest first")
	set.StringVar(&s.flags.Stage1.Runtime, "runtime", d.Stage1.Runtime, "OCI runtime of the default handler")
}

// config gives the built-in values, under the file's, under the flags'.
func (s *settings) config() (*config, error) {
	c := defaults()
	if err := c.load(s.file); err != nil {
		return nil, err
	}
	flags := s.flags
	for name, set := range map[string]func(){
		"root":            func() { c.Root = flags.Root },
		"run":             func() { c.Run = flags.Run },
		"listen":          func() { c.Listen = flags.Listen },
		"certs-dir":       func() { c.Registry.CertsDir = flags.Registry.CertsDir },
		"auth-dir":        func() { c.Registry.AuthDirs = flags.Registry.AuthDirs },
		"docker-config":   func() { c.Registry.DockerConfigs = flags.Registry.DockerConfigs },
		"trust-dir":       func() { c.Trust.Dirs = flags.Trust.Dirs },
		"policy-json":     func() { c.Trust.PolicyJSON = flags.Trust.PolicyJSON },
		"registries-dir":  func() { c.Trust.RegistriesDir = flags.Trust.RegistriesDir },
		"netns-dir":       func() { c.Network.NetNSDir = flags.Network.NetNSDir },
		"cni-conf-dir":    func() { c.Network.ConfDir = flags.Network.ConfDir },
		"cni-bin-dir":     func() { c.Network.BinDirs = flags.Network.BinDirs },
		"network-default": func() { c.Network.Default = flags.Network.Default },
		"network-bridge":  func() { c.Network.Bridge = flags.Network.Bridge },
		"network-cidr":    func() { c.Network.CIDR = flags.Network.CIDR },
		"cgroup-driver":   func() { c.Cgroup.Driver = flags.Cgroup.Driver },
		"supervisor":      func() { c.Stage1.Supervisor = flags.Stage1.Supervisor },
		"nri-socket":      func() { c.NRI.Socket = flags.NRI.Socket },
		"web-listen":      func() { c.Web.Listen = flags.Web.Listen },
		"web-cert-dir":    func() { c.Web.CertDir = flags.Web.CertDir },
		"cdi-dir":         func() { c.cdiDirs = flags.cdiDirs },
		"runtime":         func() { c.Stage1.Runtime = flags.Stage1.Runtime },
	} {
		if s.set.Changed(name) {
			set()
		}
	}
	return &c, c.check()
}
