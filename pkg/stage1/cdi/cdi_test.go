package cdi

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
)

const good = `cdiVersion: "0.7.0"
kind: "example.com/gpu"
containerEdits:
  env: ["VENDOR=yes"]
devices:
- name: "0"
  containerEdits:
    env: ["GPU=0", "PATH=/gpu"]
    deviceNodes: [{path: /dev/gpu0, hostPath: /dev/null, permissions: rw}]
    mounts: [{hostPath: /usr/lib/gpu, containerPath: /lib/gpu, options: [ro, bind]}]
    hooks: [{hookName: createContainer, path: /usr/bin/gpu-hook, args: [gpu-hook, update]}]
    additionalGids: [44]
`

func spec() *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Env: []string{"PATH=/bin"}}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestInject(t *testing.T) {
	s := spec()
	if err := Inject([]string{"/not/there", write(t, "gpu.yaml", good)}, s, []string{"example.com/gpu=0"}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"PATH=/gpu", "VENDOR=yes", "GPU=0"}; !reflect.DeepEqual(s.Process.Env, want) {
		t.Errorf("environment %q", s.Process.Env)
	}
	d, r := s.Linux.Devices, s.Linux.Resources.Devices
	if len(d) != 1 || d[0].Path != "/dev/gpu0" || d[0].Major != 1 || d[0].Minor != 3 || len(r) != 1 || r[0].Access != "rw" {
		t.Errorf("devices %+v, rules %+v", d, r)
	}
	if len(s.Mounts) != 1 || s.Mounts[0].Source != "/usr/lib/gpu" || len(s.Hooks.CreateContainer) != 1 || !reflect.DeepEqual(s.Process.User.AdditionalGids, []uint32{44}) {
		t.Errorf("got %+v, %+v, %+v", s.Mounts, s.Hooks, s.Process.User)
	}
}

func TestInjectNothing(t *testing.T) {
	s := spec()
	if err := Inject([]string{"/proc/self/mem"}, s, nil); err != nil || !reflect.DeepEqual(s, spec()) {
		t.Errorf("%v, %+v", err, s)
	}
}

// A stronger directory's file takes the place of a weaker one's.
func TestInjectTheStrongerOne(t *testing.T) {
	s := spec()
	weak, strong := write(t, "gpu.yaml", good), write(t, "gpu.yaml", strings.Replace(good, "GPU=0", "GPU=strong", 1))
	if err := Inject([]string{weak, strong}, s, []string{"example.com/gpu=0"}); err != nil || !strings.Contains(strings.Join(s.Process.Env, " "), "GPU=strong") {
		t.Errorf("%v, %q", err, s.Process.Env)
	}
}

func TestInjectRefuses(t *testing.T) {
	edit := func(text string) string {
		return "cdiVersion: \"1.1.0\"\nkind: \"example.com/gpu\"\ndevices:\n- name: \"0\"\n  containerEdits:\n    " + text + "\n"
	}
	deep := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'j'; c++ {
		last := string(c - 1)
		deep += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+last+",", 9) + "*" + last + "]\n"
	}
	for name, c := range map[string]struct {
		text string
		kind errs.Kind
		says string
	}{
		"another device":      {strings.Replace(good, `"0"`, `"1"`, 1), errs.NotFound, "example.com/gpu=0"},
		"no file":             {"", errs.NotFound, "gpu.yaml"},
		"cut off":             {good[:len(good)/2] + "\t{", errs.NotFound, "gpu.yaml"},
		"no CDI":              {"hello: world", errs.NotFound, "gpu.yaml"},
		"binary":              {"\x00\xff\xfe", errs.NotFound, "gpu.yaml"},
		"unknown version":     {strings.Replace(good, "0.7.0", "99.0.0", 1), errs.NotFound, "gpu.yaml"},
		"aliases of aliases":  {deep + edit("env: [A=b]"), errs.NotFound, "gpu.yaml"},
		"relative mount":      {edit("mounts: [{hostPath: /a, containerPath: ../a, options: [bind]}]"), errs.Invalid, "../a"},
		"mount on the root":   {edit("mounts: [{hostPath: /a, containerPath: /a/.., options: [bind]}]"), errs.Invalid, "/a/.."},
		"relative device":     {edit("deviceNodes: [{path: null, hostPath: /dev/null}]"), errs.NotFound, "gpu.yaml"},
		"a device that isn't": {edit("deviceNodes: [{path: /dev/x, hostPath: /etc/passwd}]"), errs.Invalid, "/etc/passwd"},
		"an absent device":    {edit("deviceNodes: [{path: /dev/stagelet-none}]"), errs.Invalid, "/dev/stagelet-none"},
		"relative hook":       {edit("hooks: [{hookName: prestart, path: hook}]"), errs.Invalid, `"hook"`},
		"unknown hook":        {edit("hooks: [{hookName: whenever, path: /hook}]"), errs.NotFound, "whenever"},
		"network device":      {edit("netDevices: [{hostInterfaceName: eth9, name: eth1}]"), errs.Unsupported, "CNI"},
		"bad variable":        {edit("env: [NOTHING]"), errs.NotFound, "NOTHING"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Inject([]string{write(t, "gpu.yaml", c.text)}, spec(), []string{"example.com/gpu=0"})
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q with %q", err, c.kind, c.says)
			}
		})
	}
}

// Files that never end, or are none, must not keep an app waiting.
func TestInjectReadsFilesOnly(t *testing.T) {
	fifo := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(fifo, "x.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := t.TempDir()
	if err := os.Symlink("/dev/zero", filepath.Join(link, "x.yaml")); err != nil {
		t.Fatal(err)
	}
	large := write(t, "x.json", "")
	if err := os.Truncate(filepath.Join(large, "x.json"), maxFile+1); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{fifo, link, large} {
		if err := Inject([]string{dir}, spec(), []string{"example.com/gpu=0"}); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v", err)
		}
	}
}

func TestRequested(t *testing.T) {
	got, err := Requested(map[string]string{"cdi.k8s.io/b": "v.com/c=1,v.com/c=0", "cdi.k8s.io/a": "v.com/c=1", "other": "x"})
	if want := []string{"v.com/c=0", "v.com/c=1"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	for _, value := range []string{"", "gpu0", "v.com/c=1,", "v.com/c", "../x=1", "v.com/c=\n"} {
		if got, err := Requested(map[string]string{"cdi.k8s.io/a": value}); !errors.Is(err, errs.Invalid) {
			t.Errorf("%q: %q, %v", value, got, err)
		}
	}
}
