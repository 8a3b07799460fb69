// Package podfile reads pods as people write them: appc pod manifests, CRI's
// configurations and Kubernetes' Pods become plans of one form. What a file
// asks for and doesn't get is told; what can't be left out safely is refused.
package podfile

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/cri"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// MaxApps bounds the apps of a file.
const MaxApps = 256

// File is a pod as its file has it.
type File struct {
	Plan stage0.Plan
	// Notes are what isn't honoured, in the order of the file's fields.
	Notes []Note
	// Pull says when an image is fetched, by its name in the plan, where the
	// file says so.
	Pull map[string]Pull
	// PrivateUsers asks for a user namespace, of ids that the caller picks
	// (UseUsers).
	PrivateUsers bool
}

// UseUsers gives the pod a user namespace. Where the file asks for one, what is
// mounted belongs to the users of that namespace, as with kubelet: root's files
// are its root's.
func (f *File) UseUsers(users *manifest.UserNamespace) {
	f.Plan.Pod.Namespaces.User = users
	if !f.PrivateUsers {
		return
	}
	for _, apps := range [][]stage0.AppRequest{f.Plan.Init, f.Plan.Apps} {
		for i := range apps {
			for j := range apps[i].App.Mounts {
				m := &apps[i].App.Mounts[j]
				m.UIDs, m.GIDs = users.UIDs, users.GIDs
			}
		}
	}
}

// Pull says when an image is fetched.
type Pull string

// The policies, in the words of the command line.
const (
	PullNever   Pull = "never"
	PullMissing Pull = "missing"
	PullAlways  Pull = "always"
)

// Options are what a file's reader needs to know of the node.
type Options struct {
	Handlers cri.Handlers // *stage0.Engine
	Handler  string       // runtime handler of pods that name none
	Name     string       // of the pod, instead of the file's; empty: that
	// Manifest gives the appc manifest of the image of an app of an appc pod,
	// and fetches it if it has to; nil for an image of another kind.
	Manifest func(ctx context.Context, app *stage0.AppRequest) (*appc.ImageManifest, error)

	uid string // of the pod
}

// Read reads a file of any form. What it can't be is errs.Invalid; what it
// asks for and this host or program can't do without changing what it means is
// errs.Unsupported.
func Read(ctx context.Context, data []byte, o Options) (*File, error) {
	o.uid = pod.NewID() // each run of a file is a pod of its own
	f, err := read(ctx, data, o)
	if err != nil {
		return nil, errs.Wrap("read pod file", "", err)
	}
	p := &f.Plan.Pod
	p.Creator, p.EndsWithApps = manifest.CreatorCLI, true
	p.UID, p.Name = o.uid, cmp.Or(o.Name, p.Name)
	if n := len(f.Plan.Init) + len(f.Plan.Apps); n > MaxApps {
		return nil, errs.New("read pod file", errs.Invalid, "", fmt.Errorf("%d apps, more than %d", n, MaxApps))
	}
	return f, f.Plan.Check()
}

func read(ctx context.Context, data []byte, o Options) (*File, error) {
	data, err := toJSON(data)
	if err != nil {
		return nil, err
	}
	var form struct {
		ACKind     json.RawMessage `json:"acKind"`
		Kind       json.RawMessage `json:"kind"`
		Pod        json.RawMessage `json:"pod"`
		Containers json.RawMessage `json:"containers"`
	}
	if err := json.Unmarshal(data, &form); err != nil {
		return nil, invalid("", "it is no object, neither of JSON nor of YAML: no pod is described")
	}
	switch {
	case form.ACKind != nil:
		return readAppc(ctx, data, o)
	case form.Kind != nil:
		return readKube(data, o)
	case form.Pod != nil || form.Containers != nil:
		return readCRI(data, o)
	}
	return nil, invalid("", `it is neither an appc pod manifest ("acKind"), nor a Kubernetes Pod ("kind"), nor CRI configurations ("pod" and "containers")`)
}

// invalid names a place in a file, and says why what stands there can't be.
func invalid(path, format string, args ...any) error {
	return errs.New("check", errs.Invalid, cmp.Or(path, "file"), fmt.Errorf(format, args...))
}

func unsupported(path, format string, args ...any) error {
	return errs.New("check", errs.Unsupported, cmp.Or(path, "file"), fmt.Errorf(format, args...))
}
