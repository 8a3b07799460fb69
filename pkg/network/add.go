package network

import (
	"context"
	"errors"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Add connects p to the configured network (CNI ADD). What it returns is all
// that Check and Del need, whatever becomes of the configuration.
//
// Where Add does not work, what it did is taken back before it returns; should
// that not work either, Del or GC does it later. Adding a pod again takes back
// the first time.
//
// Errors: Unavailable when there is no network or a plugin says no, Timeout
// and Canceled with the plugin killed, Precondition for a configuration that
// its plugins refuse, Corrupt for an answer that is no CNI result, Invalid for
// a pod that can't be told to plugins. The text has the plugin's own words.
func (n *Network) Add(ctx context.Context, p Pod) (*manifest.Network, error) {
	const op = "connect"
	ctx, cancel := context.WithTimeout(ctx, n.opts.Timeouts.Add)
	defer cancel()
	if err := p.validate(); err != nil {
		return nil, errs.New(op, errs.Invalid, p.describe(), err)
	}
	if !sys.IsNetNS(p.NetNS) {
		return nil, errs.New(op, errs.Precondition, p.describe(), errors.New(p.NetNS+" is not a network namespace"))
	}
	capabilities, err := p.capabilities(n.configs.podCIDRs())
	if err != nil {
		return nil, errs.Wrap(op, p.describe(), err)
	}
	c := n.configs.inForce()
	if c.list == nil {
		return nil, errs.New(op, errs.Unavailable, p.describe(), n.missing(c))
	}
	if err := acquire(ctx, n.adding); err != nil {
		return nil, errs.Wrap(op, p.describe(), err)
	}
	defer func() { <-n.adding }()
	lock, err := n.lockPod(ctx, p.ID)
	if err != nil {
		return nil, errs.Wrap(op, p.describe(), err)
	}
	defer lock.Close()
	net, err := n.add(ctx, p, c, p.attachment(c.listFor(p), capabilities))
	return net, errs.Wrap(op, p.describe(), err)
}

// add does what Add says. The caller holds a slot and the pod's lock.
func (n *Network) add(ctx context.Context, p Pod, c *config, a attachment) (*manifest.Network, error) {
	if err := n.detachRecorded(ctx, p); err != nil {
		return nil, errs.Wrap("take back an earlier attempt", "", err)
	}
	gate, err := n.gate(ctx)
	if err != nil {
		return nil, errors.Join(err, n.forget(p.ID))
	}
	defer gate.Close()
	n.mine.Store(p.ID, struct{}{})
	if err := n.writeRecord(a); err != nil {
		return nil, errors.Join(err, n.forget(p.ID))
	}
	net, err := n.attach(ctx, c, a)
	if err != nil {
		return nil, n.takeBack(ctx, a, err)
	}
	crash.Point("network.added")
	return net, nil
}

func (n *Network) attach(ctx context.Context, c *config, a attachment) (*manifest.Network, error) {
	if c.builtin != nil {
		if err := n.masquerade.ensure(ctx, c.builtin); err != nil {
			return nil, err
		}
	}
	list, rt, err := a.conf()
	if err != nil {
		return nil, err
	}
	result, err := n.cni(a.ContainerID).AddNetworkList(ctx, list, rt)
	if err != nil {
		return nil, pluginsSaid(a.Network, err)
	}
	return outcome(a, result)
}

// takeBack runs DEL after an ADD that did not work, as the CNI specification
// asks for, with time of its own.
func (n *Network) takeBack(ctx context.Context, a attachment, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.opts.Timeouts.Del)
	defer cancel()
	if err := n.detach(ctx, a); err != nil {
		return errors.Join(cause, errs.Wrap("and taking it back", "", err))
	}
	if err := n.forget(a.ContainerID); err != nil {
		return errors.Join(cause, err)
	}
	return cause
}
