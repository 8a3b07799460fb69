package network

import (
	"context"
	"errors"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/stagelet/stagelet/internal/errs"
)

// GC takes every pod off its network that is not among the ids that live
// gives, and then has plugins drop what they keep for pods that are no more
// (CNI GC, from version 1.1 on, where the configuration does not disable it).
//
// live is asked again under the lock of each pod that is about to go, and must
// know a pod from before Add is called for it. GC goes on when one pod's
// plugins say no, and tells of all. Where live can't say, nothing is done.
func (n *Network) GC(ctx context.Context, live func() ([]string, error)) error {
	const op = "collect network garbage"
	ids, err := n.known()
	if err != nil {
		return errs.Wrap(op, n.attachmentsDir(), err)
	}
	keep, err := live()
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	var problems []error
	for _, id := range ids {
		if !slices.Contains(keep, id) && ctx.Err() == nil {
			problems = append(problems, n.collect(ctx, Pod{ID: id}, live))
		}
	}
	problems = append(problems, n.gcVerb(ctx, live))
	if err := errors.Join(problems...); err != nil {
		return errs.Wrap(op, "", err)
	}
	return nil
}

// collect is Del for a pod of which only the record is left.
func (n *Network) collect(ctx context.Context, p Pod, live func() ([]string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, n.opts.Timeouts.Del)
	defer cancel()
	return n.lockedForDel(ctx, "collect network of", p, nil, func() error {
		keep, err := live()
		if err != nil || slices.Contains(keep, p.ID) {
			return err
		}
		if err := n.detachRecorded(ctx, p); err != nil {
			return err
		}
		return n.forget(p.ID)
	})
}

// gcVerb tells the plugins in force which attachments are left: those of live
// pods, and those with a record, which is written before ADD. The gate keeps
// new ones out. When a pod is being added now, the next collection does it.
func (n *Network) gcVerb(ctx context.Context, live func() ([]string, error)) error {
	c := n.configs.current.Load()
	if c.list == nil || c.list.DisableGC {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, n.opts.Timeouts.GC)
	defer cancel()
	gate, err := n.wholeGate()
	if err != nil || gate == nil {
		return err
	}
	defer gate.Close()
	ids, err := n.known()
	if err != nil {
		return err
	}
	more, err := live()
	if err != nil {
		return err
	}
	ids = append(ids, more...)
	slices.Sort(ids)
	valid := []types.GCAttachment{}
	for _, id := range slices.Compact(ids) {
		valid = append(valid, types.GCAttachment{ContainerID: id, IfName: Interface})
	}
	// CacheDir has no cache of libcni's, so it does no more than run the verb.
	cni := libcni.NewCNIConfigWithCacheDir(n.opts.BinDirs, n.opts.CacheDir, &runner{})
	err = cni.GCNetworkList(ctx, c.list, &libcni.GCArgs{ValidAttachments: valid})
	return pluginsSaid(c.list.Name, err)
}
