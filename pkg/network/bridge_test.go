package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/links"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// bridged is a fixture with the built-in network made of real plugins. The
// bridge is gone after the test.
func bridged(t testing.TB, cidr string, change func(*Options)) *fixture {
	t.Helper()
	bin := testutil.NeedCNI(t)
	name := "br" + fmt.Sprintf("%.6s", strings.TrimPrefix(testutil.Name(t), "st"))
	f := newFixture(t, func(o *Options) {
		o.BinDirs = []string{bin}
		o.Default = DefaultBridge
		o.Bridge = Bridge{Name: name, CIDR: cidr}
		if change != nil {
			change(o)
		}
	})
	t.Cleanup(func() { links.Remove(name) })
	return f
}

// serve echoes one word to each connection to addr in the namespace at path.
func serve(t testing.TB, path, addr string) {
	t.Helper()
	err := sys.InNetNS(path, func() error {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%s\n", c.RemoteAddr())
				c.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// seenAs connects to addr and gives the address that the server saw.
func seenAs(addr string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, patience/4)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience / 4))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	host, _, err := net.SplitHostPort(strings.TrimSpace(line))
	return host, err
}

// reachable tries again, since a new bridge first makes sure that its IPv6
// address is nobody else's (RFC 4862, 5.4).
func reachable(t testing.TB, addr string) {
	t.Helper()
	eventually(t, addr+" answers", func() bool { _, err := seenAs(addr); return err == nil })
}

func TestPodOnTheBuiltInBridge(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	f := bridged(t, "10.201.0.0/24,fd00:201::/64", nil)
	if err := f.Ready(); err != nil {
		t.Fatal(err)
	}
	before := hostState(t)
	p := f.pod("pod-on-the-bridge")
	p.Ports = []manifest.PortMapping{
		{Protocol: "tcp", HostPort: 18080, PodPort: 80},
		{Protocol: "tcp", HostPort: 18081, PodPort: 80, HostIP: "127.0.0.1"},
	}
	made := f.add(p)
	if len(made.IPs) != 2 || !strings.HasPrefix(made.IPs[0], "10.201.0.") || !strings.HasPrefix(made.IPs[1], "fd00:201::") {
		t.Fatalf("addresses %v", made.IPs)
	}
	serve(t, p.NetNS, ":80")
	reachable(t, net.JoinHostPort(made.IPs[0], "80"))
	reachable(t, net.JoinHostPort(made.IPs[1], "80"))
	reachable(t, "127.0.0.1:18080")
	reachable(t, "127.0.0.1:18081")
	reachable(t, "10.201.0.1:18080")
	reachable(t, "[fd00:201::1]:18080")
	if _, err := net.DialTimeout("tcp", "10.201.0.1:18081", 500*time.Millisecond); err == nil {
		t.Error("a port of 127.0.0.1 is open elsewhere")
	}
	// Pods reach each other, and themselves through the host's port (hairpin).
	other := f.pod("other-pod")
	madeOther := f.add(other)
	// (Not the first one: portmap 1.1 can't CHECK any ports.)
	if err := f.Check(context.Background(), other, madeOther); err != nil {
		t.Error(err)
	}
	for _, path := range []string{other.NetNS, p.NetNS} {
		if err := sys.InNetNS(path, func() error { _, err := seenAs("10.201.0.1:18080"); return err }); err != nil {
			t.Error(err)
		}
	}
	f.del(other, madeOther)

	f.del(p, made)
	f.del(p, made)
	if after := hostState(t); mustJSON(t, after) != mustJSON(t, before) {
		t.Errorf("left on the host: %q, before %q", after, before)
	}
	f.nothingKept()
}

func TestPodsAreHiddenBehindTheHost(t *testing.T) {
	testutil.NeedRoot(t)
	f := bridged(t, "10.202.0.0/24", nil)
	outside := f.pod("outside").NetNS
	mustRun(t, "ip", "link", "add", "toworld", "type", "veth", "peer", "name", "world0")
	t.Cleanup(func() { mustRun(t, "ip", "link", "del", "toworld") })
	ns, err := os.Open(outside)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	mustRun(t, "ip", "addr", "add", "198.51.100.1/24", "dev", "toworld")
	mustRun(t, "ip", "link", "set", "toworld", "up")
	mustRun(t, "ip", "link", "set", "world0", "netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()))
	if err := sys.InNetNS(outside, func() error {
		mustRun(t, "ip", "addr", "add", "198.51.100.2/24", "dev", "world0")
		mustRun(t, "ip", "link", "set", "world0", "up")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	serve(t, outside, "198.51.100.2:80")
	p, q := f.pod("p1"), f.pod("q1")
	madeP, madeQ := f.add(p), f.add(q)
	serve(t, q.NetNS, ":80")
	seen := func(from, addr string) (as string) {
		if err := sys.InNetNS(from, func() (err error) { as, err = seenAs(addr); return err }); err != nil {
			t.Fatal(err)
		}
		return as
	}
	if got := seen(p.NetNS, "198.51.100.2:80"); got != "198.51.100.1" {
		t.Errorf("the world sees %s", got)
	}
	if got := seen(p.NetNS, net.JoinHostPort(madeQ.IPs[0], "80")); got != madeP.IPs[0] {
		t.Errorf("a neighbour sees %s, not %s", got, madeP.IPs[0])
	}
	// A firewall that was reloaded has the rule again with the next pod.
	count := func() int { return strings.Count(mustRun(t, "iptables-save", "-t", "nat"), "-s 10.202.0.0/24 ") }
	mustRun(t, "iptables", "-t", "nat", "-F", "POSTROUTING")
	f.masquerade.seen = nil
	r := f.pod("r1")
	madeR := f.add(r)
	if got := count(); got != 1 {
		t.Errorf("%d rules after a flush", got)
	}
	f.masquerade.seen = nil
	f.del(r, madeR)
	f.add(r)
	if got := count(); got != 1 {
		t.Errorf("%d rules after another pod", got)
	}
	f.del(r, nil)
	f.del(p, madeP)
	f.del(q, madeQ)
}

func TestCheckSeesAnAddressThatIsGone(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	f := bridged(t, "10.203.0.0/24", nil)
	p := f.pod("p1")
	made := f.add(p)
	f.reopen()
	if err := os.RemoveAll(f.podDir(p.ID)); err != nil { // the pod's record is enough
		t.Fatal(err)
	}
	if err := f.Check(context.Background(), p, made); err != nil {
		t.Fatal(err)
	}
	if err := sys.InNetNS(p.NetNS, func() error { mustRun(t, "ip", "addr", "flush", "dev", "eth0"); return nil }); err != nil {
		t.Fatal(err)
	}
	err := f.Check(context.Background(), p, made)
	if !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), made.IPs[0]) {
		t.Errorf("Check: %v", err)
	}
	f.del(p, made)
	if err := f.Check(context.Background(), p, nil); !errors.Is(err, errs.Precondition) {
		t.Errorf("Check of nothing: %v", err)
	}
	if err := sys.RemoveNetNS(p.NetNS); err != nil {
		t.Fatal(err)
	}
	if err := f.Check(context.Background(), p, made); !errors.Is(err, errs.NotFound) {
		t.Errorf("Check without a namespace: %v", err)
	}
	f.nothingKept()
}

func TestDelWithTheNamespaceGone(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	f := bridged(t, "10.204.0.0/24,fd00:204::/64", nil)
	before := hostState(t)
	p := f.pod("p1")
	p.Ports = []manifest.PortMapping{{Protocol: "tcp", HostPort: 18084, PodPort: 80}}
	made := f.add(p)
	if err := sys.RemoveNetNS(p.NetNS); err != nil {
		t.Fatal(err)
	}
	f.del(p, made)
	eventually(t, "nothing is left", func() bool { return mustJSON(t, hostState(t)) == mustJSON(t, before) })
	f.nothingKept()
}

func TestDelAfterAReboot(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	f := bridged(t, "10.205.0.0/24", nil)
	p := f.pod("p1")
	made := f.add(p)
	// The namespace and libcni's cache are gone, and the record with it; what
	// host-local keeps is on disk.
	if err := errors.Join(sys.RemoveNetNS(p.NetNS), os.RemoveAll(f.attachmentsDir())); err != nil {
		t.Fatal(err)
	}
	leases := func() int {
		all, _ := filepath.Glob(filepath.Join(f.opts.CacheDir, "host-local", "*", "10.*"))
		return len(all)
	}
	if leases() != 1 {
		t.Fatal("no lease to give back")
	}
	f.reopen()
	f.del(p, made)
	if leases() != 0 {
		t.Error("the address is still taken")
	}
	f.nothingKept()
}

func TestRealConfigurationWinsOverTheBuiltIn(t *testing.T) {
	testutil.NeedRoot(t)
	f := bridged(t, "10.206.0.0/24", nil)
	p := f.pod("p1")
	made := f.add(p)
	f.conf("10.conflist", conflist("real", "1.0.0", "portmap"))
	if got := f.Info().Network; got != "real" {
		t.Errorf("new pods get %s", got)
	}
	f.del(p, made)
	f.nothingKept()
	if err := os.Remove(filepath.Join(f.opts.ConfDir, "10.conflist")); err != nil {
		t.Fatal(err)
	}
	f.configs.load()
	if got := f.Info().Network; got != f.opts.Bridge.Name {
		t.Errorf("new pods get %s", got)
	}
}

func TestBuiltInBridgeFollowsThePodCIDR(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	f := bridged(t, "", nil)
	p, q := f.pod("p1"), f.pod("q1")
	madeP := f.add(p)
	if !strings.HasPrefix(madeP.IPs[0], "10.86.") {
		t.Errorf("default address %v", madeP.IPs)
	}
	f.reopen() // the bridge is there now, and keeps its range
	r := f.pod("r1")
	madeR := f.add(r)
	if !strings.HasPrefix(madeR.IPs[0], "10.86.") {
		t.Errorf("address after a restart %v", madeR.IPs)
	}
	if err := f.SetPodCIDR("10.207.0.0/24,fd00:207::/64"); err != nil {
		t.Fatal(err)
	}
	madeQ := f.add(q)
	if len(madeQ.IPs) != 2 || !strings.HasPrefix(madeQ.IPs[0], "10.207.0.") {
		t.Errorf("address %v", madeQ.IPs)
	}
	serve(t, p.NetNS, ":80")
	reachable(t, net.JoinHostPort(madeP.IPs[0], "80")) // older pods stay
	if err := sys.InNetNS(q.NetNS, func() error {
		_, err := seenAs(net.JoinHostPort(madeP.IPs[0], "80"))
		return err
	}); err != nil {
		t.Error(err)
	}
	f.del(p, madeP)
	f.del(q, madeQ)
	f.del(r, madeR)
	f.nothingKept()
}

func TestDefaultRangeAvoidsTheHostsRoutes(t *testing.T) {
	testutil.NeedRoot(t)
	mustRun(t, "ip", "link", "add", "avoid0", "type", "bridge")
	t.Cleanup(func() { mustRun(t, "ip", "link", "del", "avoid0") })
	mustRun(t, "ip", "link", "set", "avoid0", "up")
	mustRun(t, "ip", "route", "add", "10.86.128.0/20", "dev", "avoid0")
	got, err := freeRange("no-such-bridge")
	if err != nil || got != "10.87.0.0/16" {
		t.Errorf("%s, %v", got, err)
	}
	mustRun(t, "ip", "route", "add", "10.0.0.0/8", "dev", "avoid0")
	mustRun(t, "ip", "route", "add", "172.16.0.0/12", "dev", "avoid0")
	mustRun(t, "ip", "route", "add", "192.168.0.0/16", "dev", "avoid0")
	if got, err := freeRange("no-such-bridge"); err == nil {
		t.Errorf("%s overlaps", got)
	}
}

func TestManyPodsAtOnce(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	f := bridged(t, "10.208.0.0/24", nil)
	before := hostState(t)
	const count = 12
	type result struct {
		p    Pod
		made *manifest.Network
		err  error
	}
	results := make(chan result, count)
	for i := range count {
		p := f.pod(fmt.Sprintf("p%d", i))
		go func() {
			made, err := f.Add(context.Background(), p)
			results <- result{p, made, err}
		}()
	}
	taken := map[string]bool{}
	deleted := make(chan error, count)
	for range count {
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		if taken[r.made.IPs[0]] {
			t.Errorf("%s twice", r.made.IPs[0])
		}
		taken[r.made.IPs[0]] = true
		go func() { deleted <- f.Del(context.Background(), r.p, r.made) }()
	}
	for range count {
		if err := <-deleted; err != nil {
			t.Error(err)
		}
	}
	if after := hostState(t); mustJSON(t, after) != mustJSON(t, before) {
		t.Errorf("left on the host: %q", after)
	}
	f.nothingKept()
}
