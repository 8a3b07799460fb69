package network

import (
	"context"
	"errors"

	"github.com/containernetworking/cni/libcni"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Check asks the plugins whether p is on its networks as Add left it (CNI
// CHECK). Where the configuration is older than CHECK (before 0.4.0) or
// disables it, only the namespace is looked at.
//
// Errors: NotFound when the namespace is gone; else as of Add.
func (n *Network) Check(ctx context.Context, p Pod, net *manifest.Network) error {
	const op = "check network of"
	ctx, cancel := context.WithTimeout(ctx, n.opts.Timeouts.Check)
	defer cancel()
	if err := p.validate(); err != nil {
		return errs.New(op, errs.Invalid, p.describe(), err)
	}
	if net == nil || len(net.Attachments) == 0 {
		return errs.New(op, errs.Precondition, p.describe(), errors.New("the pod is on no network"))
	}
	if !sys.IsNetNS(net.NetNS) {
		return errs.New(op, errs.NotFound, p.describe(), errors.New(net.NetNS+" is gone"))
	}
	if err := acquire(ctx, n.adding); err != nil {
		return errs.Wrap(op, p.describe(), err)
	}
	defer func() { <-n.adding }()
	lock, err := n.lockPod(ctx, p.ID)
	if err != nil {
		return errs.Wrap(op, p.describe(), err)
	}
	defer lock.Close()
	for _, a := range p.attached(net) {
		if err := n.check(ctx, a); err != nil {
			return errs.Wrap(op, p.describe(), err)
		}
	}
	return nil
}

func (n *Network) check(ctx context.Context, a attachment) error {
	list, rt, err := a.conf()
	if err != nil {
		return err
	}
	if err := n.restoreCache(a); err != nil {
		return err
	}
	err = n.cni(a.ContainerID).CheckNetworkList(ctx, list, rt)
	if errors.Is(err, libcni.ErrorCheckNotSupp) {
		return nil
	}
	return pluginsSaid(a.Network, err)
}
