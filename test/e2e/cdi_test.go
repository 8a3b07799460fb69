package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// startVendorServer gives a server, and the directory of a vendor's files.
func startVendorServer(t *testing.T) (s *server, dir string) {
	t.Helper()
	dir = t.TempDir()
	s = startServer(t, "--cdi-dir", dir)
	if err := os.Chmod(s.dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func (s *server) vendorFile(dir, name, format string, args ...any) {
	s.t.Helper()
	if err := os.WriteFile(dir+"/"+name, fmt.Appendf(nil, format, args...), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func cdiDevices(names ...string) appOption {
	return func(c *cri.ContainerConfig) {
		for _, name := range names {
			c.CDIDevices = append(c.CDIDevices, &cri.CDIDevice{Name: name})
		}
	}
}

func cdiAnnotation(value string) appOption {
	return func(c *cri.ContainerConfig) { c.Annotations = map[string]string{"cdi.k8s.io/vendor.com_dev": value} }
}

func TestCDI(t *testing.T) {
	s, dir := startVendorServer(t)
	lib := s.path("vendor-lib") // as vendors have them: anywhere on the host, and mounted
	if err := os.Mkdir(lib, 0o755); err != nil {
		t.Fatal(err)
	}
	mountTmpfs(t, lib)
	if err := os.WriteFile(s.path("hook-ran"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.path("hook-ran"), 0o666); err != nil {
		t.Fatal(err)
	}
	s.vendorFile(dir, "vendor.yaml", `cdiVersion: "0.7.0"
kind: vendor.com/dev
containerEdits:
  env: [VENDOR=yes]
devices:
- name: log
  containerEdits:
    env: [DEVICE=log]
    deviceNodes: [{path: /dev/mylog, hostPath: /dev/kmsg, permissions: w}]
    mounts: [{hostPath: %s, containerPath: /opt/vendor, options: [ro, nosuid, rbind]}]
    additionalGids: [4242]
- name: nil
  containerEdits:
    deviceNodes: [{path: /dev/mynull, hostPath: /dev/null}]
    hooks: [{hookName: createContainer, path: /bin/sh, args: [sh, -c, "echo ran > %s"]}]
- name: ghost
  containerEdits:
    mounts: [{hostPath: /dev/null, containerPath: ../../etc/passwd, options: [bind]}]
`, lib, s.path("hook-ran"))
	p := s.runPod(t)
	const script = `echo "$VENDOR $DEVICE"; ls /opt/vendor; touch /opt/vendor/x 2>/dev/null || echo read-only
(: > /dev/mylog) && echo written; (: < /dev/mylog) 2>/dev/null || echo not read; id -G`
	const all = "yes log\ninside\nread-only\nwritten\nnot read\n0 4242"
	t.Run("by name", func(t *testing.T) {
		wantEqual(t, "output", sortGroups(p.output(t, script, cdiDevices("vendor.com/dev=log"))), sortGroups(all))
	})
	t.Run("by annotation", func(t *testing.T) {
		wantEqual(t, "output", sortGroups(p.output(t, script, cdiAnnotation("vendor.com/dev=log"))), sortGroups(all))
	})
	t.Run("by both", func(t *testing.T) {
		a := p.start(t, script+"; exec sleep 1000", cdiAnnotation("vendor.com/dev=log"), cdiDevices("vendor.com/dev=log", "vendor.com/dev=nil"))
		wantEqual(t, "an exec", a.exec(t, "echo $DEVICE; echo x > /dev/mynull && echo gone"), "log\ngone")
		wantEqual(t, "what the hook left", readText(t, s.path("hook-ran")), "ran")
		if m := a.status(t).Mounts; len(m) != 0 {
			t.Errorf("mounts that nobody asked for are in the status: %v", m)
		}
	})
	t.Run("not without", func(t *testing.T) {
		wantEqual(t, "output", p.output(t, "ls /dev/mylog /opt/vendor 2>/dev/null || echo none; echo $VENDOR"), "none\n")
	})
	t.Run("in a user namespace", func(t *testing.T) {
		users := s.runPod(t, usersPod)
		wantEqual(t, "output", users.output(t, "echo $DEVICE; ls /opt/vendor; touch /opt/vendor/x 2>/dev/null || echo read-only; echo x > /dev/mynull && echo gone; ls /dev/mylog",
			func(c *cri.ContainerConfig) {
				c.CDIDevices = []*cri.CDIDevice{{Name: "vendor.com/dev=log"}, {Name: "vendor.com/dev=nil"}}
			}), "log\ninside\nread-only\ngone\n/dev/mylog")
	})
	for _, c := range []struct {
		name, says string
		code       codes.Code
		option     appOption
	}{
		{"unknown device", "vendor.com/dev=other", codes.NotFound, cdiDevices("vendor.com/dev=other")},
		{"unknown vendor", "nobody.com/dev=log", codes.NotFound, cdiDevices("vendor.com/dev=log", "nobody.com/dev=log")},
		{"no name", "CDI_devices[0].name", codes.InvalidArgument, cdiDevices("log")},
		{"a path", "CDI_devices[0].name", codes.InvalidArgument, cdiDevices("../../etc=passwd")},
		{"annotation", "annotations", codes.InvalidArgument, cdiAnnotation("vendor.com/dev=log;x")},
		{"edits out of the app", "../../etc/passwd", codes.InvalidArgument, cdiDevices("vendor.com/dev=ghost")},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := p.tryCreate(s.appConfig("true", c.option))
			if status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("app %q, %v", a.id, err)
			}
		})
	}
	t.Run("a broken file breaks its own devices only", func(t *testing.T) {
		s.vendorFile(dir, "broken.json", `{"cdiVersion": "0.7.0", "kind": "broken.com/dev", "devices": [`)
		wantEqual(t, "output", p.output(t, "echo $DEVICE", cdiDevices("vendor.com/dev=log")), "log")
		_, err := p.tryCreate(s.appConfig("true", cdiDevices("broken.com/dev=x")))
		if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "broken.json") {
			t.Errorf("got %v", err)
		}
	})
}
