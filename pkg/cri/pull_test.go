package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2/ktesting"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/registry"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
	"github.com/stagelet/stagelet/pkg/stage0"
)

func TestPullImage(t *testing.T) {
	n := newNode()
	c := serve(t, n)
	r, err := c.PullImage(t.Context(), &runtimeapi.PullImageRequest{
		Image:         &runtimeapi.ImageSpec{Image: "busybox", Annotations: map[string]string{"a": "b"}},
		Auth:          &runtimeapi.AuthConfig{Username: "u", Password: "p", ServerAddress: "https://docker.io"},
		SandboxConfig: podConfig("a"),
	})
	if err != nil || r.GetImageRef() != imageID {
		t.Fatalf("%v, %v", r, err)
	}
	got := n.pulls[0]
	if got.Ref.String() != imageName || got.Namespace != "default" || *got.Auth != (registry.Auth{Username: "u", Password: "p", ServerAddress: "https://docker.io"}) {
		t.Errorf("%+v", got)
	}
	if _, err := c.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "busybox", RuntimeHandler: "old"}, Auth: &runtimeapi.AuthConfig{}}); err != nil {
		t.Error(err)
	}
	if n.pulls[1].Auth != nil {
		t.Errorf("%+v", n.pulls[1])
	}
	for _, bad := range []struct {
		spec *runtimeapi.ImageSpec
		code codes.Code
	}{
		{nil, codes.InvalidArgument},
		{&runtimeapi.ImageSpec{Image: "Not A Name"}, codes.InvalidArgument},
		{&runtimeapi.ImageSpec{Image: imageID}, codes.InvalidArgument},
		{&runtimeapi.ImageSpec{Image: "busybox", RuntimeHandler: "unknown"}, codes.NotFound},
	} {
		if _, err := c.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: bad.spec}); status.Code(err) != bad.code {
			t.Errorf("%v: %v", bad.spec, err)
		}
	}
}

func TestLayersOfAPullAreLogged(t *testing.T) {
	logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.Verbosity(logSteps), ktesting.BufferLogs(true)))
	ref, err := image.ParseRef("busybox")
	if err != nil {
		t.Fatal(err)
	}
	tell := logLayers(logger.V(logSteps), ref)
	for _, state := range []store.LayerState{store.LayerWaiting, store.LayerFetching, store.LayerFetching, store.LayerDone} {
		for layer := range 2 {
			tell(store.Progress{Layer: layer, Layers: 2, Digest: "sha256:abc", State: state, Total: 1234})
		}
	}
	lines := logger.GetSink().(ktesting.Underlier).GetBuffer().String()
	if n := strings.Count(lines, "\n"); n != 6 || strings.Count(lines, `state="fetching"`) != 2 || !strings.Contains(lines, "number=2") {
		t.Errorf("%d lines:\n%s", n, lines)
	}
	if quiet := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.Verbosity(logSteps-1))); logLayers(quiet.V(logSteps), ref) != nil {
		t.Error("progress is counted for nobody")
	}
}

// TestPullErrors: kubelet decides by the beginning of the text, and sees it
// only when the code is Unknown.
func TestPullErrors(t *testing.T) {
	for _, test := range []struct {
		err    error
		code   codes.Code
		prefix string
	}{
		{errs.New("verify image", errs.Denied, "x", fmt.Errorf("%w: unsigned", trust.Refused)), codes.Unknown, "SignatureValidationFailed: "},
		{errs.New("fetch signatures", errs.Unavailable, "x", trust.Unreachable), codes.Unknown, "RegistryUnavailable: "},
		{errs.New("ask registry", errs.Unavailable, "x", nil), codes.Unknown, "RegistryUnavailable: "},
		{errs.New("ask registry", errs.Timeout, "x", nil), codes.Unknown, "RegistryUnavailable: "},
		{errs.New("ask registry", errs.Denied, "x", nil), codes.PermissionDenied, "ask registry"},
		{errs.New("ask registry", errs.NotFound, "x", nil), codes.NotFound, "ask registry"},
		{image.Refuse("unpack layer", image.Mismatch, "x", ""), codes.DataLoss, "unpack layer"},
		{errs.New("take in image", errs.Exhausted, "x", nil), codes.ResourceExhausted, "take in image"},
	} {
		n := newNode()
		n.fail = test.err
		_, err := serve(t, n).PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "busybox"}})
		if got := status.Convert(err); got.Code() != test.code || !strings.HasPrefix(got.Message(), test.prefix) {
			t.Errorf("%v: got %v", test.err, err)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := pullError(ended, errs.New("x", errs.Timeout, "", nil)); strings.HasPrefix(err.Error(), "Registry") {
		t.Errorf("got %v", err)
	}
}

func TestErrorsOfImagesInCreateContainer(t *testing.T) {
	for _, test := range []struct {
		err    error
		prefix string
	}{
		{errs.New("verify image", errs.Denied, "x", trust.Refused), "SignatureValidationFailed: "},
		{errs.New("use image volume", errs.NotFound, "/a", errors.Join(stage0.ImageVolume, errs.NotFound)), "ImageVolumeMountFailed: "},
		{errs.New("use image volume", errs.Denied, "/a", errors.Join(stage0.ImageVolume, trust.Refused)), "ImageVolumeMountFailed: "},
	} {
		n := newNode()
		n.addImage()
		c := serve(t, n)
		pod := addPod(t, c, "a")
		n.fail = test.err
		_, err := c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: containerConfig("c")})
		if !strings.HasPrefix(status.Convert(err).Message(), test.prefix) {
			t.Errorf("got %v", err)
		}
	}
}

func TestStreamImages(t *testing.T) {
	n := newNode()
	c := serve(t, n)
	long := strings.Repeat("x", chunkSize/100)
	for i := range 250 {
		n.images = append(n.images, &image.Record{ID: digest.FromString(fmt.Sprint(i)), Tags: []string{fmt.Sprint("name", i), long}})
	}
	receive := func(filter *runtimeapi.ImageFilter) (messages int, ids map[string]int) {
		t.Helper()
		stream, err := c.StreamImages(t.Context(), &runtimeapi.StreamImagesRequest{Filter: filter})
		if err != nil {
			t.Fatal(err)
		}
		ids = map[string]int{}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return messages, ids
			}
			if err != nil {
				t.Fatal(err)
			}
			if messages++; len(m.GetImages()) == 0 {
				t.Error("a message with nothing in it")
			}
			for _, i := range m.GetImages() {
				ids[i.GetId()]++
			}
		}
	}
	messages, ids := receive(nil)
	if messages != 3 || len(ids) != len(n.images) {
		t.Errorf("%d images in %d messages", len(ids), messages)
	}
	for id, times := range ids {
		if times != 1 {
			t.Errorf("%s came %d times", id, times)
		}
	}
	if _, ids := receive(&runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: "name7"}}); len(ids) != 1 {
		t.Errorf("%v", ids)
	}
	if messages, _ := receive(&runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: "none"}}); messages != 0 {
		t.Errorf("%d messages of none", messages)
	}
}

func TestImageVolumeMounts(t *testing.T) {
	given := []*runtimeapi.Mount{{
		ContainerPath: "/models", Readonly: true, ImageSubPath: "a/b",
		Image: &runtimeapi.ImageSpec{Image: imageID, UserSpecifiedImage: "busybox"},
	}}
	mounts, err := translateMounts("mounts", given, nil, platform{})
	if err != nil {
		t.Fatal(err)
	}
	m := mounts[0]
	if !m.ReadOnly || m.Image.ID != imageID || m.Image.Name != "busybox" || m.Image.SubPath != "a/b" || m.Destination != "/models" {
		t.Errorf("%+v %+v", m, m.Image)
	}
	back := criMounts(mounts)[0]
	if back.GetImage().GetImage() != imageID || back.GetImage().GetImageRef() != imageID || back.GetImageSubPath() != "a/b" || back.GetContainerPath() != "/models" {
		t.Errorf("%v", back)
	}
}
