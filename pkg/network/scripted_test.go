package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

const (
	oneResult = `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/ns"}],"ips":[{"address":"10.9.8.7/24","interface":0}]}`
	// good answers ADD, and notes every command.
	good = `
stdin=$(cat)
echo "$CNI_COMMAND netns=$CNI_NETNS args=$CNI_ARGS $stdin" >> $log
test "$CNI_COMMAND" != ADD || echo '` + oneResult + `'`
)

func conflist(name, version string, plugins ...string) string {
	var all []string
	for _, p := range plugins {
		if !strings.HasPrefix(p, "{") {
			p = fmt.Sprintf(`{"type":%q}`, p)
		}
		all = append(all, p)
	}
	return fmt.Sprintf(`{"cniVersion":%q,"name":%q,"plugins":[%s]}`, version, name, strings.Join(all, ","))
}

// Every way in which a plugin does not work gives its own words, is followed
// by DEL, and leaves nothing.
func TestAddThatDoesNotWork(t *testing.T) {
	testutil.NeedRoot(t)
	for _, tc := range []struct {
		name, add string
		kind      errs.Kind
		want      []string
		slow      bool
	}{
		{name: "CNI error", add: `echo '{"cniVersion":"1.0.0","code":11,"msg":"no free address","details":"pool 10.0.0.0/30"}'; exit 1`, kind: errs.Unavailable, want: []string{"plugin broken on ADD", "no free address; pool 10.0.0.0/30"}},
		{name: "CNI code of configuration", add: `echo '{"code":7,"msg":"bad mtu"}'; exit 1`, kind: errs.Precondition, want: []string{"bad mtu"}},
		{name: "garbage", add: `echo 'panic: oops'; printf 'on\033stderr\n' >&2; exit 2`, kind: errs.Unavailable, want: []string{"exit status 2", "panic: oops on stderr"}},
		{name: "silent", add: `exit 3`, kind: errs.Unavailable, want: []string{"exit status 3"}},
		{name: "killed", add: `kill -9 $$`, kind: errs.Unavailable, want: []string{"signal: killed"}},
		{name: "JSON error that says nothing", add: `echo '{}'; exit 1`, kind: errs.Unavailable, want: []string{"exit status 1"}},
		{name: "no result", add: `echo fine`, kind: errs.Corrupt, want: []string{"answered no CNI result: fine"}},
		{name: "empty result", add: `exit 0`, kind: errs.Corrupt, want: []string{"answered no CNI result"}},
		{name: "null result", add: `echo null`, kind: errs.Corrupt, want: []string{"answered no CNI result: null"}},
		{name: "wrong types", add: `echo '{"cniVersion":"1.0.0","ips":"10.0.0.1"}'`, kind: errs.Unavailable, want: []string{"cannot unmarshal"}},
		{name: "unknown version", add: `echo '{"cniVersion":"7.0.0"}'`, kind: errs.Unavailable, want: []string{"7.0.0"}},
		{name: "no address", add: `echo '{"cniVersion":"1.0.0"}'`, kind: errs.Corrupt, want: []string{"no address for eth0"}},
		{name: "address of no interface", add: `echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.1/8","interface":7}]}'`, kind: errs.Corrupt, want: []string{"interface number 7"}},
		{name: "huge output", add: `yes xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; exit 0`, kind: errs.Corrupt, want: []string{"killed after 1048576 bytes"}},
		{name: "hanging", add: `echo 'waiting for the agent' >&2; sleep 1000 & sleep 1000`, kind: errs.Timeout, slow: true, want: []string{"was killed after", "waiting for the agent"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testutil.CheckLeaks(t)
			f := newFixture(t, func(o *Options) {
				if tc.slow {
					o.Timeouts.Add = 3 * time.Second // for it to begin, too
				}
			})
			f.script("broken", `echo "$CNI_COMMAND" >> $log; test "$CNI_COMMAND" != ADD && exit 0; `+tc.add)
			f.conf("10.conflist", conflist("n", "1.0.0", "broken"))
			started := time.Now()
			p := f.pod("p1")
			_, err := f.Add(context.Background(), p)
			if !errors.Is(err, tc.kind) {
				t.Errorf("%v: kind %s, want %s", err, errs.KindOf(err), tc.kind)
			}
			for _, w := range append(tc.want, "default/web", "network n") {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("error %q lacks %q", err, w)
				}
			}
			if took := time.Since(started); took > patience {
				t.Errorf("took %s", took)
			}
			if f.logged() != "ADD\nDEL\n" {
				t.Errorf("plugin saw %q, want ADD then DEL", f.logged())
			}
			f.nothingKept()
			eventually(t, "the end of its processes", func() bool { return len(pluginsOf(p.ID)) == 0 })
			t.Log(err)
		})
	}
}

// A plugin that ends well while a child of it keeps its pipes is not waited for.
func TestAddIgnoresAChildThatHoldsThePipes(t *testing.T) {
	testutil.NeedRoot(t)
	f := newFixture(t, nil)
	f.script("daemonic", `test "$CNI_COMMAND" = ADD || exit 0
setsid sleep 1000 & echo $! >> $log
echo '`+oneResult+`'`)
	f.conf("10.conflist", conflist("n", "1.0.0", "daemonic"))
	started := time.Now()
	net := f.add(f.pod("p1"))
	if took := time.Since(started); took > patience {
		t.Errorf("took %s", took)
	}
	if len(net.IPs) != 1 || net.IPs[0] != "10.9.8.7" {
		t.Errorf("addresses %v", net.IPs)
	}
	var pid int
	if _, err := fmt.Sscan(f.logged(), &pid); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

func TestPluginsAreToldOfThePod(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	f := newFixture(t, nil)
	f.script("good", good)
	caps := `"portMappings":true,"bandwidth":true,"aliases":true,"dns":true,"cgroupPath":true,"ipRanges":true,"io.kubernetes.cri.pod-annotations":true,"mac":true,"unknown":true`
	f.conf("10.conflist", conflist("n", "1.0.0", `{"type":"good","capabilities":{`+caps+`}}`, `{"type":"good"}`))
	if err := f.SetPodCIDR("10.1.0.0/24, fd00::/64"); err != nil {
		t.Fatal(err)
	}
	p := f.pod("p1")
	p.Ports = []manifest.PortMapping{{Protocol: "TCP", HostPort: 8080, PodPort: 80}, {Protocol: "udp", PodPort: 53}}
	p.Annotations = map[string]string{ingressAnnotation: "10M", "other": "x"}
	p.DNS = &manifest.DNS{Servers: []string{"10.0.0.10"}}
	p.CgroupParent = "/kubepods/pod1"
	p.Hostname = "host1"
	net := f.add(p)
	// The configuration changes, as does the node's range: DEL says what ADD said.
	f.conf("10.conflist", conflist("other", "1.0.0", "missing"))
	if err := f.SetPodCIDR("10.2.0.0/24"); err != nil {
		t.Fatal(err)
	}
	f.del(p, net)

	type stdin struct {
		Name          string         `json:"name"`
		RuntimeConfig map[string]any `json:"runtimeConfig"`
		PrevResult    map[string]any `json:"prevResult"`
	}
	lines := strings.Split(strings.TrimSpace(f.logged()), "\n")
	if len(lines) != 4 {
		t.Fatalf("plugin calls: %q", lines)
	}
	args := "args=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=" + p.ID + ";K8S_POD_UID=uid-p1 "
	for i, want := range []string{"ADD", "ADD", "DEL", "DEL"} {
		if !strings.HasPrefix(lines[i], want+" netns="+p.NetNS+" "+args) {
			t.Errorf("call %d: %s", i, lines[i])
		}
	}
	var first, second, last stdin
	for i, s := range map[int]*stdin{0: &first, 1: &second, 3: &last} {
		if err := json.Unmarshal([]byte(lines[i][strings.Index(lines[i], "{"):]), s); err != nil {
			t.Fatal(err)
		}
	}
	want := `{"aliases":["web","host1"],"bandwidth":{"ingressBurst":2147483647,"ingressRate":10000000},` +
		`"cgroupPath":"/kubepods/pod1","dns":{"servers":["10.0.0.10"]},` +
		`"io.kubernetes.cri.pod-annotations":{"kubernetes.io/ingress-bandwidth":"10M","other":"x"},` +
		`"ipRanges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd00::/64"}]],` +
		`"portMappings":[{"containerPort":80,"hostPort":8080,"protocol":"tcp"}]}`
	if got := mustJSON(t, first.RuntimeConfig); got != want {
		t.Errorf("capability arguments\n got %s\nwant %s", got, want)
	}
	if got := mustJSON(t, last.RuntimeConfig); got != want || last.PrevResult == nil || last.Name != "n" {
		t.Errorf("DEL was told %+v", last)
	}
	if second.RuntimeConfig != nil {
		t.Errorf("a plugin that declares nothing got %v", second.RuntimeConfig)
	}
	f.nothingKept()
}

func TestDelWithoutThePlugin(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	f := newFixture(t, nil)
	f.script("good", good)
	f.script("gone", good)
	f.conf("10.conflist", conflist("n", "1.0.0", "good", "gone"))
	p := f.pod("p1")
	net := f.add(p)
	if err := os.Remove(filepath.Join(f.opts.BinDirs[0], "gone")); err != nil {
		t.Fatal(err)
	}
	if err := f.Ready(); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("Ready: %v", err)
	}
	err := f.Del(context.Background(), p, net)
	if !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "gone: it is not in "+f.opts.BinDirs[0]+"; install it there") {
		t.Errorf("Del: %v", err)
	}
	if strings.Contains(f.logged(), "DEL") {
		t.Error("plugins before the missing one were asked already")
	}
	if err := f.Forget(context.Background(), p, net); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("Forget: %v", err)
	}
	if strings.Count(f.logged(), "DEL ") != 1 {
		t.Errorf("the plugin that is there was not asked: %s", f.logged())
	}
	f.nothingKept()
	f.del(p, nil) // nothing more to do
}

func TestDelIsAskedWithoutANamespaceThatIsGone(t *testing.T) {
	testutil.NeedRoot(t)
	f := newFixture(t, nil)
	f.script("good", good)
	f.conf("10.conflist", conflist("n", "1.0.0", "good"))
	p := f.pod("p1")
	net := f.add(p)
	// As after a reboot: the file is there, what it was mounted with is not.
	net.NetNS = filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(net.NetNS, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(f.opts.CacheDir); err != nil {
		t.Fatal(err)
	}
	f.reopen()
	f.del(p, net)
	f.del(p, net) // and again
	log := f.logged()
	if strings.Count(log, "DEL netns= args=") != 2 || strings.Count(log, `"prevResult":`) != 2 {
		t.Errorf("plugin saw %s", log)
	}
	f.nothingKept()
}

func TestAddingAgainTakesBackTheFirstTime(t *testing.T) {
	testutil.NeedRoot(t)
	f := newFixture(t, nil)
	f.script("good", good)
	f.conf("10.conflist", conflist("n", "1.0.0", "good"))
	p := f.pod("p1")
	f.add(p)
	f.reopen()
	f.add(p)
	var verbs []string
	for line := range strings.Lines(f.logged()) {
		verbs = append(verbs, line[:3])
	}
	if got := strings.Join(verbs, " "); got != "ADD DEL ADD" {
		t.Errorf("plugin saw %s", got)
	}
	f.del(p, nil)
	f.nothingKept()
}

// A plugin that a dead server ran is awaited before DEL, and one that hangs
// is killed.
func TestDelAwaitsPluginsOfADeadServer(t *testing.T) {
	testutil.NeedRoot(t)
	f := newFixture(t, nil)
	f.script("good", good)
	f.conf("10.conflist", conflist("n", "1.0.0", "good"))
	p := f.pod("p1")
	f.add(p)
	f.reopen()
	f.script("late", `until test -e $log.seen; do sleep 0.02; done; sleep 0.5; echo late >> $log`)
	go func() {
		_, _ = runOnce(context.Background(), invocation{path: filepath.Join(f.opts.BinDirs[0], "late"), env: []string{"PATH=/bin", "CNI_CONTAINERID=" + p.ID}})
	}()
	eventually(t, "the plugin runs", func() bool { return len(pluginsOf(p.ID)) > 0 })
	f.mark(".seen")
	f.del(p, nil)
	if log := f.logged(); strings.Index(log, "late") > strings.Index(log, "DEL") || !strings.Contains(log, "late") {
		t.Errorf("order: %s", log)
	}
	f.nothingKept()
}

func TestHostilePods(t *testing.T) {
	testutil.NeedRoot(t)
	f := newFixture(t, nil)
	f.script("good", good)
	f.conf("10.conflist", conflist("n", "1.0.0", "good"))
	ns := f.pod("x").NetNS
	for _, p := range []Pod{
		{},
		{ID: "../../etc"},
		{ID: "a/b"},
		{ID: "ok", Name: "a;IP=1.2.3.4"},
		{ID: "ok", UID: strings.Repeat("x", 2000)},
		{ID: "ok", Annotations: map[string]string{ingressAnnotation: "much"}},
	} {
		p.NetNS = ns
		if _, err := f.Add(context.Background(), p); !errors.Is(err, errs.Invalid) {
			t.Errorf("Add of %+v: %v, want errs.Invalid", p, err)
		}
	}
	if _, err := f.Add(context.Background(), Pod{ID: "ok", NetNS: "/etc/passwd"}); !errors.Is(err, errs.Precondition) {
		t.Errorf("Add without a namespace: %v", err)
	}
	if f.logged() != "" {
		t.Errorf("plugins were run: %s", f.logged())
	}
	f.nothingKept()
}

func TestParallelIsBounded(t *testing.T) {
	testutil.NeedRoot(t)
	f := newFixture(t, func(o *Options) { o.Parallel = 1 })
	f.script("slow", `test "$CNI_COMMAND" = ADD || exit 0; echo begin >> $log; sleep 0.1; echo end >> $log; echo '`+oneResult+`'`)
	f.conf("10.conflist", conflist("n", "1.0.0", "slow"))
	done := make(chan error, 3)
	for i := range 3 {
		p := f.pod(fmt.Sprintf("p%d", i))
		go func() {
			_, err := f.Add(context.Background(), p)
			done <- err
		}()
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if got := f.logged(); got != strings.Repeat("begin\nend\n", 3) {
		t.Errorf("plugins ran at once: %q", got)
	}
}
