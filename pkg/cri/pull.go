package cri

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
	"k8s.io/klog/v2"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/registry"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// PullImage brings an image from its registry, verified by the rules for its
// name and for the namespace of the sandbox that it is for. The same image is
// for all runtime handlers; annotations change nothing.
func (s *imageService) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	spec := r.GetImage()
	if spec.GetImage() == "" {
		return nil, invalid("image.image", "is empty")
	}
	if err := s.checkHandler("image.runtime_handler", spec.GetRuntimeHandler()); err != nil {
		return nil, err
	}
	if _, err := image.ParseDigest(spec.GetImage()); err == nil {
		return nil, invalid("image.image", "is an id, and registries know images by names")
	}
	ref, err := image.ParseRef(spec.GetImage())
	if err != nil {
		return nil, errs.Wrap("check", "image.image", err)
	}
	record, err := s.puller.PullImage(ctx, stage0.PullRequest{
		Ref: ref, Auth: translateAuth(r.GetAuth()),
		Namespace: r.GetSandboxConfig().GetMetadata().GetNamespace(),
		Progress:  logLayers(klog.FromContext(ctx).V(logSteps), ref),
	})
	if err != nil {
		return nil, pullError(ctx, err)
	}
	return &runtimeapi.PullImageResponse{ImageRef: record.ID.String()}, nil
}

// logSteps is the level at which the steps of a verb are logged.
const logSteps = 4

// logLayers logs what is done for each layer of a pull: CRI has no way to tell
// the caller. It gives nil when nobody wants to know.
func logLayers(logger klog.Logger, ref image.Ref) func(store.Progress) {
	if !logger.Enabled() {
		return nil
	}
	var mu sync.Mutex
	last := map[int]store.LayerState{}
	return func(p store.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if last[p.Layer] == p.State {
			return
		}
		last[p.Layer] = p.State
		logger.Info("layer", "image", ref.Familiar(), "number", p.Layer+1, "of", p.Layers, "digest", p.Digest, "state", p.State, "bytes", p.Total)
	}
}

func (s *imageService) checkHandler(field, name string) error {
	known := slices.ContainsFunc(s.node.Handlers(), func(h stage0.Handler) bool { return h.Name == name })
	if name != "" && !known {
		return errs.New("check", errs.NotFound, field, fmt.Errorf("%.80q is no runtime handler of this node", name))
	}
	return nil
}

// translateAuth gives nil when there is nothing to show.
func translateAuth(a *runtimeapi.AuthConfig) *registry.Auth {
	auth := &registry.Auth{
		Username: a.GetUsername(), Password: a.GetPassword(), Auth: a.GetAuth(), ServerAddress: a.GetServerAddress(),
		IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(),
	}
	if auth.Empty() {
		return nil
	}
	return auth
}

// pullError puts the words before an error that tell kubelet what to do about
// it. A registry that doesn't answer in time is unavailable; a caller that has
// no time left isn't told so.
func pullError(ctx context.Context, err error) error {
	kind := errs.KindOf(err)
	switch {
	case errors.Is(err, trust.Refused):
		return tagged{err, crierrors.ErrSignatureValidationFailed}
	case kind == errs.Unavailable, kind == errs.Timeout && ctx.Err() == nil:
		return tagged{err, crierrors.ErrRegistryUnavailable}
	}
	return err
}
