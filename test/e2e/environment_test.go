package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/testutil/busybox"
)

func TestEnvironment(t *testing.T) {
	s := startServer(t)
	p := s.runPod(t, func(c *cri.PodSandboxConfig) {
		c.Hostname = "myhost"
		c.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "81", "kernel.shm_rmid_forced": "1"}
	})
	for _, c := range []struct {
		name, script, want string
		option             appOption
	}{
		{"variables", `echo "$A|$B"`, "1|two words = yes", func(c *cri.ContainerConfig) {
			c.Envs = []*cri.KeyValue{{Key: "A", Value: []byte("1")}, {Key: "B", Value: []byte("two words = yes")}}
		}},
		{"the last of one name counts", `echo "$A"; env | grep -c ^A=`, "2\n1", func(c *cri.ContainerConfig) {
			c.Envs = []*cri.KeyValue{{Key: "A", Value: []byte("1")}, {Key: "A", Value: []byte("2")}}
		}},
		{"the image's PATH", `echo $PATH`, busybox.DefaultPath, nil},
		{"working directory", "pwd", "/var/tmp", func(c *cri.ContainerConfig) { c.WorkingDir = "/var/tmp" }},
		{"a working directory that isn't there", "pwd", "/made/for/me", func(c *cri.ContainerConfig) { c.WorkingDir = "/made/for/me" }},
		{"hostname", "hostname; cat /etc/hostname", "myhost\nmyhost", nil},
		{"dns", "cat /etc/resolv.conf", "search cluster.local\nnameserver 10.96.0.10\noptions ndots:5", nil},
		{"sysctls", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced", "81\n1", nil},
		{"shared memory", "df -k /dev/shm | awk 'NR==2{print $2}'; touch /dev/shm/x", "65536", nil},
		{"devices", "ls /dev | grep -v core | tr '\\n' ' '", "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero", nil},
		{"root is writable", "touch /x /etc/y && rm /etc/y && ls /x", "/x", nil},
		{"temporary directory", "stat -c %a /tmp", "1777", nil},
		{"arguments", "", "hello world", func(c *cri.ContainerConfig) { c.Command, c.Args = []string{"/bin/echo"}, []string{"hello", "world"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			options := []appOption{func(*cri.ContainerConfig) {}}
			if c.option != nil {
				options[0] = c.option
			}
			got := p.output(t, c.script, options...)
			if c.name == "dns" || c.name == "devices" {
				got, c.want = sorted(got), sorted(c.want)
			}
			wantEqual(t, "output", got, c.want)
		})
	}
}

// sorted puts the lines of text, or the words of its one line, in order.
func sorted(text string) string {
	fields := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
	if len(fields) == 1 {
		fields = strings.Fields(text)
	}
	slices.Sort(fields)
	return strings.Join(fields, "\n")
}

func TestImageDefaults(t *testing.T) {
	s := startServer(t)
	const name = "localhost/stagelet/custom:v1"
	var archive bytes.Buffer
	err := busybox.Image{
		Name: name,
		Config: v1.ImageConfig{
			User: "app", WorkingDir: "/home/app", StopSignal: "SIGUSR1",
			Env:        []string{"PATH=/bin", "FROM=image", "OTHER=image"},
			Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"id -u; id -G; pwd; echo $FROM $OTHER; cat /greeting"},
		},
		Layers: [][]busybox.File{{busybox.Regular("greeting", 0o644, []byte("hello\n"))}, {busybox.Regular("bin/.wh.vi", 0o644, nil)}},
	}.WriteOCI(&archive)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("custom.tar"), archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	s.importImage(s.path("custom.tar")) // while the server runs
	p := s.runPod(t)
	custom := func(c *cri.ContainerConfig) { c.Image.Image, c.Command = name, nil }
	wantEqual(t, "output", p.output(t, "", custom, func(c *cri.ContainerConfig) {
		c.Envs = []*cri.KeyValue{{Key: "OTHER", Value: []byte("config")}}
	}), "1000\n1000 10\n/home/app\nimage config\nhello")
	wantEqual(t, "output with other arguments", p.output(t, "", custom, func(c *cri.ContainerConfig) {
		c.Args = []string{"ls /bin/vi 2>/dev/null || echo gone"}
	}), "gone")
	a := p.start(t, "", custom, func(c *cri.ContainerConfig) {
		c.Args = []string{"trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done"}
	})
	a.awaitLine(t, "ready")
	a.stop(t, patience)
	wantEqual(t, "exit code after the image's stop signal", a.awaitExit(t).ExitCode, 9)

	if err := s.images.RemoveImage(s.ctx, &cri.ImageSpec{Image: name}); err != nil {
		t.Error(err)
	}
	if st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: name}, false); err != nil || st.Image != nil {
		t.Errorf("status of a removed image: %v, %v", st, err)
	}
	wantEqual(t, "output in an app of a removed image", p.output(t, "echo fine"), "fine")
}

func TestMounts(t *testing.T) {
	s := startServer(t)
	host := s.path("volume")
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	file := s.path("hosts")
	if err := os.WriteFile(file, []byte("127.0.0.1 localhost\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(host, s.path("link")); err != nil {
		t.Fatal(err)
	}
	p := s.runPod(t)
	t.Run("read-write", func(t *testing.T) {
		p.output(t, "echo from app > /data/x", mounts(&cri.Mount{HostPath: host, ContainerPath: "/data"}))
		if data, err := os.ReadFile(filepath.Join(host, "x")); err != nil || string(data) != "from app\n" {
			t.Errorf("%q, %v", data, err)
		}
	})
	t.Run("read-only", func(t *testing.T) {
		out := p.output(t, "cat /data/x; touch /data/y 2>&1 || true", mounts(&cri.Mount{HostPath: host, ContainerPath: "/data", Readonly: true}))
		if !strings.HasPrefix(out, "from app\n") || !strings.Contains(out, "Read-only") {
			t.Errorf("output %q", out)
		}
	})
	t.Run("a file over the image's", func(t *testing.T) {
		wantEqual(t, "output", p.output(t, "cat /etc/hosts", mounts(&cri.Mount{HostPath: file, ContainerPath: "/etc/hosts"})), "127.0.0.1 localhost")
	})
	t.Run("a source that is a symbolic link", func(t *testing.T) {
		wantEqual(t, "output", p.output(t, "cat /data/x", mounts(&cri.Mount{HostPath: s.path("link"), ContainerPath: "/data"})), "from app")
	})
	t.Run("one inside of another", func(t *testing.T) {
		out := p.output(t, "cat /data/x /data/inner/hosts", mounts(
			&cri.Mount{HostPath: host, ContainerPath: "/data"}, &cri.Mount{HostPath: file, ContainerPath: "/data/inner/hosts"}))
		wantEqual(t, "output", out, "from app\n127.0.0.1 localhost")
	})
	t.Run("a source that isn't there", func(t *testing.T) {
		absent := s.path("made", "for", "me")
		wantEqual(t, "output", p.output(t, "stat -c %a:%u /data; touch /data/x", mounts(&cri.Mount{HostPath: absent, ContainerPath: "/data"})), "755:0")
		if _, err := os.Stat(filepath.Join(absent, "x")); err != nil {
			t.Error(err)
		}
	})
	t.Run("a source that can't be", func(t *testing.T) {
		if err := os.Symlink("nowhere", s.path("dangling")); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{s.path("dangling"), filepath.Join(file, "below")} {
			a := p.create(t, "true", mounts(&cri.Mount{HostPath: path, ContainerPath: "/data"}))
			if err := a.start(); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", path, err)
			}
		}
	})
	t.Run("with options", func(t *testing.T) { testMountOptions(t, s, p) })
	t.Run("status gives them back", func(t *testing.T) {
		want := &cri.Mount{HostPath: file, ContainerPath: "/dev/termination-log", Readonly: true, Propagation: cri.MountPropagation_PROPAGATION_PRIVATE}
		got := p.create(t, "true", mounts(want)).status(t).Mounts
		if len(got) != 1 || got[0].HostPath != want.HostPath || got[0].ContainerPath != want.ContainerPath || !got[0].Readonly {
			t.Errorf("got %v", got)
		}
	})
}

func testMountOptions(t *testing.T, s *server, p *pod) {
	t.Helper()
	st, err := s.runtime.Status(s.ctx, false)
	if err != nil || !st.Features.MountOptions {
		t.Errorf("%v, features %v", err, st.GetFeatures())
	}
	dir := s.path("optional")
	if err := os.MkdirAll(filepath.Join(dir, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	mountTmpfs(t, filepath.Join(dir, "below"))
	if err := syscall.Mknod(filepath.Join(dir, "null"), syscall.S_IFCHR|0o666, 1<<8|3); err != nil {
		t.Fatal(err)
	}
	use := func(options ...string) appOption {
		return func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: dir, ContainerPath: "/data", MountOptions: options}}
		}
	}
	const script = `for d in /data /data/below; do
	cp /bin/busybox $d/busybox; chmod 4755 $d/busybox; $d/busybox true 2>/dev/null && echo runs || echo does not
done
(: > /data/null) 2>/dev/null && echo device || echo no device
grep -c ' /data[^ ]* .*nosuid' /proc/self/mountinfo || true`
	wantEqual(t, "none", p.output(t, script, use()), "runs\nruns\ndevice\n0")
	wantEqual(t, "noexec", p.output(t, script, use("noexec")), "does not\ndoes not\ndevice\n0")
	wantEqual(t, "nodev, nosuid", p.output(t, script, use("nodev", "nosuid")), "runs\nruns\nno device\n2")
	a := p.create(t, "true", use("noexec", "nosuid"))
	wantEqual(t, "options in the status", strings.Join(a.status(t).Mounts[0].MountOptions, " "), "noexec nosuid")
	for _, option := range []string{"suid", "dev", "exec", "rw", "noexec,suid", "bind", ""} {
		if a, err := p.tryCreate(s.appConfig("true", use("nosuid", option))); err == nil {
			t.Errorf("option %q: app %s was created", option, a.id)
		}
	}
	wantEqual(t, "an image", p.output(t, "/image/busybox true 2>/dev/null || echo does not", func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{ContainerPath: "/image", Image: &cri.ImageSpec{Image: busyboxImage}, ImageSubPath: "bin", Readonly: true, MountOptions: []string{"noexec"}}}
	}), "does not")
}
