package cri

import (
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// The time-outs and bounds of this edge.
const (
	// stopMargin is how long a stop may take beyond its grace; kubelet waits
	// as long (cri-client). Stops end in their own time, not in the caller's.
	stopMargin = 2 * time.Minute
	// maxMessage is the size of a gRPC message in either direction, in bytes;
	// kubelet and crictl accept no more.
	maxMessage = 16 << 20
	// writeBuffer is how much of an answer is handed to the kernel at once, in
	// bytes: a list is large, and each piece wakes its reader. (grpc lends the buffer to
	// connections while they write.)
	writeBuffer = 512 << 10
	// maxErrorText bounds the text of an error, in bytes: it travels in a
	// header.
	maxErrorText = 8 << 10
)

// Options of the CRI services.
type Options struct {
	// Version of this build. Kubelet parses it: it begins with
	// "major.minor.patch". Empty: "0.0.0".
	Version string
	// StateDir and RunDir are where pods and images, and what does not
	// outlive a boot, are kept; told by Status, and StateDir used to find the
	// OCI configuration of a container for its verbose status.
	StateDir, RunDir string
	// StreamAddress is the host:port that ServeStreams listens on. Empty: Exec,
	// Attach and PortForward are codes.Unavailable.
	StreamAddress string
}

// Server is the two CRI services.
type Server struct {
	runtime runtimeService
	images  imageService
}

// New makes the services over an engine and an image store.
func New(e *stage0.Engine, images *store.Store, o Options) *Server {
	return newServer(e, images, o, detectPlatform("/sys"))
}

func newServer(e engine, images imageStore, o Options, p platform) *Server {
	if o.Version == "" {
		o.Version = "0.0.0"
	}
	info := infoWriter{stateDir: o.StateDir}
	return &Server{
		runtime: runtimeService{
			sandboxes:   &sandboxes{pods: e, node: e, platform: p, info: info},
			containers:  &containers{pods: e, apps: e, node: e, platform: p, info: info},
			execs:       &execs{apps: e, exec: e},
			streams:     &streams{pods: e, apps: e, verbs: e, address: o.StreamAddress, creation: streamCreation},
			checkpoints: &checkpoints{pods: e, apps: e, verbs: e, node: e, platform: p},
			statistics:  &statistics{pods: e, apps: e, usage: e, stateDir: o.StateDir},
			monitoring:  &monitoring{pods: e, usage: e},
			watchers:    &watchers{events: e},
			nodeStatus:  &nodeStatus{node: e, options: o},
		},
		images: imageService{images: images, puller: e, node: e, info: info},
	}
}

// Register adds the services to s, which was made with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	runtimeapi.RegisterRuntimeServiceServer(r, &s.runtime)
	runtimeapi.RegisterImageServiceServer(r, &s.images)
}

// runtimeService joins the groups of RPCs. What no group has answers
// codes.Unimplemented, from one level deeper, where every group hides it.
type runtimeService struct {
	notYetRuntime
	*sandboxes
	*containers
	*execs
	*streams
	*checkpoints
	*statistics
	*monitoring
	*watchers
	*nodeStatus
}

type notYetRuntime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
}

var _ runtimeapi.RuntimeServiceServer = (*runtimeService)(nil)
