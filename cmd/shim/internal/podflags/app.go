package podflags

import (
	"slices"

	"github.com/spf13/pflag"
)

// App is an app as the command line has it.
type App struct {
	Image string
	Args  []string

	name, exec, cwd        string
	user, group            string
	gids                   []string
	env, envFiles, inherit []string
	volumes, mounts        []string
	capsRetain, capsRemove []string
	seccomp                []string
	memory, cpu            string
	readOnly, noNewPrivs   bool
	annotations, labels    []string
	stopSignal             string
}

// register defines the flags; what app has already is their default.
func (a *App) register(set *pflag.FlagSet) {
	set.StringVar(&a.name, "name", a.name, "name of the app (default: after its image)")
	set.StringVar(&a.exec, "exec", a.exec, "program to run, instead of the image's")
	set.StringVar(&a.cwd, "working-dir", a.cwd, "directory to run it in, absolute (default: the image's)")
	set.StringVar(&a.user, "user", a.user, "user: a name or number, or the path of a file of the image that the user owns")
	set.StringVar(&a.group, "group", a.group, "group: as user")
	set.StringSliceVar(&a.gids, "supplementary-gids", a.gids, "further groups, by number")

	set.Var(list{&a.env, "NAME=VALUE"}, "set-env", "variable of the environment; NAME alone passes on one's own")
	set.Var(list{&a.env, "NAME=VALUE"}, "environment", "rkt's word for --set-env")
	set.Var(list{&a.envFiles, "FILE"}, "set-env-file", "file of such lines; # begins a comment")
	set.StringSliceVar(&a.inherit, "inherit-env", a.inherit, "variables to pass on if they are set; all of them when none is named")
	set.Lookup("inherit-env").NoOptDefVal = inheritAll

	set.VarP(list{&a.volumes, "VOLUME"}, "volume", "v", "volume of the pod, NAME,kind=host,source=PATH or NAME,kind=empty; or a directory in the app, PATH:TARGET[:ro]")
	set.Var(list{&a.mounts, "MOUNT"}, "mount", "where the app has a volume: volume=NAME,target=PATH")

	set.StringSliceVar(&a.capsRetain, "caps-retain", a.capsRetain, "the capabilities that the app has, instead of the default ones")
	set.StringSliceVar(&a.capsRemove, "caps-remove", a.capsRemove, "default capabilities that the app doesn't have")
	set.StringSliceVar(&a.seccomp, "seccomp", a.seccomp, "filter of system calls: default, unconfined, the path of a profile, or mode=retain|remove,errno=NAME,CALL,…")
	set.BoolVar(&a.noNewPrivs, "no-new-privileges", a.noNewPrivs, "no program of the app gains privileges, be it setuid")
	set.BoolVar(&a.readOnly, "readonly-rootfs", a.readOnly, "the app can't write to its root file system")

	set.StringVarP(&a.memory, "memory", "m", a.memory, "most memory: 256Mi, 1G")
	set.StringVar(&a.cpu, "cpu", a.cpu, "most of the processors' time: 500m, 1.5")
	set.StringVar(&a.stopSignal, "stop-signal", a.stopSignal, "signal that asks it to end (default: the image's, else SIGTERM)")
	set.Var(list{&a.annotations, "NAME=VALUE"}, "user-annotation", "annotation of the app")
	set.Var(list{&a.labels, "NAME=VALUE"}, "user-label", "label of the app")
	_ = set.MarkHidden("environment") // defined above
}

// inheritAll is what --inherit-env without names has for a value.
const inheritAll = "*"

func (a App) clone() App {
	for _, l := range []*[]string{
		&a.gids, &a.env, &a.envFiles, &a.inherit, &a.volumes, &a.mounts,
		&a.capsRetain, &a.capsRemove, &a.seccomp, &a.annotations, &a.labels,
	} {
		*l = slices.Clone(*l)
	}
	return a
}
