package network

import (
	"context"
	"errors"
	"os"
	"slices"

	"github.com/containernetworking/cni/libcni"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Del takes p off its networks (CNI DEL): those in net, as Add returned it,
// or with a nil net those that Add began with. It tolerates all that is gone:
// the namespace, the cache, the configuration, the pod itself, and an earlier
// Del that did its work.
//
// It is an error when a plugin says no or is not there; Del may then be tried
// again, or Forget be called.
func (n *Network) Del(ctx context.Context, p Pod, net *manifest.Network) error {
	const op = "disconnect"
	ctx, cancel := context.WithTimeout(ctx, n.opts.Timeouts.Del)
	defer cancel()
	return n.lockedForDel(ctx, op, p, net, func() error {
		if net == nil {
			if err := n.detachRecorded(ctx, p); err != nil {
				return err
			}
			return n.forget(p.ID)
		}
		if err := n.awaitOrphans(ctx, p.ID); err != nil {
			return err
		}
		for _, a := range slices.Backward(p.attached(net)) {
			if err := n.detach(ctx, a); err != nil {
				return err
			}
		}
		return n.forget(p.ID)
	})
}

// Forget is Del by force: it asks each plugin that is there, whatever the
// others say, and drops what is kept of the pod. The error tells what plugins
// may have left behind.
func (n *Network) Forget(ctx context.Context, p Pod, net *manifest.Network) error {
	const op = "disconnect by force"
	ctx, cancel := context.WithTimeout(ctx, n.opts.Timeouts.Del)
	defer cancel()
	return n.lockedForDel(ctx, op, p, net, func() error {
		all, err := n.readRecord(p)
		if net != nil {
			all, err = p.attached(net), nil
		}
		problems := []error{err, n.awaitOrphans(ctx, p.ID)}
		for _, a := range slices.Backward(all) {
			problems = append(problems, n.detachEach(ctx, a))
		}
		return errors.Join(append(problems, n.forget(p.ID))...)
	})
}

// lockedForDel runs fn with a slot and the pod's lock, when there is anything
// to take back.
func (n *Network) lockedForDel(ctx context.Context, op string, p Pod, net *manifest.Network, fn func() error) error {
	if err := p.validate(); err != nil {
		return errs.New(op, errs.Invalid, p.describe(), err)
	}
	if _, err := os.Lstat(n.podDir(p.ID)); net == nil && errors.Is(err, os.ErrNotExist) {
		return nil // never added, or deleted already
	}
	if err := acquire(ctx, n.deleting); err != nil {
		return errs.Wrap(op, p.describe(), err)
	}
	defer func() { <-n.deleting }()
	lock, err := n.lockPod(ctx, p.ID)
	if err != nil {
		return errs.Wrap(op, p.describe(), err)
	}
	defer lock.Close()
	return errs.Wrap(op, p.describe(), fn())
}

// detachRecorded takes back what the record of a pod says. The caller holds
// the pod's lock.
func (n *Network) detachRecorded(ctx context.Context, p Pod) error {
	all, err := n.readRecord(p)
	if err != nil || len(all) == 0 {
		return err
	}
	if err := n.awaitOrphans(ctx, p.ID); err != nil {
		return err
	}
	for _, a := range all {
		if err := n.detach(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// detach runs DEL for one attachment.
func (n *Network) detach(ctx context.Context, a attachment) error {
	list, rt, err := n.forDel(a)
	if err != nil {
		return err
	}
	crash.Point("network.del")
	if err := n.cni(a.ContainerID).DelNetworkList(ctx, list, rt); err != nil {
		return pluginsSaid(a.Network, err)
	}
	crash.Point("network.deleted")
	return nil
}

// detachEach runs DEL of one plugin after the other, and goes on when one
// does not work.
func (n *Network) detachEach(ctx context.Context, a attachment) error {
	var problems []error
	list, rt, err := n.forDel(a)
	if err != nil {
		return err
	}
	for _, plugin := range slices.Backward(list.Plugins) {
		one := *list
		one.Plugins = []*libcni.PluginConfig{plugin}
		err := n.cni(a.ContainerID).DelNetworkList(ctx, &one, rt) // drops the cache when it works
		problems = append(problems, pluginsSaid(a.Network, err), n.restoreCache(a))
	}
	return errors.Join(problems...)
}

// forDel prepares DEL. A namespace that is gone is no argument: the CNI
// specification has plugins release all that they can without it.
func (n *Network) forDel(a attachment) (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	list, rt, err := a.conf()
	if err != nil {
		return nil, nil, err
	}
	if !sys.IsNetNS(rt.NetNS) {
		rt.NetNS = ""
	}
	return list, rt, n.restoreCache(a)
}
