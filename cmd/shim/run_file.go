package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/stagelet/stagelet/cmd/shim/internal/podflags"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/podfile"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// fromFile makes the plan of a pod that a file describes, and brings its
// images.
func (q *request) fromFile(ctx context.Context, n *node, b *bringer) (plan stage0.Plan, notes []podfile.Note, err error) {
	data, err := readAll(os.Stdin, q.file)
	if err != nil {
		return plan, nil, q.own(err)
	}
	f, err := podfile.Read(ctx, data, podfile.Options{
		Handlers: n.engine, Handler: q.flags.Stage1, Name: q.flags.Name,
		Manifest: func(ctx context.Context, app *stage0.AppRequest) (*appc.ImageManifest, error) {
			found, err := bringNamed(ctx, b, app)
			if err != nil {
				return nil, err
			}
			return appcManifest(n.images, found.Record)
		},
	})
	if err != nil {
		if !errors.Is(err, errs.Invalid) {
			err = q.own(err)
		}
		return plan, nil, err
	}
	if err := q.users(n, f); err != nil {
		return plan, f.Notes, err
	}
	plan = f.Plan
	for _, apps := range [][]stage0.AppRequest{plan.Init, plan.Apps} {
		for i := range apps {
			if err := q.bringAll(ctx, b, f, &apps[i]); err != nil {
				return plan, f.Notes, q.own(err)
			}
		}
	}
	return plan, f.Notes, nil
}

// users gives the pod ids of its own where the file or the flags want it.
func (q *request) users(n *node, f *podfile.File) error {
	if !f.PrivateUsers && q.flags.PrivateUsers == "" {
		return nil
	}
	taken, err := takenUsers(n)
	if err != nil {
		return q.own(err)
	}
	users := podflags.FreeUsers
	if q.flags.PrivateUsers != "" {
		users = q.flags.Users
	}
	picked, err := users(taken)
	if err == nil {
		f.UseUsers(picked)
	}
	return err
}

// bringAll brings the images of an app: its own, and those it has as volumes.
func (q *request) bringAll(ctx context.Context, b *bringer, f *podfile.File, app *stage0.AppRequest) error {
	found, err := bringNamed(ctx, q.bringer(b, f, app.Image), app)
	if err != nil {
		return err
	}
	app.Image, app.ImageName = string(found.ID), found.Name
	for i := range app.App.Mounts {
		volume := app.App.Mounts[i].Image
		if volume == nil {
			continue
		}
		if found, err = q.bringer(b, f, volume.Name).bringImage(ctx, volume.Name); err != nil {
			return err
		}
		app.App.Mounts[i].Image = &manifest.ImageMount{ID: string(found.ID), Name: found.Name, SubPath: volume.SubPath}
	}
	return nil
}

// bringNamed brings the image of an app: what it is found by is an id, perhaps,
// of an image that isn't here yet and has a name, too. What the name gives then
// has to be that image.
func bringNamed(ctx context.Context, b *bringer, app *stage0.AppRequest) (brought, error) {
	found, err := b.bringImage(ctx, app.Image)
	if !errors.Is(err, errs.NotFound) || app.ImageName == "" || app.ImageName == app.Image {
		return found, err
	}
	if _, err := b.bringImage(ctx, app.ImageName); err != nil {
		return brought{}, err
	}
	if found, err = b.bringImage(ctx, app.Image); err != nil {
		err = errs.New("find image", errs.KindOf(err), app.Image, fmt.Errorf("%s is another image", app.ImageName))
	}
	return found, err
}

// bringer fetches when the file says, unless the command line does.
func (q *request) bringer(b *bringer, f *podfile.File, image string) *bringer {
	pull, says := f.Pull[image]
	if !says || q.given("pull-policy") {
		return b
	}
	own := *b
	own.policy = pullPolicy(pull)
	return &own
}
