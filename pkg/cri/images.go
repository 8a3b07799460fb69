package cri

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// imageService serves the RPCs of images. Images are the same for all runtime
// handlers.
type imageService struct {
	runtimeapi.UnimplementedImageServiceServer
	images imageStore
	puller imagePuller
	node   nodeState
	info   infoWriter
}

var _ runtimeapi.ImageServiceServer = (*imageService)(nil)

// ListImages lists all images, or the one that the filter names.
func (s *imageService) ListImages(_ context.Context, r *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	records, err := s.wanted(r.GetFilter().GetImage().GetImage())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListImagesResponse{Images: criImages(records)}, nil
}

// StreamImages is ListImages in messages of bounded size.
func (s *imageService) StreamImages(r *runtimeapi.StreamImagesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	records, err := s.wanted(r.GetFilter().GetImage().GetImage())
	if err != nil {
		return err
	}
	return inChunks(criImages(records), messageSize, func(chunk []*runtimeapi.Image) error {
		return stream.Send(&runtimeapi.StreamImagesResponse{Images: chunk})
	})
}

func criImages(records []*image.Record) []*runtimeapi.Image {
	list := make([]*runtimeapi.Image, 0, len(records))
	for _, record := range records {
		list = append(list, criImage(record))
	}
	return list
}

func (s *imageService) wanted(ref string) ([]*image.Record, error) {
	if ref == "" {
		return s.images.List()
	}
	record, err := s.images.Resolve(ref)
	switch {
	case errors.Is(err, errs.NotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return []*image.Record{record}, nil
}

// ImageStatus of an image that is not there has no image, and is no error.
func (s *imageService) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	ref := r.GetImage().GetImage()
	if ref == "" {
		return nil, invalid("image.image", "is empty")
	}
	record, err := s.images.Resolve(ref)
	switch {
	case errors.Is(err, errs.NotFound):
		return &runtimeapi.ImageStatusResponse{}, nil
	case err != nil:
		return nil, err
	}
	resp := &runtimeapi.ImageStatusResponse{Image: criImage(record)}
	if r.GetVerbose() {
		if resp.Info, err = s.info.image(record); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// RemoveImage by any of an image's names removes the image with all of them.
func (s *imageService) RemoveImage(_ context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	ref := r.GetImage().GetImage()
	if ref == "" {
		return nil, invalid("image.image", "is empty")
	}
	if err := s.images.Remove(ref); err != nil && !errors.Is(err, errs.NotFound) {
		return nil, err
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo tells what images take up, and what the writable layers of
// containers do, which lie on the same file system.
func (s *imageService) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	bytes, inodes, err := s.images.Usage()
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{s.fsUsage(bytes, inodes)},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{s.fsUsage(s.puller.WritableUsage(ctx))},
	}, nil
}

func (s *imageService) fsUsage(bytes, inodes uint64) *runtimeapi.FilesystemUsage {
	return &runtimeapi.FilesystemUsage{
		Timestamp:  time.Now().UnixNano(),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: s.images.Root()},
		UsedBytes:  &runtimeapi.UInt64Value{Value: bytes},
		InodesUsed: &runtimeapi.UInt64Value{Value: inodes},
	}
}

// criImage keeps the strict id rule of CRI: Id is what Container.image_id and
// PullImageResponse.image_ref say.
func criImage(r *image.Record) *runtimeapi.Image {
	uid, name := imageUser(r.Config.Config.User)
	return &runtimeapi.Image{
		Id:          r.ID.String(),
		RepoTags:    r.Tags,
		RepoDigests: r.RepoDigests,
		Size:        uint64(max(r.Size, 1)), // kubelet refuses 0
		Uid:         uid,
		Username:    name,
		Spec:        &runtimeapi.ImageSpec{Image: r.ID.String()},
		Pinned:      r.Pinned,
	}
}

// imageUser takes the user out of the User of an OCI image configuration,
// "user[:group]" by name or number; at most one of the results is set.
func imageUser(user string) (*runtimeapi.Int64Value, string) {
	user, _, _ = strings.Cut(user, ":")
	if user == "" {
		return nil, ""
	}
	if uid, err := strconv.ParseUint(user, 10, 32); err == nil {
		return &runtimeapi.Int64Value{Value: int64(uid)}, ""
	}
	return nil, user
}
