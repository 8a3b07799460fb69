package ocispec

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// box is a pod's directories with one app in it, made without a supervisor,
// on the host's network, IPC and PID namespace of its own.
type box struct {
	Input
	t       *testing.T
	cgroups sys.Cgroups
}

func newBox(t *testing.T) *box {
	t.Helper()
	testutil.CheckLeaks(t)
	testutil.NeedRunc(t)
	cgroups, err := sys.DetectCgroups()
	if err != nil {
		t.Fatal(err)
	}
	b := &box{Input: input(), t: t, cgroups: cgroups}
	if b.Host, err = ReadHost(cgroups); err != nil {
		t.Fatal(err)
	}
	b.Pod.CgroupParent = "/" + testutil.Name(t)
	b.Pod.Namespaces = manifest.Namespaces{Network: manifest.NamespaceHost, IPC: manifest.NamespaceHost}
	b.App.ID = "app-" + testutil.Name(t)
	b.App.Cwd = "/tmp"
	b.Dir, b.RunDir = manifest.Dir(t.TempDir()), manifest.RunDir(t.TempDir())
	if b.App.Security.Capabilities, err = ResolveCapabilities(CapabilityRequest{}, b.Host.Capabilities); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{b.Dir.Etc(), b.Dir.App(b.App.ID).Bundle(), b.RunDir.Volumes(b.App.ID), filepath.Dir(b.RunDir.Rootfs(b.App.ID))} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"hostname", "resolv.conf"} {
		b.write(filepath.Join(b.Dir.Etc(), name), "this is "+name+"\n")
	}
	if err := os.Rename(testutil.BusyboxRoot(t), b.RunDir.Rootfs(b.App.ID)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := cgroups.Kill(ctx, b.Pod.CgroupParent); err != nil {
			t.Error(err)
		}
		if err := cgroups.Remove(b.Pod.CgroupParent); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *box) write(path, text string) {
	b.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// volume adds a mount, staged as a plain directory or bind source.
func (b *box) volume(m manifest.Mount) string {
	b.t.Helper()
	staged := filepath.Join(b.RunDir.Volumes(b.App.ID), strconv.Itoa(len(b.App.Mounts)))
	if err := os.Mkdir(staged, 0o777); err != nil {
		b.t.Fatal(err)
	}
	b.App.Mounts = append(b.App.Mounts, m)
	return staged
}

// spec writes config.json.
func (b *box) spec() {
	b.t.Helper()
	var err error
	if b.Devices, err = AppDevices(b.App); err != nil {
		b.t.Fatal(err)
	}
	spec, err := Generate(b.Input)
	if err != nil {
		b.t.Fatal(err)
	}
	data, err := Encode(spec)
	if err != nil {
		b.t.Fatal(err)
	}
	b.write(b.Dir.App(b.App.ID).Spec(), string(data))
}

// run runs a shell script as the app and gives what it prints.
func (b *box) run(script string) string {
	b.t.Helper()
	b.App.Args = []string{"/bin/sh", "-c", script}
	b.spec()
	return b.runtime("runc")
}

func (b *box) runtime(command ...string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	args := append(command[1:], "--root", b.RunDir.Runtime(), "run", "--bundle", b.Dir.App(b.App.ID).Bundle(), b.App.ID)
	cmd := exec.CommandContext(ctx, command[0], args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// facts prints what a process is confined by, one "key value" a line.
const facts = `grep -E '^(Cap|Seccomp:|NoNewPrivs|Umask|Groups|Uid|Gid)' /proc/self/status | sed 's/:[[:space:]]*/ /'
echo oom $(cat /proc/self/oom_score_adj)
echo path $PATH
echo hostname $HOSTNAME
echo cwd $(pwd)
echo etc $(cat /etc/hostname) $(cat /etc/resolv.conf)
for p in /proc/keys /proc/kcore; do [ -e $p ] && echo masked$p $(head -c 4 $p | wc -c); done
for d in / /tmp /proc/sys/kernel /sys /dev /dev/shm /etc; do touch $d/.stagelet 2>/dev/null && rm $d/.stagelet && echo writable$d yes; done
c=$(grep -E ' cgroup2? ' /proc/mounts | head -n 1 | cut -d ' ' -f 2)
mkdir $c/stagelet 2>/dev/null && rmdir $c/stagelet && echo writablecgroup yes
echo null > /dev/null && echo null yes
echo devices $(ls /dev | tr '\n' ' ')
`

func parse(text string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		found[key] = strings.Join(strings.Fields(value), " ")
	}
	return found
}

func (b *box) expect(script string, want map[string]string) map[string]string {
	b.t.Helper()
	text := b.run(script)
	got := parse(text)
	for key, value := range want {
		if got[key] != value {
			b.t.Errorf("%s is %q, want %q", key, got[key], value)
		}
	}
	if b.t.Failed() {
		b.t.Log(text)
	}
	return got
}

// mask gives capabilities as /proc/self/status shows them.
func mask(names ...string) string {
	var bits uint64
	for n, name := range AllCapabilities() {
		if slices.Contains(names, name) {
			bits |= 1 << n
		}
	}
	return fmt.Sprintf("%016x", bits)
}

func TestRunDefault(t *testing.T) {
	b := newBox(t)
	b.App.Resources.OOMScoreAdj = 500
	caps := mask(b.App.Security.Capabilities...)
	got := b.expect(facts, map[string]string{
		"CapEff": caps, "CapPrm": caps, "CapBnd": caps, "CapInh": mask(), "CapAmb": mask(),
		"Seccomp": "0", "NoNewPrivs": "0", "Umask": "0022", "oom": "500", "path": DefaultPath, "hostname": "pod", "cwd": "/tmp",
		"etc":      "this is hostname this is resolv.conf",
		"writable": "", "writable/": "yes", "writable/tmp": "yes", "writable/dev/shm": "yes",
		"writable/proc/sys/kernel": "", "writable/sys": "", "writablecgroup": "", "null": "yes",
	})
	for key, size := range got {
		if strings.HasPrefix(key, "masked") && size != "0" {
			t.Errorf("%s shows %s bytes", key, size)
		}
	}
	if strings.Contains(got["devices"], "kmsg") {
		t.Errorf("devices: %s", got["devices"])
	}
}

func TestRunPrivileged(t *testing.T) {
	b := newBox(t)
	b.App.Security.Privileged = true
	b.App.Security.Seccomp = &manifest.Seccomp{}
	var err error
	if b.App.Security.Capabilities, err = ResolveCapabilities(CapabilityRequest{Privileged: true}, b.Host.Capabilities); err != nil {
		t.Fatal(err)
	}
	got := b.expect(facts+"mkdir /m; mount -t tmpfs x /m && echo mount yes\ncat /proc/sys/kernel/hostname >/proc/sys/kernel/hostname && echo sysctl yes", map[string]string{
		"CapEff": mask(b.Host.Capabilities...), "Seccomp": "0", "mount": "yes", "writablecgroup": "yes", "sysctl": "yes",
	})
	if !strings.Contains(got["devices"], "kmsg") {
		t.Errorf("devices: %s", got["devices"])
	}
}

func TestRunReadOnlyAsUser(t *testing.T) {
	b := newBox(t)
	b.App.Rootfs.ReadOnly = true
	b.App.User = manifest.User{UID: 1000, GID: 2000, AdditionalGIDs: []uint32{2000, 3000}}
	b.App.Security.NoNewPrivs = true
	b.App.Security.Seccomp = &manifest.Seccomp{}
	b.App.Security.Capabilities = []string{"CAP_CHOWN", "CAP_NET_BIND_SERVICE"}
	b.App.Security.Ambient = []string{"CAP_NET_BIND_SERVICE"}
	bind := mask("CAP_NET_BIND_SERVICE")
	b.expect(facts, map[string]string{
		"CapEff": bind, "CapPrm": bind, "CapAmb": bind, "CapInh": bind, "CapBnd": mask(b.App.Security.Capabilities...),
		"Seccomp": "2", "NoNewPrivs": "1", "Uid": "1000 1000 1000 1000", "Gid": "2000 2000 2000 2000", "Groups": "2000 3000",
		"writable/": "", "writable/tmp": "", "writable/etc": "", "writable/dev/shm": "yes",
	})
}

func TestRunSeccomp(t *testing.T) {
	b := newBox(t)
	b.App.Security.Seccomp = &manifest.Seccomp{}
	b.expect("grep Seccomp: /proc/self/status | tr '\\t' ' '; unshare -U true 2>/dev/null; echo unshare $?", map[string]string{"Seccomp:": "2", "unshare": "1"})
	b.cleanup()
	localhost(&b.Input, `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`)
	b.expect("mkdir /tmp/x 2>/dev/null; echo mkdir $?", map[string]string{"mkdir": "1"})
}

// cleanup makes room for another run in the same box.
func (b *box) cleanup() { _ = os.RemoveAll(b.RunDir.Runtime()) }

func TestRunDevices(t *testing.T) {
	b := newBox(t)
	b.App.Devices = []manifest.Device{
		{HostPath: "/dev/fuse", ContainerPath: "/dev/sub/fuse", Permissions: "r"},
		{HostPath: "/dev/net", ContainerPath: "/dev/netdevices", Permissions: "rw"},
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		testutil.Missing(t, "the device /dev/net/tun")
	}
	b.expect(`head -c 0 /dev/sub/fuse; echo read $?
(: > /dev/sub/fuse) 2>/dev/null; echo write $?
[ -c /dev/netdevices/tun ]; echo tun $?
mknod /tmp/mem c 1 1; (: < /tmp/mem) 2>/dev/null; echo mem $?`,
		map[string]string{"read": "0", "write": "1", "tun": "0", "mem": "1"})
}

func TestRunMounts(t *testing.T) {
	b := newBox(t)
	inner := b.volume(manifest.Mount{Source: "/", Destination: "/data/inner", ReadOnly: true})
	outer := b.volume(manifest.Mount{Source: "/", Destination: "/data", Propagation: manifest.PropagationHostToContainer})
	b.write(filepath.Join(inner, "f"), "inner")
	b.write(filepath.Join(outer, "f"), "outer")
	etc := b.volume(manifest.Mount{Source: "/", Destination: "/etc"})
	b.write(filepath.Join(etc, "name"), "own")
	deep := b.volume(manifest.Mount{Source: "/", Destination: "/deep", ReadOnly: true, RecursiveReadOnly: true})
	b.write(filepath.Join(deep, "f"), "deep")
	b.expect(`echo outer $(cat /data/f); echo inner $(cat /data/inner/f)
touch /data/x; echo outerwrite $?
touch /data/inner/x 2>/dev/null; echo innerwrite $?
touch /deep/x 2>/dev/null; echo deepwrite $?
echo etc $(ls /etc)`, map[string]string{
		"outer": "outer", "inner": "inner", "outerwrite": "0", "innerwrite": "1", "deepwrite": "1", "etc": "name",
	})
	if names, _ := filepath.Glob(etc + "/*"); len(names) != 1 {
		t.Errorf("the volume at /etc holds %v", names)
	}
}

// TestRunBidirectional: a mount that the app makes shows on the host.
func TestRunBidirectional(t *testing.T) {
	b := newBox(t)
	shared := b.volume(manifest.Mount{Source: "/", Destination: "/data", Propagation: manifest.PropagationBidirectional})
	for _, flags := range []uintptr{0, syscall.MS_SHARED} {
		source, kind := "none", "tmpfs"
		if flags != 0 {
			source, kind = "", ""
		}
		if err := syscall.Mount(source, shared, kind, flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for syscall.Unmount(filepath.Join(shared, "m"), syscall.MNT_DETACH) == nil {
		}
		_ = syscall.Unmount(shared, syscall.MNT_DETACH)
	})
	var err error
	b.App.Security.Privileged = true
	if b.App.Security.Capabilities, err = ResolveCapabilities(CapabilityRequest{Privileged: true}, b.Host.Capabilities); err != nil {
		t.Fatal(err)
	}
	b.expect("mkdir /data/m && mount -t tmpfs x /data/m && touch /data/m/f; echo done $?", map[string]string{"done": "0"})
	if _, err := os.Stat(filepath.Join(shared, "m", "f")); err != nil {
		t.Error(err)
	}
}

func TestRunLimits(t *testing.T) {
	b := newBox(t)
	b.App.Resources = manifest.Resources{
		MemoryLimit: 64 << 20, CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, PidsLimit: 30,
		HugePages: map[string]uint64{"2MB": 0, "1GB": 0}, OOMScoreAdj: -1000,
	}
	b.App.Args = []string{"/bin/sleep", "1000"}
	b.spec()
	dir := b.Dir.App(b.App.ID).Bundle()
	cmd := exec.Command("runc", "--root", b.RunDir.Runtime(), "run", "--detach", "--bundle", dir, b.App.ID)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	stats, err := b.cgroups.Stats(filepath.Join(b.Pod.CgroupParent, b.App.ID))
	if err != nil {
		t.Fatal(err)
	}
	if stats.Memory.Limit != 64<<20 || stats.ProcessLimit != 30 || stats.Processes == 0 || stats.CPU.Nanos == 0 {
		t.Errorf("got %+v", stats)
	}
	if swap := stats.Memory.Swap; b.Host.SwapLimits && (swap == nil || swap.Limit == nil || *swap.Limit != 0) {
		t.Errorf("swap is %+v, want none to be allowed", swap)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := b.cgroups.Kill(ctx, b.Pod.CgroupParent); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("runc", "--root", b.RunDir.Runtime(), "delete", "--force", b.App.ID).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestRunNamespaces(t *testing.T) {
	b := newBox(t)
	holder := exec.Command("/bin/sleep", "1000")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() })
	if err := os.Mkdir(b.RunDir.Shm(), 0o1777); err != nil {
		t.Fatal(err)
	}
	own := func(ns string) string { return fmt.Sprintf("/proc/%d/ns/%s", holder.Process.Pid, ns) }
	b.Namespaces = map[string]string{"network": own("net"), "ipc": own("ipc"), "uts": own("uts")}
	b.Pod.Namespaces = manifest.Namespaces{Network: manifest.NamespacePod, IPC: manifest.NamespacePod}
	b.App.PID = manifest.PIDNamespace{Mode: manifest.NamespaceTarget}
	b.TargetPID = holder.Process.Pid
	want := map[string]string{"shm": "0", "interfaces": "lo", "first": "sleep"}
	for _, ns := range []string{"net", "ipc", "uts", "pid"} {
		link, err := os.Readlink(own(ns))
		if err != nil {
			t.Fatal(err)
		}
		want[ns] = link
	}
	b.expect(`for ns in net ipc uts pid; do echo $ns $(readlink /proc/self/ns/$ns); done
touch /dev/shm/f; echo shm $?
echo interfaces $(ls /sys/class/net)
echo first $(cat /proc/1/comm)`, want)
	if _, err := os.Stat(filepath.Join(b.RunDir.Shm(), "f")); err != nil {
		t.Error(err)
	}
}

// TestRunCrun has another runtime take the same spec.
func TestRunCrun(t *testing.T) {
	b := newBox(t)
	crun := testutil.NeedProgram(t, "crun")
	b.App.Security.Seccomp = &manifest.Seccomp{}
	b.App.Args = []string{"/bin/sh", "-c", facts}
	b.spec()
	// crun takes a hybrid host for a version 2 one when a controller sits in
	// the unified hierarchy, and refuses it.
	hide := `umount /sys/fs/cgroup/unified 2>/dev/null; exec "$0" "$@"`
	got := parse(b.runtime("unshare", "--mount", "sh", "-c", hide, crun))
	caps := mask(b.App.Security.Capabilities...)
	if got["CapEff"] != caps || got["CapBnd"] != caps || got["Seccomp"] != "2" || got["Umask"] != "0022" || got["writable/sys"] != "" {
		t.Errorf("got %q", got)
	}
}

func TestAppDevicesRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range []manifest.Device{
		{HostPath: "/dev/stagelet-is-not-there"},
		{HostPath: file},
		{HostPath: "dev/null"},
		{HostPath: "/dev/null", ContainerPath: "null"},
		{HostPath: "/dev/null", Permissions: "rx"},
	} {
		got, err := AppDevices(&manifest.App{Devices: []manifest.Device{d}})
		if err == nil {
			t.Errorf("%+v: %v", d, got)
		}
		t.Log(err)
	}
	got, err := AppDevices(&manifest.App{Devices: []manifest.Device{{HostPath: "/dev/null", ContainerPath: "/dev/x/../n"}}})
	want := []Device{{Path: "/dev/n", Type: "c", Major: 1, Minor: 3, Mode: 0o666, Permissions: "rwm"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestCapabilitySet(t *testing.T) {
	got, err := capabilitySet([]byte("Name:\tx\nCapBnd:\tfffffe0000000003\n"), "CapBnd")
	if err != nil || !slices.Equal(got[:2], []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE"}) || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", "CapBnd:\tx\n", "CapBnd:"} {
		if _, err := capabilitySet(bytes.ToUpper([]byte(text)), "CapBnd"); err == nil {
			t.Errorf("%q passes", text)
		}
	}
}
