package ocispec

import (
	"errors"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
)

func TestFilter(t *testing.T) {
	for name, c := range map[string]struct {
		filter  Filter
		def     specs.LinuxSeccompAction
		allowed string // a call that has an unconditional rule to allow it
		blocked string // one that has none, or is blocked by a rule
	}{
		"retain":               {Filter{Mode: Retain, Names: []string{"socket", "reboot"}}, specs.ActKillProcess, "reboot", "mkdir"},
		"retain with an error": {Filter{Mode: Retain, Names: []string{"socket"}, Errno: "ENOSYS"}, specs.ActErrno, "socket", "mkdir"},
		"retain and default":   {Filter{Mode: Retain, Names: []string{"@rkt/default-whitelist", "reboot"}}, specs.ActKillProcess, "mkdir", "kexec_load"},
		"an image retains":     {Filter{Mode: Retain, Names: []string{"socketpair", "reboot"}, Narrow: true}, specs.ActKillProcess, "socketpair", "reboot"},
		"remove":               {Filter{Mode: Remove, Names: []string{"mkdir"}}, specs.ActAllow, "", "mkdir"},
		"remove and default":   {Filter{Mode: Remove, Names: []string{"@docker/default-blacklist", "mkdir"}}, specs.ActErrno, "read", "mkdir"},
		"an image removes":     {Filter{Mode: Remove, Names: []string{"mkdir"}, Errno: "EPERM", Narrow: true}, specs.ActErrno, "read", "mkdir"},
	} {
		s, err := c.filter.Seccomp()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		in := input()
		in.App.Security.Seccomp = s
		ok := allowed(t, in)
		spec, err := Generate(in)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if spec.Linux.Seccomp.DefaultAction != c.def {
			t.Errorf("%s: the default is %s", name, spec.Linux.Seccomp.DefaultAction)
		}
		if c.allowed != "" && !slices.Contains(ok, c.allowed) || slices.Contains(ok, c.blocked) {
			t.Errorf("%s: it allows %v", name, ok)
		}
	}
}

func TestFilterWords(t *testing.T) {
	if s, err := (Filter{Mode: Retain, Names: []string{"read", "@appc.io/all"}}).Seccomp(); s != nil || err != nil {
		t.Errorf("all: %+v, %v", s, err)
	}
	for _, f := range []Filter{{Mode: Remove, Names: []string{"@appc.io/empty", "read"}}, {Mode: Retain, Names: []string{"@appc.io/all"}, Narrow: true}} {
		if s, err := f.Seccomp(); err != nil || s == nil || s.Profile != nil {
			t.Errorf("%+v: %+v, %v", f, s, err)
		}
	}
	for name, f := range map[string]Filter{
		"nothing": {Mode: Retain}, "no mode": {Names: []string{"read"}}, "no word": {Mode: Remove, Names: []string{"@systemd/clock"}},
		"word of the other mode": {Mode: Remove, Names: []string{"@appc.io/all"}}, "no name": {Mode: Retain, Names: []string{"Read me"}},
		"no error": {Mode: Retain, Names: []string{"read"}, Errno: "EWHAT"}, "too many": {Mode: Retain, Names: make([]string, maxCalls+1)},
	} {
		if _, err := f.Seccomp(); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
