package cri

import (
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// notYet are the RPCs that answer codes.Unimplemented, as docs/cri-coverage.md
// says. Whatever a later api.proto adds must be put here or be served.
var notYet = map[string]bool{}

// TestEveryRPC calls each RPC with an empty request: it is served, however
// badly it goes, or says that it is not.
func TestEveryRPC(t *testing.T) {
	c := serve(t, newNode())
	seen := map[string]bool{}
	for _, service := range []grpc.ServiceDesc{runtimeapi.RuntimeService_ServiceDesc, runtimeapi.ImageService_ServiceDesc} {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service.ServiceName))
		if err != nil {
			t.Fatal(err)
		}
		methods := found.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			method := methods.Get(i)
			name := string(method.Name())
			seen[name] = true
			t.Run(name, func(t *testing.T) {
				code := status.Code(call(t, c.conn, service.ServiceName, method))
				if (code == codes.Unimplemented) != notYet[name] {
					t.Errorf("answers %s; in the list of those not served yet: %t", code, notYet[name])
				}
				if code == codes.Internal || code == codes.Unknown {
					t.Errorf("an empty request is no reason for %s", code)
				}
			})
		}
	}
	for name := range notYet {
		if !seen[name] {
			t.Errorf("%s is no RPC", name)
		}
	}
}

// call makes an RPC with an empty request; of a stream it sees the beginning.
func call(t *testing.T, conn *grpc.ClientConn, service string, method protoreflect.MethodDescriptor) error {
	t.Helper()
	path := "/" + service + "/" + string(method.Name())
	request, response := message(t, method.Input()), message(t, method.Output())
	if !method.IsStreamingServer() {
		return conn.Invoke(t.Context(), path, request, response)
	}
	stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, path)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(request); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if header, err := stream.Header(); err != nil || header != nil {
		return err
	}
	if err := stream.RecvMsg(response); !errors.Is(err, io.EOF) { // a stream of nothing
		return err
	}
	return nil
}

func message(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(d.FullName()), "runtime.v1.") {
		t.Fatalf("%s is not of CRI", d.FullName())
	}
	return kind.New().Interface()
}
