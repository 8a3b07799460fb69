package supervisor_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// Mounts that the host makes after the pod was born reach its apps, and only
// a bidirectional volume brings an app's mounts to the host.
func TestVolumesComeFromTheHostOfNow(t *testing.T) {
	p := start(t)
	dir := t.TempDir()
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{dir, dir, "", syscall.MS_BIND},
		{"", dir, "", syscall.MS_SHARED},
		{"late", mkdir(t, dir, "late"), "tmpfs", 0},
	} {
		if err := syscall.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		syscall.Unmount(filepath.Join(dir, "late"), syscall.MNT_DETACH)
		syscall.Unmount(filepath.Join(dir, "later"), syscall.MNT_DETACH)
		syscall.Unmount(dir, syscall.MNT_DETACH)
	})
	if err := os.WriteFile(filepath.Join(dir, "late", "file"), []byte("late\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mkdir(t, dir, "later")
	to := manifest.Mount{Source: dir, Destination: "/data", Propagation: manifest.PropagationHostToContainer}
	id := p.runApp(script("cat /data/late/file; while ! [ -e /data/later/file ]; do sleep 0.05; done; cat /data/later/file"), volume(to))
	if err := syscall.Mount("later", filepath.Join(dir, "later"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "later", "file"), []byte("later\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.awaitExit(id)
	if got := text(readLog(t, p.logPath(id)), "stdout"); got != "late\nlater\n" {
		t.Errorf("log %q", got)
	}
	host, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Count(string(host), " "+dir) != 4 {
		t.Errorf("mounts of the host:\n%s", host)
	}
	p.shutdown()
}

func mkdir(t *testing.T, parts ...string) string {
	t.Helper()
	path := filepath.Join(parts...)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSupervisorPinsNoForeignMounts(t *testing.T) {
	p := prepare(t)
	dir := t.TempDir()
	if err := syscall.Mount("foreign", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	p.commit()
	mounts, err := os.ReadFile(filepath.Join("/proc", itoa(p.proc.Pid), "mountinfo"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir) {
		t.Errorf("mounts of the supervisor:\n%s", mounts)
	}
	// … and yet its apps can have them.
	id := p.runApp(script("grep -c foreign /proc/mounts"), volume(mountOf(dir, "/data")))
	if st := p.awaitExit(id); st.ExitCode != 0 {
		t.Errorf("status %+v", st)
	}
	p.shutdown()
}

// A part of a volume is never outside of it, whatever an app makes of the
// volume before another one starts.
func TestPartsOfVolumes(t *testing.T) {
	p := start(t)
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	part := func(sub, destination string, making bool) appOption {
		return volume(manifest.Mount{Destination: destination, Part: &manifest.VolumePart{Volume: dir, SubPath: sub, Make: making}})
	}
	id := p.runApp(script("echo one >/a/one; cat /all/a/b/one; ls -d /all/a/b/../c"), part("a/b", "/a", true), part("a/c", "/c", true), part(".", "/all", false))
	p.awaitExit(id)
	if got := text(readLog(t, p.logPath(id)), "stdout"); got != "one\n/all/a/b/../c\n" {
		t.Errorf("log %q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"out": outside, "up": "../../../../../../../.." + outside, "in": "/a/b"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	id = p.runApp(script("cat /file /in/one"), part("file", "/file", true), part("in", "/in", true))
	p.awaitExit(id)
	if got := text(readLog(t, p.logPath(id)), "stdout"); got != "file\none\n" {
		t.Errorf("log %q", got)
	}
	for _, sub := range []string{"out", "up", "out/secret", "../" + filepath.Base(outside)} {
		for _, making := range []bool{false, true} {
			id := p.add(part(sub, "/a", making), script("cat /a /a/secret"))
			if err := p.call(wire.StartApp, wire.AppParams{ID: id}, nil); err == nil {
				p.awaitExit(id)
				if got := text(readLog(t, p.logPath(id)), "stdout"); got != "" {
					t.Errorf("%s: %q", sub, got)
				}
			}
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
		t.Errorf("outside: %v, %v", left, err)
	}
	p.shutdown()
}

// A volume in memory is one for all apps, has its own mode and owner, is full
// when its size is reached, and exists nowhere but in the pod.
func TestVolumesInMemory(t *testing.T) {
	name := strings.ReplaceAll(testutil.Name(t), "/", "-")
	p := start(t, func(c *manifest.Pod) {
		c.Volumes = []manifest.EmptyVolume{{Name: name, InMemory: true, Size: 1 << 20, Mode: 0o2777, UID: 1000, GID: 2000}}
	})
	part := func(sub, destination string) appOption {
		return volume(manifest.Mount{Destination: destination, Part: &manifest.VolumePart{Memory: name, SubPath: sub, Make: sub != ""}})
	}
	p.awaitExit(p.runApp(script("echo one >/a/file"), part("sub", "/a")))
	id := p.runApp(script(`stat -c '%a %u:%g' /all /all/sub; cat /all/sub/file; head -c 2m /dev/zero >/all/large || stat -c %s /all/large; grep -c ' /all tmpfs ' /proc/mounts`), part("", "/all"))
	p.awaitExit(id)
	got := text(readLog(t, p.logPath(id)), "stdout")
	size := strings.Split(got+strings.Repeat("\n", 5), "\n")[3]
	if n, err := strconv.Atoi(size); err != nil || n == 0 || n > 1<<20 || got != "2777 1000:2000\n2777 1000:2000\none\n"+size+"\n1\n" {
		t.Errorf("log %q", got)
	}
	if host, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(host), name) {
		t.Errorf("%v, mounts of the host:\n%s", err, host)
	}
	for _, other := range []string{"other", "..", ""} {
		id := p.add(volume(manifest.Mount{Destination: "/a", Part: &manifest.VolumePart{Memory: other, SubPath: "x", Make: true}}), command("true"))
		if err := p.call(wire.StartApp, wire.AppParams{ID: id}, nil); err == nil {
			t.Errorf("there is no volume %q", other)
		}
	}
	p.shutdown()
}

func TestImageVolumes(t *testing.T) {
	p := start(t)
	one, two := t.TempDir(), t.TempDir()
	for path, content := range map[string]string{
		filepath.Join(one, "dir", "file"): "lower\n", filepath.Join(two, "dir", "file"): "upper\n",
		filepath.Join(one, "dir", "only"): "only\n",
	} {
		mkdir(t, filepath.Dir(path))
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/dir/only", filepath.Join(two, "link")); err != nil {
		t.Fatal(err)
	}
	image := func(sub, destination string, layers ...string) appOption {
		m := manifest.Mount{Destination: destination, Image: &manifest.ImageMount{SubPath: sub}}
		for _, l := range layers {
			m.Image.Layers = append(m.Image.Layers, manifest.Layer{Path: l})
		}
		return volume(m)
	}
	id := p.runApp(script("cat /a/dir/file /b/file /c /d/dir/file; touch /a/x /b/x /d/x 2>/dev/null || echo refused"),
		image("", "/a", one, two), image("dir", "/b", one, two), image("link", "/c", one, two), image("", "/d", one))
	p.awaitExit(id)
	if got := text(readLog(t, p.logPath(id)), "stdout"); got != "upper\nupper\nonly\nlower\nrefused\n" {
		t.Errorf("log %q", got)
	}
	bad := p.add(image("../../etc", "/a", one, two), command("true"))
	if err := p.call(wire.StartApp, wire.AppParams{ID: bad}, nil); err == nil {
		t.Error("a path out of the image was mounted")
	}
	p.shutdown()
}
