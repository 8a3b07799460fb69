package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stagelet/stagelet/cmd/shim/internal/podflags"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/cri"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/podfile"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// asking is what the flags of a command say that makes a pod.
type asking struct {
	flags  *podflags.Flags
	from   bringFlags
	file   string // pod manifest
	idFile string
	remove bool
	// metadata has the server's metadata service answer the pod.
	metadata bool
	given    func(flag string) bool // whether it is on the command line
	hint     func(error) error      // says more of a flag behind an image
	// own gives what went wrong for no fault of the command line its exit code.
	own func(error) error
}

func (r *asking) register(c *cobra.Command) {
	set := c.Flags()
	r.flags, r.given = podflags.Register(set), set.Changed
	r.hint = func(err error) error { return hintImageFlag(c, err) }
	r.from.register(set, pullMissing)
	set.StringVar(&r.file, "pod-manifest", "", "file that describes the pod, instead of images: an appc pod manifest, CRI's JSON, a Kubernetes Pod; - is standard input")
	set.StringVar(&r.idFile, "uuid-file-save", "", "file to write the pod's id to")
	set.BoolVar(&r.metadata, "mds-register", false, "have the server tell the apps who they are, at $AC_METADATA_URL (docs/metadata-service.md)")
	set.BoolVar(&r.remove, "rm", false, "keep nothing of the pod once it has ended")
}

// request is the command line, read.
type request struct {
	*asking
	apps []podflags.App
}

// read reads what follows the flags.
func (r *asking) read(line commandLine) (*request, error) {
	const op = "read command line"
	if line.dash == 0 {
		return nil, errs.New(op, errs.Invalid, "", errors.New(`an image is missing before "--"`))
	}
	apps, err := r.flags.Apps(line.args)
	switch {
	case err != nil:
		return nil, r.hint(err)
	case r.given("help"): // behind an image
		return nil, pflag.ErrHelp
	case len(apps) == 0 && r.file == "":
		return nil, errs.New(op, errs.Invalid, "", errors.New("an image is missing: say its name, id, file or URL, or name a --pod-manifest"))
	case len(apps) > 0 && r.file != "":
		return nil, errs.New(op, errs.Invalid, apps[0].Image, errors.New("--pod-manifest says which images there are: leave out one or the other"))
	case r.file != "" && len(r.flags.ForImages()) > 0:
		return nil, errs.New(op, errs.Invalid, strings.Join(r.flags.ForImages(), ", "), errors.New("with --pod-manifest, the file says so"))
	}
	return &request{r, apps}, nil
}

// withEngine opens the engine and who brings images.
func (r *asking) withEngine(c *config, progress io.Writer, work func(*node, *bringer) error) (err error) {
	off, err := r.from.switches()
	if err != nil {
		return err
	}
	n, err := openNodeWith(c, off)
	if err != nil {
		return r.own(err)
	}
	defer func() { err = errors.Join(err, n.close()) }()
	b, err := r.from.open(c, n.images, progress)
	if err != nil {
		return err
	}
	return work(n, b)
}

// plan makes the plan of the pod, and brings its images.
func (q *request) plan(ctx context.Context, c *config, n *node, b *bringer, warnings io.Writer) (stage0.Plan, error) {
	read := q.fromFlags
	if q.file != "" {
		read = q.fromFile
	}
	plan, notes, err := read(ctx, n, b)
	plan.Pod.RemoveAtEnd = q.remove
	if err == nil && q.metadata {
		err = q.own(register(c, &plan))
	}
	for _, note := range notes {
		fmt.Fprintf(warnings, "stagelet: warning: %s\n", note)
	}
	return plan, err
}

func (q *request) fromFlags(ctx context.Context, n *node, b *bringer) (plan stage0.Plan, notes []podfile.Note, err error) {
	host, err := q.host(n)
	if err != nil {
		return plan, nil, q.own(err)
	}
	if err := q.flags.Check(q.apps, host); err != nil {
		return plan, nil, err
	}
	images := make([]podflags.Image, len(q.apps))
	for i, a := range q.apps {
		found, err := b.bringImage(ctx, a.Image)
		if err != nil {
			return plan, nil, q.own(hintArgs(i, a.Image, err))
		}
		images[i] = podflags.Image{ID: string(found.ID), Name: found.Name}
		if images[i].Manifest, err = appcManifest(n.images, found.Record); err != nil {
			return plan, nil, q.own(err)
		}
	}
	plan, notes, err = q.flags.Plan(q.apps, images, host)
	if err != nil {
		return plan, notes, err
	}
	return plan, notes, q.own(sourcesThere(plan))
}

// sourcesThere finds paths of the host that aren't there: kubelet wants them
// made, a person has mistyped them.
func sourcesThere(plan stage0.Plan) error {
	for _, a := range plan.Apps {
		for _, m := range a.App.Mounts {
			if _, err := os.Stat(m.Source); err != nil {
				return errs.Wrap("find volume", m.Source, err)
			}
		}
	}
	return nil
}

// appcManifest gives what an image made of an ACI says of its app; nil for
// others.
func appcManifest(images *store.Store, r *image.Record) (*appc.ImageManifest, error) {
	if r.AppC == nil {
		return nil, nil
	}
	return appc.ManifestOf(images, r)
}

// hintArgs tells those who wrote arguments as other programs take them.
func hintArgs(i int, name string, err error) error {
	if i == 0 || !errors.Is(err, errs.NotFound) && !errors.Is(err, errs.Invalid) && !errors.Is(err, errs.Unavailable) {
		return err
	}
	return errs.New("find image", errs.KindOf(err), fmt.Sprintf("%.80q", name), fmt.Errorf("%w %s", err, argsHint))
}

// host tells what the plan needs to know.
func (r *asking) host(n *node) (h podflags.Host, err error) {
	h.Network = n.network.Info().Network
	h.Handlers = n.engine.Flavors.Handlers()
	h.AppArmor = cri.DefaultAppArmor()
	h.Environment = os.Environ()
	if r.flags.PrivateUsers != "" {
		h.Users, err = takenUsers(n)
	}
	return h, err
}

// takenUsers gives the user namespaces of all pods.
func takenUsers(n *node) (taken []manifest.UserNamespace, err error) {
	pods, err := n.engine.PodsOnDisk()
	for _, p := range pods {
		if u := p.Pod.Namespaces.User; u != nil {
			taken = append(taken, *u)
		}
	}
	return taken, err
}
