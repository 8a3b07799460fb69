package network

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/stagelet/stagelet/internal/errs"
)

// statusAge is how old a plugin's answer to STATUS may be before it is asked
// again, when somebody wants to know.
const statusAge = 10 * time.Second

// Info describes the network for people.
type Info struct {
	Network string   // name; empty: none
	Source  string   // the file it came from; empty: built in
	CNI     string   // cniVersion of the configuration
	Plugins []string // types, in the order in which ADD runs them
	PodCIDR string   // as SetPodCIDR gave it
	// Skipped are the files of the configuration directory that come before
	// Source and can't be used: "file: why".
	Skipped []string
}

// Info tells what pods would be added to now.
func (n *Network) Info() Info {
	c := n.configs.current.Load()
	info := Info{Source: c.source, Skipped: c.skipped, PodCIDR: strings.Join(n.configs.podCIDRs(), ",")}
	if c.list == nil {
		return info
	}
	info.Network, info.CNI = c.list.Name, c.list.CNIVersion
	for _, p := range c.list.Plugins {
		info.Plugins = append(info.Plugins, p.Network.Type)
	}
	return info
}

// Ready is nil when a pod can be added now. Otherwise it says why not and what
// to do about it; its kind is errs.Unavailable. It never waits: what plugins
// say of themselves (CNI STATUS, from version 1.1 on) is asked in the
// background.
func (n *Network) Ready() error {
	const op = "network is not ready"
	n.configs.pokeIfStale()
	c := n.configs.current.Load()
	if c.list == nil {
		return errs.New(op, errs.Unavailable, "", n.missing(c))
	}
	for _, p := range c.list.Plugins {
		if _, err := (&runner{}).FindInPath(p.Network.Type, n.opts.BinDirs); err != nil {
			return errs.New(op, errs.Unavailable, "network "+c.list.Name, err)
		}
	}
	if c.builtin != nil {
		if _, err := lookPath("iptables"); err != nil {
			return errs.New(op, errs.Unavailable, "network "+c.list.Name, errors.New("iptables is needed; install it"))
		}
	}
	asks, err := version.GreaterThanOrEqualTo(c.list.CNIVersion, "1.1.0")
	if err != nil {
		return errs.New(op, errs.Invalid, "network "+c.list.Name, err)
	}
	if !asks {
		return nil
	}
	if err := n.status.answer(n, c); err != nil {
		return errs.New(op, errs.Unavailable, "network "+c.list.Name, err)
	}
	return nil
}

// ErrNoConfiguration is why nothing can be connected where there is no network
// for pods, and the built-in one isn't wanted.
var ErrNoConfiguration = errors.New("no usable configuration")

// missing says why there is no network, and the next step of who administers
// the host.
func (n *Network) missing(c *config) error {
	text := "in " + n.opts.ConfDir
	if len(c.skipped) > 0 {
		text += " (" + strings.Join(c.skipped, "; ") + ")"
	}
	if c.problem != "" {
		text += ": " + c.problem
	}
	if n.opts.Default == "" {
		return fmt.Errorf("%w %s; install a network add-on, or set network.default to bridge", ErrNoConfiguration, text)
	}
	return fmt.Errorf("no usable configuration %s; install a network add-on, or correct what is there", text)
}

// prober remembers what the plugins of one configuration say of themselves.
type prober struct {
	mu      sync.Mutex
	subject *config
	asked   time.Time
	running bool
	known   bool
	err     error
}

// answer gives the last answer for c, and sees to a new one when it is old.
func (p *prober) answer(n *Network, c *config) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.subject != c {
		p.subject, p.known, p.asked = c, false, time.Time{}
	}
	if !p.running && time.Since(p.asked) > statusAge && n.ctx.Err() == nil {
		p.running, p.asked = true, time.Now()
		n.tasks.Go(func() { p.ask(n, c) })
	}
	if !p.known {
		return errors.New("its plugins have not answered STATUS yet; wait a moment")
	}
	return p.err
}

func (p *prober) ask(n *Network, c *config) {
	ctx, cancel := context.WithTimeout(n.ctx, n.opts.Timeouts.Status)
	defer cancel()
	err := libcni.NewCNIConfig(n.opts.BinDirs, &runner{}).GetStatusNetworkList(ctx, c.list)
	if err != nil {
		err = statusError(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = false
	if p.subject == c {
		p.known, p.err = true, err
	}
}

// statusError explains the codes that the CNI specification has for STATUS.
func statusError(err error) error {
	var plugin *pluginError
	if !errors.As(err, &plugin) {
		return err
	}
	switch plugin.code {
	case 50:
		return fmt.Errorf("%w (it can't add pods now)", plugin)
	case 51:
		return fmt.Errorf("%w (it can't add pods now, and running ones may be cut off)", plugin)
	}
	return plugin
}
