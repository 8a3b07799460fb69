package ocispec

import (
	"errors"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// DefaultPath is the PATH of an app whose image sets none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// defaultUmask keeps an app's files from being writable to all, whatever
// umask the server was started with.
const defaultUmask uint32 = 0o022

// The range of oom_score_adj (proc_pid_oom_score_adj(5)).
const (
	minOOMScoreAdj = -1000
	maxOOMScoreAdj = 1000
)

func processOf(in Input) (*specs.Process, error) {
	app := in.App
	if len(app.Args) == 0 || app.Args[0] == "" {
		return nil, invalid("command", "there is none: neither the request nor the image gives one")
	}
	cwd := app.Cwd
	if cwd == "" {
		cwd = "/"
	}
	if !path.IsAbs(cwd) {
		return nil, invalid("working directory", "%q is not absolute", cwd)
	}
	env, err := environment(in)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(slices.Concat(app.Args, env, []string{cwd}), holdsZero); i >= 0 {
		return nil, invalid("process", "an argument, variable or directory holds a zero byte")
	}
	capabilities, err := capabilitiesOf(in)
	if err != nil {
		return nil, err
	}
	apparmor, err := apparmorOf(in)
	if err != nil {
		return nil, err
	}
	score, err := oomScoreAdj(app.Resources.OOMScoreAdj, in.Host.OOMScoreAdjFloor)
	if err != nil {
		return nil, err
	}
	for _, gid := range append([]uint32{app.User.GID}, app.User.AdditionalGIDs...) {
		if _, _, err := in.Pod.Namespaces.User.Host(app.User.UID, gid); err != nil {
			return nil, err
		}
	}
	umask := defaultUmask
	return &specs.Process{
		Terminal:        app.TTY,
		ConsoleSize:     consoleSize(app),
		User:            specs.User{UID: app.User.UID, GID: app.User.GID, AdditionalGids: app.User.AdditionalGIDs, Umask: &umask},
		Args:            app.Args,
		Env:             env,
		Cwd:             cwd,
		Capabilities:    capabilities,
		NoNewPrivileges: app.Security.NoNewPrivs,
		ApparmorProfile: apparmor,
		OOMScoreAdj:     &score,
		Rlimits:         in.Ulimits,
		SelinuxLabel:    app.Security.SELinuxLabel,
	}, nil
}

func consoleSize(app *manifest.App) *specs.Box {
	if !app.TTY || app.Rows == 0 || app.Cols == 0 {
		return nil
	}
	return &specs.Box{Height: uint(app.Rows), Width: uint(app.Cols)}
}

func holdsZero(s string) bool { return strings.Contains(s, "\x00") }

// environment merges the defaults, what the caller adds and the app's own, of
// which the last of a name counts: of doubles, programs see one or the other.
func environment(in Input) ([]string, error) {
	layers := []string{"PATH=" + DefaultPath}
	if in.Hostname != "" {
		layers = append(layers, "HOSTNAME="+in.Hostname)
	}
	if in.App.TTY {
		layers = append(layers, "TERM=xterm")
	}
	layers = slices.Concat(layers, in.Env, in.App.Env)
	var env []string
	at := make(map[string]int, len(layers))
	for _, pair := range layers {
		name, _, found := strings.Cut(pair, "=")
		if !found || name == "" {
			return nil, invalid("environment", "%q is not of the form NAME=value", pair)
		}
		if i, known := at[name]; known {
			env[i] = pair
			continue
		}
		at[name] = len(env)
		env = append(env, pair)
	}
	return env, nil
}

// capabilitiesOf gives all sets. Nothing is inheritable but what is ambient,
// so that a program with file capabilities gains nothing from who starts it.
func capabilitiesOf(in Input) (*specs.LinuxCapabilities, error) {
	security := in.App.Security
	have := slices.Clone(security.Capabilities)
	for _, name := range security.Ambient {
		if !slices.Contains(have, name) {
			have = append(have, name)
		}
	}
	for _, name := range have {
		if err := checkCapability(name, in.Host.Capabilities); err != nil {
			return nil, err
		}
	}
	return &specs.LinuxCapabilities{
		Bounding: have, Effective: have, Permitted: have,
		Inheritable: security.Ambient, Ambient: security.Ambient,
	}, nil
}

// Unconfined is the name of no AppArmor profile.
const Unconfined = "unconfined"

func apparmorOf(in Input) (string, error) {
	profile := in.App.Security.AppArmor
	switch {
	case in.Host.AppArmor, profile == "":
		return profile, nil
	case profile == Unconfined:
		return "", nil
	}
	return "", errs.New("confine", errs.Unsupported, profile, errors.New("this host has no AppArmor"))
}

// oomScoreAdj clamps what is asked for to what we may set.
func oomScoreAdj(want int64, floor *int) (int, error) {
	if want < minOOMScoreAdj || want > maxOOMScoreAdj {
		return 0, invalid("oom_score_adj", "%d is not within %d and %d", want, minOOMScoreAdj, maxOOMScoreAdj)
	}
	if floor != nil {
		return max(int(want), *floor), nil
	}
	return int(want), nil
}
