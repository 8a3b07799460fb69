package stage0

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/layer"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// resolve completes an app by what its image says and the request does not.
func (e *Engine) resolve(app *manifest.App, r AppRequest, img *image.Record) error {
	app.Image = manifest.AppImage{ID: string(img.ID), Name: cmp.Or(r.ImageName, r.Image)}
	if len(img.RepoDigests) > 0 {
		app.Image.Ref = img.RepoDigests[0]
	}
	layers, err := e.layersOf(img)
	if err != nil {
		return err
	}
	app.Rootfs.Layers = layers
	if len(app.Rootfs.Layers) == 0 {
		return errs.New("resolve image", errs.Invalid, r.Image, errors.New("it has no layers: there is nothing to run in it"))
	}
	config := img.Config.Config
	app.Args = arguments(r, config.Entrypoint, config.Cmd)
	if len(app.Args) == 0 {
		return errs.New("resolve command", errs.Invalid, r.Image, errors.New("neither the request nor the image names a command"))
	}
	app.Env = mergeEnv(config.Env, r.Env)
	app.Cwd = cmp.Or(r.Cwd, config.WorkingDir, "/")
	app.StopSignal = cmp.Or(r.StopSignal, config.StopSignal)
	if _, err := ParseSignal(app.StopSignal); err != nil {
		return err
	}
	user, err := e.resolveUser(app, r.User, config.User)
	if err != nil {
		return err
	}
	app.User = user
	return e.confine(app, r)
}

// arguments combines command and arguments as Kubernetes does: a command of
// the request's own leaves out the image's arguments too.
func arguments(r AppRequest, entrypoint, cmd []string) []string {
	command, args := r.Command, r.Args
	if len(command) == 0 {
		command = entrypoint
		if len(args) == 0 {
			args = cmd
		}
	}
	return slices.Concat(command, args)
}

// mergeEnv puts over each variable of base the one of the same name in over.
func mergeEnv(base, over []string) []string {
	merged := slices.Clone(base)
	at := map[string]int{}
	for i, kv := range merged {
		at[envKey(kv)] = i
	}
	for _, kv := range over {
		if i, set := at[envKey(kv)]; set {
			merged[i] = kv
			continue
		}
		at[envKey(kv)] = len(merged)
		merged = append(merged, kv)
	}
	return merged
}

func envKey(kv string) string {
	key, _, _ := strings.Cut(kv, "=")
	return key
}

// maxAccounts bounds an image's /etc/passwd and /etc/group, in bytes.
const maxAccounts = 1 << 20

func (e *Engine) resolveUser(app *manifest.App, want UserRequest, imageUser string) (manifest.User, error) {
	var layers []string
	for _, l := range app.Rootfs.Layers {
		layers = append(layers, l.Path)
	}
	var accounts [2][]byte
	for i, path := range []string{"/etc/passwd", "/etc/group"} {
		data, err := layer.ReadFile(layers, path, maxAccounts)
		if err != nil && !errors.Is(err, errs.NotFound) {
			return manifest.User{}, err
		}
		accounts[i] = data
	}
	if err := ownersOf(layers, &want, &imageUser); err != nil {
		return manifest.User{}, err
	}
	return ResolveUser(want, imageUser, accounts[0], accounts[1])
}

// ownersOf replaces users and groups that are given as paths by the owners of
// what lies there in the image (appc, "user").
func ownersOf(layers []string, want *UserRequest, imageUser *string) error {
	user, group, _ := strings.Cut(*imageUser, ":")
	for _, who := range []struct {
		name *string
		id   func(uid, gid uint32) uint32
	}{
		{&want.Username, func(uid, _ uint32) uint32 { return uid }},
		{&user, func(uid, _ uint32) uint32 { return uid }},
		{&want.Groupname, func(_, gid uint32) uint32 { return gid }},
		{&group, func(_, gid uint32) uint32 { return gid }},
	} {
		if !strings.HasPrefix(*who.name, "/") {
			continue
		}
		uid, gid, err := layer.Owner(layers, *who.name)
		if err != nil {
			return err
		}
		*who.name = strconv.FormatUint(uint64(who.id(uid, gid)), 10)
	}
	if group != "" {
		user += ":" + group
	}
	*imageUser = user
	return nil
}

func keyOf(name string, attempt uint32) string { return fmt.Sprintf("%q %d", name, attempt) }
