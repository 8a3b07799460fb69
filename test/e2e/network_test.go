package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const webServer = "mkdir /tmp/w; echo %s > /tmp/w/index.html; exec httpd -f -p 80 -h /tmp/w"

// get asks a web server until it answers.
func get(t *testing.T, address string) (body string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	eventually(t, func() error {
		r, err := client.Get("http://" + address)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		data, err := io.ReadAll(r.Body)
		body = strings.TrimSpace(string(data))
		return err
	})
	return body
}

func TestPodsReachEachOther(t *testing.T) {
	s := startServer(t)
	one, two := s.runPod(t), s.runPod(t)
	one.start(t, fmt.Sprintf(webServer, "one"))
	if one.ip(t) == two.ip(t) {
		t.Errorf("both pods have %s", one.ip(t))
	}
	wantEqual(t, "answer to the host", get(t, one.ip(t)+":80"), "one")
	wantEqual(t, "answer to the other pod", two.output(t, "wget -q -O - http://"+one.ip(t)), "one")
	wantEqual(t, "interfaces", two.output(t, "ls /sys/class/net | tr '\\n' ' '; cat /sys/class/net/lo/operstate; ping -c 1 127.0.0.1 > /dev/null && echo lo"),
		"eth0 lo unknown\nlo")
}

func TestHostPorts(t *testing.T) {
	s := startServer(t)
	port := freePort(t)
	p := s.runPod(t, func(c *cri.PodSandboxConfig) {
		c.PortMappings = []*cri.PortMapping{
			{Protocol: cri.Protocol_TCP, ContainerPort: 80, HostPort: port},
			{Protocol: cri.Protocol_TCP, ContainerPort: 443}, // no port of the host asked for
		}
	})
	p.start(t, fmt.Sprintf(webServer, "mapped"))
	gateway := s.network.subnet + "1"
	wantEqual(t, "answer", get(t, fmt.Sprintf("%s:%d", gateway, port)), "mapped")
	p.remove(t)
	if len(s.firewallRules()) != 0 {
		t.Errorf("left behind: %q", s.firewallRules())
	}
}

func freePort(t *testing.T) int32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return int32(l.Addr().(*net.TCPAddr).Port)
}

// Without any CNI configuration the server's own bridge serves, in the range
// that kubelet names.
func TestBuiltInNetwork(t *testing.T) {
	s := newServer(t, "--network-default=bridge")
	s.args = append(s.args, "--network-bridge", s.scope.Name)
	if err := os.Remove(s.path("cni", "10-e2e.conflist")); err != nil {
		t.Fatal(err)
	}
	s.network.bridge = s.scope.Name
	s.importImage(busyboxArchive(t))
	s.start()
	t.Cleanup(s.finish)
	cidr := &cri.RuntimeConfig{NetworkConfig: &cri.NetworkConfig{PodCidr: s.network.subnet + "0/24"}}
	if err := s.runtime.UpdateRuntimeConfig(s.ctx, cidr); err != nil {
		t.Fatal(err)
	}
	p := s.runPod(t)
	if ip := p.ip(t); !strings.HasPrefix(ip, s.network.subnet) {
		t.Errorf("address %s is not in %s0/24", ip, s.network.subnet)
	}
	p.start(t, fmt.Sprintf(webServer, "built in"))
	wantEqual(t, "answer", get(t, p.ip(t)+":80"), "built in")
}

func TestNetworkThatIsNotThere(t *testing.T) {
	s := newServer(t, "--network-default=none")
	conf := s.path("cni", "10-e2e.conflist")
	if err := os.Rename(conf, conf+".off"); err != nil {
		t.Fatal(err)
	}
	s.importImage(busyboxArchive(t))
	s.start()
	t.Cleanup(s.finish)
	ready := func(want bool) func() error {
		return func() error {
			st, err := s.runtime.Status(s.ctx, false)
			if err != nil {
				return err
			}
			for _, c := range st.Status.Conditions {
				if c.Type == "NetworkReady" && c.Status == want && (want || c.Message != "") {
					return nil
				}
			}
			return fmt.Errorf("conditions %v", st.Status.Conditions)
		}
	}
	eventually(t, ready(false))
	if p, err := s.tryPod(s.podConfig()); err == nil {
		t.Errorf("pod %s was made without a network", p.id)
	}
	host := s.runPod(t, podNamespaces(&cri.NamespaceOption{Network: cri.NamespaceMode_NODE}))
	if err := os.Rename(conf+".off", conf); err != nil {
		t.Fatal(err)
	}
	eventually(t, ready(true))
	s.runPod(t)
	host.remove(t)
}

// A plugin that does not work says so in the error, and nothing is left.
func TestNetworkPluginThatFails(t *testing.T) {
	s := startServer(t)
	plugin := `#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion": "1.0.0", "code": 999, "msg": "the dog ate the cable"}'
exit 1
`
	if err := os.WriteFile(s.path("plugins", "broken"), []byte(plugin), 0o755); err != nil {
		t.Fatal(err)
	}
	bad := `{"cniVersion": "1.0.0", "name": "bad", "plugins": [
		{"type": "bridge", "bridge": "` + s.network.bridge + `", "ipam": {"type": "host-local", "dataDir": "` + s.path("ipam") + `", "ranges": [[{"subnet": "` + s.network.subnet + `0/24"}]]}},
		{"type": "broken"}]}`
	if err := os.WriteFile(s.path("cni", "00-bad.conflist"), []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		p, err := s.tryPod(s.podConfig())
		if err == nil {
			_ = p.tryRemove()
			return fmt.Errorf("the configuration is not in use yet")
		}
		if !strings.Contains(err.Error(), "the dog ate the cable") {
			t.Errorf("the error does not have the plugin's words: %v", err)
		}
		return nil
	})
	if n := len(s.pods()); n != 0 {
		t.Errorf("%d pods", n)
	}
	s.assertEmpty()
}
