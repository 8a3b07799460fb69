package podfile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

var update = flag.Bool("update", false, "rewrite the golden files")

type handlers struct{}

func (handlers) Handlers() []stage0.Handler {
	return []stage0.Handler{{}, {Name: "gvisor"}}
}

func options() Options {
	return Options{Handlers: handlers{}, Manifest: func(_ context.Context, app *stage0.AppRequest) (*appc.ImageManifest, error) {
		if !strings.HasPrefix(app.Image, "sha512-") {
			return nil, nil
		}
		return &appc.ImageManifest{Name: "example.com/of-image", App: &appc.App{
			User: "0", Group: "0", MountPoints: []appc.MountPoint{{Name: "work", Path: "/data"}, {Name: "other", Path: "/other", ReadOnly: true}},
			Isolators: []appc.Isolator{
				{Name: "os/linux/capabilities-retain-set", Value: json.RawMessage(`{"set":["CAP_CHOWN","CAP_SYS_ADMIN"]}`)},
				{Name: "os/linux/seccomp-retain-set", Value: json.RawMessage(`{"set":["@appc.io/all"]}`)},
			},
		}}, nil
	}}
}

func TestGolden(t *testing.T) {
	for _, name := range []string{"kube.yaml", "cri.json", "appc.json"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		f, err := Read(context.Background(), data, options())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(f.Plan.Pod.UID) != 64 {
			t.Errorf("%s: the pod's UID is %q", name, f.Plan.Pod.UID)
		}
		f.Plan.Pod.UID = "(new each time)"
		for i := range f.Plan.Apps { // depends on the host
			f.Plan.Apps[i].App.Security.AppArmor = ""
		}
		got, err := json.MarshalIndent(f, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		golden := filepath.Join("testdata", strings.TrimSuffix(name, filepath.Ext(name))+".golden")
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s isn't %s any more (rewrite it with -update, and look):\n%s", name, golden, got)
		}
	}
}

func TestExpand(t *testing.T) {
	x := expander{vars: map[string]string{"A": "a", "B": "b", "": ""}}
	for text, want := range map[string]string{
		"": "", "plain": "plain", "$(A)-$(B)": "a-b", "$$(A)": "$(A)", "$$$(A)": "$a", "$(NO)": "$(NO)", "$(A": "$(A", "$A $": "$A $", "$": "$", "$$": "$", "$()": "",
	} {
		if got, err := x.expand(text); err != nil || got != want {
			t.Errorf("%q: got %q, want %q, %v", text, got, want, err)
		}
	}
}

// Variables of the pod's own fields are what it has in the end.
func TestFields(t *testing.T) {
	const file = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","uid":"of another","labels":{"app.example/x":"$(NAME)"},"annotations":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","env":[
		{"name":"NAME","valueFrom":{"fieldRef":{"apiVersion":"v1","fieldPath":"metadata.name"}}},
		{"name":"NAMESPACE","valueFrom":{"fieldRef":{"fieldPath":"metadata.namespace"}}},
		{"name":"UID","valueFrom":{"fieldRef":{"fieldPath":"metadata.uid"}}},
		{"name":"LABEL","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['app.example/x']"}}},
		{"name":"NONE","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['none']"}}},
		{"name":"ANNOTATION","valueFrom":{"fieldRef":{"fieldPath":"metadata.annotations['a']"}}},
		{"name":"BOTH","value":"$(NAME)-$(ANNOTATION)"}]}]}}`
	for name, want := range map[string]string{"": "p", "mine": "mine"} {
		o := options()
		o.Name = name
		f, err := Read(context.Background(), []byte(file), o)
		if err != nil {
			t.Fatal(err)
		}
		pod := f.Plan.Pod
		got := strings.Join(f.Plan.Apps[0].Env, " ")
		if all := "NAME=" + want + " NAMESPACE=default UID=" + pod.UID + " LABEL=$(NAME) NONE= ANNOTATION=b BOTH=" + want + "-b"; got != all || pod.Name != want || pod.Namespace != "default" {
			t.Errorf("%q: got %s of %s/%s, want %s", name, got, pod.Namespace, pod.Name, all)
		}
	}
}

func TestQuantity(t *testing.T) {
	for text, milli := range map[string]int64{
		"0": 0, "1": 1000, "250m": 250, "0.1": 100, ".5": 500, "1.5": 1500, "1k": 1e6, "1K": 1e6, "64Mi": 64 << 20 * 1000, "2e3": 2e6, "1e-3": 1, "1u": 1, "100n": 1, "+3": 3000,
	} {
		q, err := ParseQuantity(text)
		if err != nil || q.Milli() != milli {
			t.Errorf("%s: %d, %v", text, q.Milli(), err)
		}
	}
	for _, text := range []string{"", "-1", "1 M", "1m1", "Mi", "1e99", "99999999999E", "1Q", "0x10", "NaN", "1_000"} {
		if _, err := ParseQuantity(text); err == nil {
			t.Errorf("%q is one", text)
		}
	}
}

func TestKubeletsShares(t *testing.T) {
	for milli, want := range map[int64]int64{0: 2, 1: 2, 250: 256, 1000: 1024, 1 << 60: maxShares} {
		if got := cpuShares(milli); got != want {
			t.Errorf("%d: %d shares, not %d", milli, got, want)
		}
	}
	for milli, want := range map[int64]int64{0: 1000, 5: 1000, 1500: 150000} {
		if got := cpuQuota(milli); got != want {
			t.Errorf("%d: a quota of %d, not %d", milli, got, want)
		}
	}
}

// What the person says is stronger than what the image does.
func TestImageDefaults(t *testing.T) {
	im := &appc.ImageManifest{Name: "example.com/a", App: &appc.App{User: "0", Group: "0", SupplementaryGIDs: []int{7}, Isolators: []appc.Isolator{
		{Name: retainCapabilities, Value: json.RawMessage(`{"set":["CAP_CHOWN"]}`)},
		{Name: removeCalls, Value: json.RawMessage(`{"set":["mkdir"]}`)},
		{Name: oomScoreAdj, Value: json.RawMessage(`-5`)},
		{Name: cpuSharesIsolator, Value: json.RawMessage(`100`)},
		{Name: resourceCPU, Value: json.RawMessage(`{"limit":"1"}`)},
		{Name: resourceMemory, Value: json.RawMessage(`{"limit":"1Gi"}`)},
	}}}
	var pod manifest.Pod
	var silent, asking stage0.AppRequest
	silent.App.Security = DefaultSecurity()
	asking.AddCapabilities, asking.DropCapabilities = []string{"CAP_KILL"}, []string{"ALL"}
	asking.App.Resources = manifest.Resources{CPUQuota: 1000, MemoryLimit: 5, CPUShares: 7}
	for _, app := range []*stage0.AppRequest{&silent, &asking} {
		notes, err := ImageDefaults(im, nil, &pod, app)
		if err != nil || len(notes) != 1 || !strings.Contains(notes[0].String(), "not an image's") {
			t.Errorf("%v, %v", notes, err)
		}
	}
	if r := silent.App.Resources; r.MemoryLimit != 1<<30 || r.CPUQuota != cpuPeriod || silent.App.Security.Seccomp.Profile == nil || silent.AddCapabilities[0] != "CAP_CHOWN" || silent.User.Supplemental[0] != 7 {
		t.Errorf("the image's word doesn't count: %+v", silent)
	}
	if r := asking.App.Resources; r.MemoryLimit != 5 || r.CPUQuota != 1000 || r.CPUShares != 7 || asking.App.Security.Seccomp != nil || len(asking.AddCapabilities) != 1 || asking.AddCapabilities[0] != "CAP_KILL" {
		t.Errorf("the image overrides the person: %+v", asking)
	}
}

func TestAccess(t *testing.T) {
	var pod manifest.Pod
	var app stage0.AppRequest
	empty, host := appc.Volume{Name: "v", Kind: appc.VolumeEmpty}, appc.Volume{Name: "h", Kind: appc.VolumeHost, Source: "/h", ReadOnly: true}
	for _, m := range []struct {
		v      appc.Volume
		path   string
		access Access
	}{{empty, "/a", ReadWrite}, {empty, "/b", ReadOnly}, {host, "/c", ReadWrite}} {
		if err := Mount(&pod, &app, m.v, m.path, m.access); err != nil {
			t.Fatal(err)
		}
	}
	if len(pod.Volumes) != 1 || len(app.Volumes) != 2 || app.Volumes[0].ReadOnly || !app.Volumes[1].ReadOnly || !app.App.Mounts[0].ReadOnly {
		t.Errorf("%+v %+v", pod, app)
	}
	no := false
	host.Recursive = &no
	if err := Mount(&pod, &app, host, "/d", ReadOnly); !errors.Is(err, errs.Unsupported) {
		t.Errorf("not recursive: %v", err)
	}
}

func TestVolumeNames(t *testing.T) {
	long := strings.Repeat("a", 60)
	for _, pair := range [][2]string{{"app", "data"}, {long, long}, {long + "aaa", "b"}} {
		if name := volumeName(pair[0], pair[1]); !manifest.IsName(name) {
			t.Errorf("%q names no volume", name)
		}
	}
	if volumeName(long, "b-1") == volumeName(long, "b-2") {
		t.Error("two mount points share a volume")
	}
}

func FuzzRead(f *testing.F) {
	for _, name := range []string{"kube.yaml", "cri.json", "appc.json"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("a: &a [x]\nb: *a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Read(context.Background(), data, options())
		switch {
		case err != nil && errs.KindOf(err) == errs.Internal:
			t.Errorf("an error of ours: %v", err)
		case err == nil && file.Plan.Check() != nil:
			t.Error("a plan that can't be")
		}
	})
}
