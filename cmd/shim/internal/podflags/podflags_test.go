package podflags

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// parse reads a command line as the command does: flags, then what follows.
func parse(line ...string) (*Flags, []App, error) {
	set := pflag.NewFlagSet("run", pflag.ContinueOnError)
	set.Bool("detach", false, "")
	f := Register(set)
	if err := set.Parse(line); err != nil {
		return nil, nil, err
	}
	apps, err := f.Apps(set.Args())
	return f, apps, err
}

// planOf gives the plan of a command line whose images have those manifests.
func planOf(t *testing.T, manifests map[string]*appc.ImageManifest, line ...string) (stage0.Plan, error) {
	t.Helper()
	f, apps, err := parse(line...)
	if err != nil {
		return stage0.Plan{}, err
	}
	host := Host{Handlers: []string{"", "kvm"}, Network: "mynet", AppArmor: "profile", Environment: []string{"HOME=/root", "TOKEN=secret"}}
	if err := f.Check(apps, host); err != nil {
		return stage0.Plan{}, err
	}
	images := make([]Image, len(apps))
	for i, a := range apps {
		images[i] = Image{ID: "sha256:" + a.Image, Name: a.Image, Manifest: manifests[a.Image]}
	}
	plan, _, err := f.Plan(apps, images, host)
	return plan, err
}

func TestAppsOfALine(t *testing.T) {
	type app struct {
		image, name string
		args        []string
	}
	for line, want := range map[string][]app{
		"":                                {},
		"a":                               {{"a", "", nil}},
		"a b":                             {{"a", "", nil}, {"b", "", nil}},
		"a -- x -- y":                     {{"a", "", []string{"x", "--", "y"}}},
		"a --name=n -- --name=m":          {{"a", "n", []string{"--name=m"}}},
		"a -- x --- b":                    {{"a", "", []string{"x"}}, {"b", "", nil}},
		"a --- b --name n -- y":           {{"a", "", nil}, {"b", "n", []string{"y"}}},
		"--name=d a --- b --name=n --- c": {{"a", "d", nil}, {"b", "n", nil}, {"c", "d", nil}},
		"a --detach --":                   {{"a", "", nil}},
		"a b --name=n -- x":               {{"a", "", nil}, {"b", "n", []string{"x"}}},
	} {
		_, apps, err := parse(strings.Fields(line)...)
		got := []app{}
		for _, a := range apps {
			if len(a.Args) == 0 {
				a.Args = nil
			}
			got = append(got, app{a.Image, a.name, a.Args})
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
	for _, line := range []string{"--- a", "a ---", "a --- --- b", "a --- -- x", "a --bad", "a --detach=maybe", "a --memory"} {
		if _, apps, err := parse(strings.Fields(line)...); !errors.Is(err, errs.Invalid) && err == nil {
			t.Errorf("%q: %+v, %v", line, apps, err)
		}
	}
}

// TestOwnFlagsAreStronger: lists add up, single values are replaced.
func TestOwnFlagsAreStronger(t *testing.T) {
	plan, err := planOf(t, nil, "--set-env=A=1", "--memory=64Mi", "--hostname=h", "one", "--set-env=B=2", "--", "x",
		"---", "two", "--memory=1Gi", "--set-env=C=3", "--net=host", "--hostname=")
	if err != nil {
		t.Fatal(err)
	}
	one, two := plan.Apps[0], plan.Apps[1]
	if !reflect.DeepEqual(one.Env, []string{"A=1", "B=2"}) || !reflect.DeepEqual(two.Env, []string{"A=1", "C=3"}) {
		t.Errorf("environments %q and %q", one.Env, two.Env)
	}
	if one.App.Resources.MemoryLimit != 64<<20 || two.App.Resources.MemoryLimit != 1<<30 {
		t.Errorf("limits %d and %d", one.App.Resources.MemoryLimit, two.App.Resources.MemoryLimit)
	}
	if plan.Pod.Namespaces.Network != manifest.NamespaceHost {
		t.Errorf("a flag of the pod behind an image is lost")
	}
}

func TestPlan(t *testing.T) {
	plan, err := planOf(t, nil, "--dns=10.0.0.1", "--dns-search=a.example", "--hosts-entry=10.0.0.2=db,::1=me", "--hostname=web",
		"--port=8080:80", "-p", "127.0.0.1:53:5353/udp", "-p", "[::1]:1:2", "--annotation=a=b=c", "--label=l=m",
		"--volume=data,kind=empty,mode=1777,uid=5", "--volume=src,kind=host,source=/srv,readOnly=true",
		"registry.example.com/team/Web_App:v1@sha256:x", "--mount=volume=data,target=/data", "--mount=volume=src,target=/src",
		"-v", "/a:/b:ro", "--cpu=1500m", "--user=app", "--supplementary-gids=7,8", "--caps-retain=CAP_NET_ADMIN,chown",
		"--readonly-rootfs", "--working-dir=/w", "--exec=/bin/x", "--stop-signal=INT", "--", "-v",
		"---", "registry.example.com/team/Web_App:v2", "--caps-remove=mknod", "--seccomp=unconfined", "--group=wheel", "--inherit-env=TOKEN", "--set-env=HOME")
	if err != nil {
		t.Fatal(err)
	}
	p, a, b := plan.Pod, plan.Apps[0], plan.Apps[1]
	for name, c := range map[string]struct{ got, want any }{
		"creator":  {p.Creator, manifest.CreatorCLI},
		"ends":     {p.EndsWithApps, true},
		"name":     {p.Name, "web-app"},
		"dns":      {p.DNS, &manifest.DNS{Servers: []string{"10.0.0.1"}, Searches: []string{"a.example"}}},
		"hosts":    {p.Hosts, []manifest.HostEntry{{IP: "10.0.0.2", Names: []string{"db"}}, {IP: "::1", Names: []string{"me"}}}},
		"hostname": {p.Hostname, "web"},
		"ports": {p.Ports, []manifest.PortMapping{
			{Protocol: "tcp", HostPort: 8080, PodPort: 80},
			{Protocol: "udp", HostPort: 53, PodPort: 5353, HostIP: "127.0.0.1"},
			{Protocol: "tcp", HostPort: 1, PodPort: 2, HostIP: "::1"},
		}},
		"annotations": {p.Annotations, map[string]string{"a": "b=c"}},
		"volumes":     {p.Volumes, []manifest.EmptyVolume{{Name: "data", Mode: 0o1777, UID: 5}}},
		"app names":   {[]string{a.App.Name, b.App.Name}, []string{"web-app", "web-app-2"}},
		"mounts": {a.App.Mounts, []manifest.Mount{
			{Source: "/a", Destination: "/b", ReadOnly: true, Propagation: manifest.PropagationPrivate},
			{Source: "/srv", Destination: "/src", ReadOnly: true, Propagation: manifest.PropagationPrivate},
		}},
		"empty":     {a.Volumes, []stage0.VolumeMount{{Volume: "data", Destination: "/data"}}},
		"cpu":       {[]int64{a.App.Resources.CPUQuota, a.App.Resources.CPUPeriod, a.App.Resources.CPUShares}, []int64{150000, 100000, 1536}},
		"retain":    {[][]string{a.AddCapabilities, a.DropCapabilities}, [][]string{{"CAP_NET_ADMIN", "chown"}, {"ALL"}}},
		"remove":    {b.DropCapabilities, []string{"mknod"}},
		"user":      {a.User, stage0.UserRequest{Username: "app", Supplemental: []uint32{7, 8}}},
		"group":     {b.User, stage0.UserRequest{Username: "0", Groupname: "wheel"}},
		"command":   {append(a.Command, a.Args...), []string{"/bin/x", "-v"}},
		"others":    {[]any{a.Cwd, a.StopSignal, a.App.Rootfs.ReadOnly}, []any{"/w", "INT", true}},
		"seccomp":   {[]bool{a.App.Security.Seccomp != nil, b.App.Security.Seccomp == nil}, []bool{true, true}},
		"apparmor":  {a.App.Security.AppArmor, "profile"},
		"inherited": {b.Env, []string{"TOKEN=secret", "HOME=/root"}},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, c.got, c.want)
		}
	}
}

// TestAppcImage: what an image names needs only its name on the command line.
func TestAppcImage(t *testing.T) {
	m := &appc.ImageManifest{Name: "example.com/web", App: &appc.App{
		User: "0", Group: "0", Ports: []appc.Port{{Name: "http", Protocol: "tcp", Port: 80, Count: 1}},
		MountPoints: []appc.MountPoint{{Name: "data", Path: "/var/data"}},
	}}
	plan, err := planOf(t, map[string]*appc.ImageManifest{"web": m}, "--port=http:10.0.0.1:8080", "--volume=data,kind=empty", "web")
	if err != nil {
		t.Fatal(err)
	}
	if want := []manifest.PortMapping{{Protocol: "tcp", HostPort: 8080, PodPort: 80, HostIP: "10.0.0.1"}}; !reflect.DeepEqual(plan.Pod.Ports, want) {
		t.Errorf("ports %+v", plan.Pod.Ports)
	}
	if want := []stage0.VolumeMount{{Volume: "data", Destination: "/var/data"}}; !reflect.DeepEqual(plan.Apps[0].Volumes, want) {
		t.Errorf("volumes %+v", plan.Apps[0].Volumes)
	}
}

func TestNetworks(t *testing.T) {
	for flag, want := range map[string]manifest.Pod{
		"--net=":        {Namespaces: manifest.Namespaces{Network: manifest.NamespacePod}},
		"--net=default": {Namespaces: manifest.Namespaces{Network: manifest.NamespacePod}},
		"--net=mynet":   {Namespaces: manifest.Namespaces{Network: manifest.NamespacePod}},
		"--net=none":    {Namespaces: manifest.Namespaces{Network: manifest.NamespacePod}, LoopbackOnly: true},
		"--net=host":    {Namespaces: manifest.Namespaces{Network: manifest.NamespaceHost}},
	} {
		plan, err := planOf(t, nil, flag, "a")
		if err != nil || plan.Pod.Namespaces.Network != want.Namespaces.Network || plan.Pod.LoopbackOnly != want.LoopbackOnly {
			t.Errorf("%s: %+v, %v", flag, plan.Pod, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, line := range []string{
		"--dns=nowhere a", "--dns=none,10.0.0.1 a", "--hosts-entry=x a", "--hostname=-x a", "--hostname=h --net=host a", "--net=other a",
		"--port=80 a", "--port=0:1 a", "--port=1:65536 a", "--port=1:2/icmp a", "--port=1.2.3.4:5 a", "--port=http:80 a", "--port=1:2 --net=host a", "--port=1:2 --net=none a",
		"--pod-name=a/b a", "--stage1=moon a", "--annotation=x a", "--label==x a", "--private-users=many a", "--private-users=1:0 a", "--private-users=4294967295:2 a",
		"a --volume=x", "a --volume=X,kind=empty", "a --volume=x,kind=tape", "a --volume=x,kind=host", "a --volume=x,kind=host,source=y", "a --volume=x,kind=empty,source=/y",
		"a --volume=x,kind=empty,mode=9", "a --volume=x,kind=empty,uid=-1", "a --volume=x,kind=empty,kind=empty", "a --volume=x,kind=empty,bad=1", "a --volume=x,kind=host,source=/y,mode=1",
		"a --volume=x,kind=empty", "a --volume=x,kind=host,source=/y,recursive=false --mount=volume=x,target=/t", "a -v rel:/x", "a -v /x:rel", "a -v /x:/", "a -v /x:/y:no", "a -v /x:/y:ro:z",
		"a --mount=volume=x,target=/y", "a --volume=x,kind=empty --mount=volume=x,target=y", "a --mount=bad", "a --volume=x,kind=empty --- b --volume=x,kind=host,source=/",
		"a --memory=lots", "a --memory=1Ki", "a --memory=-1Gi", "a --cpu=0", "a --cpu=all", "a --cpu=99999999999",
		"a --caps-retain=NOTHING", "a --caps-retain=chown --caps-remove=mknod", "a --seccomp=relative", "a --seccomp=default,unconfined", "a --seccomp=mode=maybe,open", "a --seccomp=mode=retain,x=y", "a --seccomp=mode=retain",
		"a --supplementary-gids=x", "a --supplementary-gids=4294967295", "a --working-dir=w", "a --stop-signal=NO", "a --set-env==x", "a --user-annotation=x", "a --user-label=x", "a --name=A/b", "a --name=x --- b --name=x",
	} {
		if _, err := planOf(t, nil, strings.Fields(line)...); !errors.Is(err, errs.Invalid) && !errors.Is(err, errs.Unsupported) {
			t.Errorf("%s: %v", line, err)
		}
	}
	if _, err := planOf(t, nil, "a", "--set-env-file=/no/such"); !errors.Is(err, errs.NotFound) {
		t.Errorf("a file that isn't there: %v", err)
	}
}

func TestEnvironmentFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "env")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# comment\n\nA=1\n  B=two words \nTOKEN\nABSENT\nC=#no comment\n")
	plan, err := planOf(t, nil, "a", "--set-env-file="+path, "--set-env=A=2")
	if want := []string{"A=1", "B=two words ", "TOKEN=secret", "C=#no comment", "A=2"}; err != nil || !reflect.DeepEqual(plan.Apps[0].Env, want) {
		t.Errorf("%q, %v", plan.Apps[0].Env, err)
	}
	for _, bad := range []string{"=secret\n", "A B=secret\n", "A=secret\x00\n", strings.Repeat("A=1\n", maxEnvFile), "A=" + strings.Repeat("x", maxEnvFile)} {
		write(bad)
		if _, err := planOf(t, nil, "a", "--set-env-file="+path); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func TestPrivateUsers(t *testing.T) {
	for text, want := range map[string]*manifest.UserNamespace{"no": nil, "100000": mapped(100000, 65536), "100000:1000": mapped(100000, 1000)} {
		if got, err := (&Pod{PrivateUsers: text}).Users(nil); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	const last = firstUsers + (lastUsers - firstUsers) - usersLength
	taken := []manifest.UserNamespace{*mapped(firstUsers, last-firstUsers)}
	got, err := FreeUsers(taken)
	if err != nil || got.UIDs[0].HostID != last {
		t.Errorf("the only free range: %+v, %v", got, err)
	}
	if got, err := FreeUsers(append(taken, *got)); !errors.Is(err, errs.Exhausted) {
		t.Errorf("none is free: %+v, %v", got, err)
	}
}

func TestNamesOfImages(t *testing.T) {
	for image, want := range map[string]string{
		"docker.io/library/busybox:latest": "busybox", "example.com:5000/a/b": "b", "sha256:abc": "app", "x/___": "app", "A.B:c@sha256:d": "a-b",
		"h/" + strings.Repeat("x", 100): strings.Repeat("x", maxName),
	} {
		if got := nameOf(image); got != want {
			t.Errorf("%s: %q", image, got)
		}
	}
}

func FuzzLine(f *testing.F) {
	f.Add("--port=8080:80 a --mount=volume=x,target=/y -- z --- b --seccomp=mode=retain,open")
	f.Add("-p [::1]:1:2 a -v /a:/b:ro --volume=x,kind=empty --private-users=5")
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "file") { // of this machine
			return
		}
		if plan, err := planOf(t, nil, strings.Fields(line)...); err == nil && len(plan.Apps) > 0 {
			if err := plan.Check(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
