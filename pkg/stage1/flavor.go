// Package stage1 is stage0's side of the stage1 contract: which flavors there
// are, how a supervisor is started and how one is spoken to.
package stage1

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Flavor is one kind of isolation.
type Flavor struct {
	Name       string
	Supervisor string // path of the supervisor's program
	Runtime    string // path of the OCI runtime that it drives, or a name in PATH
	Args       []string
	Exit       manifest.ExitSource
	Cgroup     manifest.CgroupOwner
	// SandboxAnnotations: see manifest.Executor.
	SandboxAnnotations bool
	Features           Features
}

// Features are what a flavor can do beyond the least (CRI
// RuntimeHandlerFeatures).
type Features struct {
	RecursiveReadOnlyMounts bool
	UserNamespaces          bool
}

// Namespaces is the default flavor: Linux namespaces by an OCI runtime.
func Namespaces(supervisor, runtime string, args []string) Flavor {
	return Flavor{
		Name: "ns", Supervisor: supervisor, Runtime: runtime, Args: args,
		Exit: manifest.ExitReap, Cgroup: manifest.CgroupApp,
		Features: Features{RecursiveReadOnlyMounts: true, UserNamespaces: true},
	}
}

// Registry maps handlers (CRI RuntimeHandler) to flavors. Only the
// administrator's configuration fills it; "" is the default handler.
type Registry struct {
	handlers map[string]Flavor
	pins     *Pins
}

// NewRegistry gives a registry of those handlers, which must include "".
func NewRegistry(pins *Pins, handlers map[string]Flavor) (*Registry, error) {
	if _, ok := handlers[""]; !ok {
		return nil, errs.New("register flavors", errs.Invalid, "", errors.New("there is no default handler"))
	}
	return &Registry{handlers: handlers, pins: pins}, nil
}

// Handlers gives the names of all handlers, sorted, so "" first.
func (r *Registry) Handlers() []string {
	names := make([]string, 0, len(r.handlers))
	for name := range r.handlers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Features of a handler's flavor; none for an unknown one.
func (r *Registry) Features(handler string) Features { return r.handlers[handler].Features }

// Pin resolves a handler for one pod, for that pod's life: the programs that
// it needs are kept as they are now. An unknown handler is errs.NotFound, one
// that can't run here errs.Unavailable; neither falls back to another.
func (r *Registry) Pin(handler string) (*manifest.Stage1, error) {
	const op = "resolve runtime handler"
	f, known := r.handlers[handler]
	if !known {
		return nil, errs.New(op, errs.NotFound, fmt.Sprintf("%q", handler),
			fmt.Errorf("not configured; there are %s", strings.Join(quoted(r.Handlers()), ", ")))
	}
	supervisor, err := r.pins.Pin(f.Supervisor)
	if err != nil {
		return nil, errs.New(op, errs.Unavailable, fmt.Sprintf("%q", handler), err)
	}
	runtime, err := r.pins.Pin(f.Runtime)
	if err != nil {
		return nil, errs.New(op, errs.Unavailable, fmt.Sprintf("%q", handler), err)
	}
	return &manifest.Stage1{
		Version: manifest.Version, Flavor: f.Name, Supervisor: supervisor,
		Executor: manifest.Executor{
			Runtime: runtime, Args: f.Args, SandboxAnnotations: f.SandboxAnnotations,
			Exit: f.Exit, Cgroup: f.Cgroup,
		},
	}, nil
}

// probeTimeout bounds how long a flavor may take to say that it can run.
const probeTimeout = 10 * time.Second

// Probe says why a handler's flavor can't run on this host; nil when it can.
func (r *Registry) Probe(ctx context.Context, handler string) error {
	st, err := r.Pin(handler)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	for _, c := range [][]string{{st.Supervisor.Path, "version"}, {st.Executor.Runtime.Path, "--version"}} {
		if out, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput(); err != nil {
			return errs.New("probe runtime handler", errs.Unavailable, fmt.Sprintf("%q", handler),
				fmt.Errorf("%s: %w: %.200s", strings.Join(c, " "), err, out))
		}
	}
	return nil
}

// someUsers are ids to try user namespaces with; any would do.
func someUsers() sys.UserMap {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1 << 16, Size: 1 << 16}}
	return sys.UserMap{UIDs: ids, GIDs: ids}
}

// ProbeUsers says why pods can't have a user namespace of their own on this
// host; nil when they can. It makes one, and mounts two of the directories
// that hold layers through it, over scratch: nothing of that stays.
func (r *Registry) ProbeUsers(scratch string, layers ...string) error {
	const op = "probe user namespaces"
	st, err := r.Pin("")
	if err != nil {
		return err
	}
	users, err := sys.NewUserNS(someUsers(), st.Supervisor.Path, "init")
	if err != nil {
		return errs.New(op, errs.Unsupported, "", err)
	}
	defer users.Close()
	err = sys.OnThrowawayThread(func() error {
		tree, err := sys.Overlay{Lowers: layers, Users: users}.Mount(scratch)
		if err != nil {
			return err
		}
		return tree.Close()
	})
	if err != nil {
		return errs.New(op, errs.Unsupported, "", err)
	}
	return nil
}

func quoted(names []string) []string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = fmt.Sprintf("%q", n)
		if n == "" {
			q[i] += " (the default)"
		}
	}
	return q
}
