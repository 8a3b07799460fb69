// Package network connects pods to networks through CNI plugins.
//
// It is the only importer of libcni. What it does to the host is written down
// before it is done, so that whatever a crash interrupts can be taken back:
// see record.go. A pod on the host's network never comes here.
//
// Locks, in the order in which they are taken: a slot, the pod's lock, the
// gate (shared by Add, whole for the GC verb). configs.mu is a leaf, and no
// plugin runs under it.
package network

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Interface is the name of a pod's interface inside of it (CNI_IFNAME), as
// every Kubernetes runtime has it.
const Interface = "eth0"

// DefaultBridge as Options.Default asks for the built-in bridge network.
const DefaultBridge = "bridge"

// Options says where things are. Empty fields have the usual values.
type Options struct {
	ConfDir string   // network configurations; /etc/cni/net.d
	BinDirs []string // plugins, searched in order; DefaultBinDirs
	// CacheDir holds what is needed to take pods off their networks. It must
	// outlive a reboot, and belongs to one instance alone. Required.
	CacheDir string
	// Default is what pods get while ConfDir has no configuration: nothing
	// when empty, a bridge of this host when DefaultBridge.
	Default  string
	Bridge   Bridge
	Parallel int // bound of plugin chains that run at once, for adding and for deleting each
	Timeouts Timeouts
}

// Bridge shapes the built-in network.
type Bridge struct {
	Name string // of the interface, at most 9 bytes; stagelet0
	// CIDR is the pods' range as long as SetPodCIDR gave none, one per IP
	// family, separated by commas; empty: the first of a few private ranges
	// that overlaps with no route of the host.
	CIDR string
}

// Timeouts bound whole plugin chains; the caller's context may end sooner.
type Timeouts struct{ Add, Del, Check, Status, GC time.Duration }

// DefaultBinDirs are where plugins lie: the CNI convention, Debian, Fedora.
func DefaultBinDirs() []string { return []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"} }

// defaultTimeouts leave kubelet's RunPodSandbox (4 minutes) room for one Add
// and the Del that follows when it did not work.
func defaultTimeouts() Timeouts {
	return Timeouts{Add: 2 * time.Minute, Del: time.Minute, Check: 30 * time.Second, Status: 5 * time.Second, GC: time.Minute}
}

// Pod is what plugins are told of a pod.
type Pod struct {
	ID        string // CNI_CONTAINERID
	Name      string
	Namespace string
	UID       string
	NetNS     string // path of the pinned network namespace
	// Hostname is an alias of the pod besides its name, where the network
	// has such.
	Hostname     string
	Ports        []manifest.PortMapping
	DNS          *manifest.DNS
	Annotations  map[string]string
	CgroupParent string
}

// Network adds pods to the network that is configured on this host.
// All methods can be called at any time from any goroutine. Plugins run in
// the network namespace of the calling thread, which must be the host's.
type Network struct {
	opts    Options
	configs *configs

	adding, deleting chan struct{} // slots
	mine             sync.Map      // pod ids whose plugins this process itself ran
	masquerade       masquerade
	status           prober

	stop  context.CancelFunc
	tasks sync.WaitGroup
	ctx   context.Context //nolint:containedctx // ends with Close; of the background work, which no caller waits for
}

// New reads the configuration and watches it until Close. That no network is
// configured is no error: Ready tells. errs.Invalid for options that can't
// work.
func New(opts Options) (*Network, error) {
	const op = "set up networking"
	if err := opts.complete(); err != nil {
		return nil, errs.New(op, errs.Invalid, "", err)
	}
	n := &Network{
		opts:     opts,
		adding:   make(chan struct{}, opts.Parallel),
		deleting: make(chan struct{}, opts.Parallel),
	}
	err := n.makeDirs()
	if err == nil {
		n.configs, err = openConfigs(opts)
	}
	if err != nil {
		return nil, errs.Wrap(op, opts.CacheDir, err)
	}
	n.ctx, n.stop = context.WithCancel(context.Background())
	armed := n.configs.arm(nil)
	settled := n.configs.load()
	n.tasks.Go(func() { n.configs.watch(n.ctx, armed, settled) })
	return n, nil
}

// Close ends the watching. It waits for STATUS probes, not for other calls.
func (n *Network) Close() error {
	n.status.mu.Lock() // no probe begins after this
	n.stop()
	n.status.mu.Unlock()
	n.tasks.Wait()
	return n.configs.close()
}

func (o *Options) complete() error {
	if o.ConfDir == "" {
		o.ConfDir = "/etc/cni/net.d"
	}
	if len(o.BinDirs) == 0 {
		o.BinDirs = DefaultBinDirs()
	}
	if o.Bridge.Name == "" {
		o.Bridge.Name = "stagelet0"
	}
	if o.Parallel <= 0 {
		o.Parallel = max(8, 2*runtime.NumCPU())
	}
	o.Timeouts.complete()
	o.ConfDir = filepath.Clean(o.ConfDir)
	switch {
	case !filepath.IsAbs(o.CacheDir):
		return fmt.Errorf("the network cache directory %q is not an absolute path", o.CacheDir)
	case !filepath.IsAbs(o.ConfDir):
		return fmt.Errorf("the network configuration directory %q is not an absolute path", o.ConfDir)
	case o.Default != "" && o.Default != DefaultBridge:
		return fmt.Errorf("the default network %q is not known: leave it empty or say %q", o.Default, DefaultBridge)
	case len(o.Bridge.Name) > maxBridgeName || !validInterface(o.Bridge.Name):
		return fmt.Errorf("the bridge name %q is not an interface name of at most %d bytes", o.Bridge.Name, maxBridgeName)
	}
	_, err := parseCIDRs(o.Bridge.CIDR)
	return err
}

func (t *Timeouts) complete() {
	d := defaultTimeouts()
	for _, p := range []struct{ have, want *time.Duration }{
		{&t.Add, &d.Add}, {&t.Del, &d.Del}, {&t.Check, &d.Check}, {&t.Status, &d.Status}, {&t.GC, &d.GC},
	} {
		if *p.have <= 0 {
			*p.have = *p.want
		}
	}
}

// acquire takes a slot; the caller gives it back by receiving from slots.
func acquire(ctx context.Context, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errs.New("wait for other plugins to end", errs.KindOf(ctx.Err()), "", ctx.Err())
	}
}

// describe names a pod in errors.
func (p Pod) describe() string {
	id := p.ID
	if len(id) > 13 {
		id = id[:13]
	}
	if p.Name == "" {
		return "pod " + id
	}
	if p.Namespace == "" {
		return fmt.Sprintf("pod %s (%s)", p.Name, id)
	}
	return fmt.Sprintf("pod %s/%s (%s)", p.Namespace, p.Name, id)
}

// pluginsSaid makes an error of libcni one of ours: the plugin's own words,
// of the kind that they are.
func pluginsSaid(network string, err error) error {
	if err == nil {
		return nil
	}
	var plugin *pluginError
	if errors.As(err, &plugin) {
		return errs.New("network", plugin.kind, network, plugin)
	}
	kind := errs.KindOf(err)
	if kind == errs.Internal { // libcni's own: an unusable answer or configuration
		kind = errs.Unavailable
	}
	return errs.New("network", kind, network, err)
}
