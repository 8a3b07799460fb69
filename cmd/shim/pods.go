package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// withNode gives work the engine as configured.
func withNode(s *settings, work func(*config, *node) error) error {
	config, err := s.config()
	if err != nil {
		return err
	}
	n, err := openNode(config)
	if err != nil {
		return err
	}
	return errors.Join(work(config, n), n.close())
}

// withPods gives work the engine with all pods as they are now, whether a
// server runs or not.
func withPods(ctx context.Context, s *settings, work func(*node) error) error {
	return withNode(s, func(_ *config, n *node) error {
		if err := n.engine.Look(ctx); err != nil {
			return err
		}
		return work(n)
	})
}

// pods gives all of them, oldest first.
func (n *node) pods() []*pod.Snapshot {
	all := append(n.engine.Pods(manifest.CreatorCLI), n.engine.Pods(manifest.CreatorCRI)...)
	slices.SortFunc(all, func(a, b *pod.Snapshot) int { return cmp.Compare(a.Pod.CreatedAt, b.Pod.CreatedAt) })
	return all
}

// pod finds a pod by its id, a beginning of it that no other pod has, or its
// name. What could mean several is errs.Invalid, with the candidates: names of
// kubelet's pods are anybody's choice, and may look like ids.
func (n *node) pod(ref string) (*pod.Snapshot, error) {
	byID, err := n.engine.Pod(ref)
	if err == nil && byID.Pod.ID == ref || errors.Is(err, errs.Invalid) {
		return byID, err
	}
	found := slices.DeleteFunc(n.pods(), func(p *pod.Snapshot) bool { return p.Pod.Name != ref && p != byID })
	switch len(found) {
	case 0:
		return nil, err
	case 1:
		return found[0], nil
	}
	var candidates []string
	for _, p := range found {
		candidates = append(candidates, fmt.Sprintf("%s (%s, %s)", p.Pod.ID[:shortID], p.Pod.Name, p.State))
	}
	return nil, errs.New("find pod", errs.Invalid, fmt.Sprintf("%.80q", ref), errors.New("it could be "+strings.Join(candidates, ", ")))
}

// podArgs are the pods that a command is for: its arguments, and the contents
// of files.
type podArgs struct{ files []string }

func (p *podArgs) register(c *cobra.Command) {
	c.Flags().StringSliceVar(&p.files, "uuid-file", nil, "file that holds the id of a pod, as run --uuid-file-save writes it; may be repeated")
}

// ids gives the ids, or beginnings of ids, in the order of the command line.
func (p *podArgs) ids(args []string) ([]string, error) {
	const op = "read pod id"
	ids := args
	for _, file := range p.files {
		data, err := readAll(os.Stdin, file)
		if err != nil {
			return nil, err
		}
		id := strings.TrimSpace(string(data))
		if err := pod.CheckID(id); err != nil {
			return nil, errs.Wrap(op, file, err)
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil, errs.New(op, errs.Invalid, "", errors.New("no pod is named: give its name or the beginning of its id, as list shows them, or --uuid-file"))
	}
	return ids, nil
}

// eachPod does work for every pod that is named, and tells its id once it is
// done. What goes wrong with one doesn't keep the others.
func (p *podArgs) eachPod(c *cobra.Command, s *settings, args []string, work func(*node, *pod.Snapshot) error) error {
	ids, err := p.ids(args)
	if err != nil {
		return err
	}
	return withPods(c.Context(), s, func(n *node) error {
		var all []error
		for _, id := range ids {
			found, err := n.pod(id)
			if err == nil {
				err = work(n, found)
			}
			if err == nil {
				fmt.Fprintln(c.OutOrStdout(), found.Pod.ID)
			}
			all = append(all, err)
		}
		return errors.Join(all...)
	})
}
