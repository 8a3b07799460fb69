package cri

import (
	"context"
	"os"
	"time"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// What each group of RPCs needs of the node. *stage0.Engine is all of them
// but imageStore; they are apart so that a handler can reach no more than its
// own verbs, and so that the services are tested without a kernel.

// podVerbs is the life of pods.
type podVerbs interface {
	RunPod(ctx context.Context, p manifest.Pod) (id string, err error)
	StopPod(ctx context.Context, id string) error
	RemovePod(ctx context.Context, id string) error
	UpdatePod(ctx context.Context, id string, overhead, resources *manifest.Resources) error
	podIndex
}

// podIndex finds pods; it touches no disk and blocks on nothing.
type podIndex interface {
	Pods(creator manifest.Creator) []*pod.Snapshot
	// Pod takes an id or a unique prefix: errs.NotFound, or errs.Invalid
	// naming the candidates.
	Pod(id string) (*pod.Snapshot, error)
}

// appVerbs is the life of apps.
type appVerbs interface {
	AddApp(ctx context.Context, podID string, r stage0.AppRequest) (id string, err error)
	StartApp(ctx context.Context, id string) error
	StopApp(ctx context.Context, id string, grace time.Duration) error
	RemoveApp(ctx context.Context, id string) error
	UpdateApp(ctx context.Context, id string, r manifest.Resources) error
	ReopenLog(ctx context.Context, id string) error
	appIndex
}

// appIndex finds apps, as podIndex does pods.
type appIndex interface {
	App(id string) (*pod.Snapshot, pod.App, error)
}

// execVerb runs a command in an app until it or ctx ends.
type execVerb interface {
	Exec(ctx context.Context, app string, r stage0.ExecRequest) (exitCode int, err error)
}

// streamVerbs joins callers with what runs in a pod.
type streamVerbs interface {
	execVerb
	// Attach joins an app's streams until it or ctx ends.
	Attach(ctx context.Context, app string, r stage0.AttachRequest) error
	// Resize sets the size of an app's terminal or, with its name, of a
	// command's; it waits for one that is still to come.
	Resize(ctx context.Context, app, exec string, size stage0.TerminalSize) error
	// PortForward connects to a TCP port inside a pod.
	PortForward(ctx context.Context, pod string, port uint16) (*os.File, error)
}

// checkpointVerbs write what runs, and bring it back.
type checkpointVerbs interface {
	CheckpointApp(ctx context.Context, id, location string) error
	CheckpointPod(ctx context.Context, id, dir string, apps []string) error
	RestorePod(ctx context.Context, dir string, p manifest.Pod, apps []stage0.AppRequest) (id string, restored map[string]string, err error)
}

// usageReader reads what pods and apps take up, from the kernel and from
// memory: it waits for no process, and for no disk beyond MeasureLayers. What
// ended meanwhile is errs.NotFound or errs.Precondition.
type usageReader interface {
	AppUsage(id string) (stage0.Usage, error)
	PodUsage(id string) (stage0.Usage, error)
	AppDetails(id string) (stage0.Details, error)
	PodDetails(id string) (stage0.Details, error)
	// MeasureLayers brings the writable layers' sizes up to date as far as
	// that goes in a moment.
	MeasureLayers(ctx context.Context, apps []string)
	// Accounts says what the host counts at all.
	Accounts() sys.Accounts
}

// eventSource tells of changes, in order, from the call on. A subscriber that
// is too slow has its channel closed.
type eventSource interface {
	Subscribe() (events <-chan stage0.Event, cancel func())
}

// nodeState is what the node as a whole can do.
type nodeState interface {
	Handlers
	RuntimeReady() error
	NetworkReady() error
	SetPodCIDR(cidr string) error
	CgroupDriver() string
}

// imageStore is the images of the node.
type imageStore interface {
	Resolve(ref string) (*image.Record, error)
	List() ([]*image.Record, error)
	Remove(ref string) error
	Usage() (bytes, inodes uint64, err error)
	Root() string
}

// imagePuller brings images from registries.
type imagePuller interface {
	PullImage(ctx context.Context, r stage0.PullRequest) (*image.Record, error)
	// WritableUsage is what the writable layers of all apps take up.
	WritableUsage(ctx context.Context) (bytes, inodes uint64)
}

// engine is everything that runs pods.
type engine interface {
	podVerbs
	appVerbs
	streamVerbs
	checkpointVerbs
	usageReader
	eventSource
	nodeState
	imagePuller
}
