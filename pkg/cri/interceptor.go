package cri

import (
	"context"
	"fmt"
	"path"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// ServerOptions is how a gRPC server for Register is made: it bounds messages,
// turns errors into statuses and panics into codes.Internal, and logs each RPC
// at V(2) with what it was about, how long it took and how it ended. Requests
// themselves are never logged: they carry environments and credentials.
func ServerOptions(logger klog.Logger) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.WriteBufferSize(writeBuffer),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
			err = observe(ctx, logger, info.FullMethod, func(ctx context.Context) (about []any, err error) {
				resp, err = next(ctx, req)
				return append(subjects(req), subjects(resp)...), err
			})
			return resp, err
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return observe(stream.Context(), logger, info.FullMethod, func(ctx context.Context) ([]any, error) {
				return nil, next(srv, &observedStream{ServerStream: stream, ctx: ctx})
			})
		}),
	}
}

// observedStream is a stream whose context carries the RPC's logger.
type observedStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // grpc.ServerStream hands its context out by a method
}

func (s *observedStream) Context() context.Context { return s.ctx }

// observe runs an RPC, and is the last to see its error.
func observe(ctx context.Context, logger klog.Logger, method string, run func(context.Context) (about []any, err error)) error {
	logger = logger.WithValues("rpc", path.Base(method))
	start := time.Now()
	about, err := guard(klog.NewContext(ctx, logger), logger, run)
	err = toStatus(err)
	about = append(about, "duration", time.Since(start), "code", status.Code(err).String())
	switch status.Code(err) {
	case codes.OK:
		logger.V(2).Info("served", about...)
	case codes.Internal, codes.DataLoss, codes.Unknown:
		logger.Error(err, "not served", about...)
	default:
		logger.V(2).Info("not served", append(about, "err", err)...)
	}
	return err
}

// guard keeps a panic in one RPC from ending the others, and every pod's
// keeper with them.
func guard(ctx context.Context, logger klog.Logger, run func(context.Context) ([]any, error)) (about []any, err error) {
	defer func() {
		if p := recover(); p != nil {
			logger.Error(fmt.Errorf("panic: %v", p), "defect", "stack", string(debug.Stack()))
			err = status.Error(codes.Internal, "a defect in stagelet: its log has the details")
		}
	}()
	return run(ctx)
}

// subjects gives the ids and names in a request or response, for the log.
func subjects(message any) []any {
	var about []any
	if m, is := message.(interface{ GetPodSandboxId() string }); is && m.GetPodSandboxId() != "" {
		about = append(about, "sandbox", m.GetPodSandboxId())
	}
	if m, is := message.(interface{ GetContainerId() string }); is && m.GetContainerId() != "" {
		about = append(about, "container", m.GetContainerId())
	}
	switch m := message.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		about = append(about, "pod", klog.KRef(m.GetConfig().GetMetadata().GetNamespace(), m.GetConfig().GetMetadata().GetName()))
	case *runtimeapi.CreateContainerRequest:
		about = append(about, "name", m.GetConfig().GetMetadata().GetName())
	case interface{ GetImage() *runtimeapi.ImageSpec }:
		about = append(about, "image", m.GetImage().GetImage())
	}
	return about
}
