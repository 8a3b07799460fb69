package stage0

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/ocispec"
)

func TestMergeResourcesKeepsWhatIsNotSet(t *testing.T) {
	old := manifest.Resources{CPUShares: 2, MemoryLimit: 3, Unified: map[string]string{"a": "1"}}
	got := mergeResources(old, manifest.Resources{MemoryLimit: 4, Unified: map[string]string{"b": "2"}})
	if got.CPUShares != 2 || got.MemoryLimit != 4 || len(got.Unified) != 2 || len(old.Unified) != 1 {
		t.Errorf("got %+v from %+v", got, old)
	}
}

func TestCompleteChange(t *testing.T) {
	type resources = manifest.Resources
	old := resources{MemoryLimit: 100, SwapLimit: 200, CPUQuota: 5, CPUPeriod: 50, CPUShares: 2}
	for _, c := range []struct {
		name         string
		change, want resources
		swap         bool
	}{
		{"memory alone means no swap", resources{MemoryLimit: 90}, resources{MemoryLimit: 90, SwapLimit: 90}, true},
		{"memory on a host without swap limits", resources{MemoryLimit: 90}, resources{MemoryLimit: 90}, false},
		{"swap goes with memory", resources{SwapLimit: 150}, resources{MemoryLimit: 100, SwapLimit: 150}, true},
		{"no limit", resources{MemoryLimit: -1}, resources{MemoryLimit: -1, SwapLimit: -1}, true},
		{"a quota goes with its period", resources{CPUQuota: 7}, resources{CPUQuota: 7, CPUPeriod: 50}, true},
		{"a period goes with its quota", resources{CPUPeriod: 70}, resources{CPUQuota: 5, CPUPeriod: 70}, true},
		{"shares stand alone", resources{CPUShares: 3}, resources{CPUShares: 3}, true},
		{"the OOM score stays", resources{OOMScoreAdj: 3}, resources{}, true},
	} {
		if got := completeChange(c.change, old, ocispec.Host{SwapLimits: c.swap}); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestUndoing(t *testing.T) {
	type resources = manifest.Resources
	change := resources{
		CPUShares: 9, CPUQuota: 9, CPUPeriod: 9, MemoryLimit: 9, SwapLimit: 9, PidsLimit: 9, CPUSetCPUs: "9",
		HugePages: map[string]uint64{"2MB": 9}, Unified: map[string]string{"memory.high": "9"},
	}
	old := resources{
		CPUShares: 1, CPUQuota: 2, CPUPeriod: 3, MemoryLimit: 4, SwapLimit: 5, PidsLimit: 6, CPUSetCPUs: "7", CPUSetMems: "0",
		HugePages: map[string]uint64{"2MB": 8, "1GB": 8}, Unified: map[string]string{"memory.high": "8", "memory.low": "8"},
	}
	want := old
	want.CPUSetMems, want.HugePages, want.Unified = "", map[string]uint64{"2MB": 8}, map[string]string{"memory.high": "8"}
	if got := undoing(old, change); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	want = resources{
		CPUShares: 1024, CPUQuota: -1, CPUPeriod: 100_000, MemoryLimit: -1, SwapLimit: -1, PidsLimit: -1,
		HugePages: map[string]uint64{"2MB": math.MaxUint64}, Unified: map[string]string{},
	}
	if got := undoing(resources{}, change); !reflect.DeepEqual(got, want) {
		t.Errorf("of nothing: got %+v, want %+v", got, want)
	}
	if got := undoing(old, resources{}); !reflect.DeepEqual(got, resources{HugePages: map[string]uint64{}, Unified: map[string]string{}}) {
		t.Errorf("of no change: got %+v", got)
	}
}

func TestOnlyPagesOfTheHostAreLimited(t *testing.T) {
	got := pagesOf(map[string]uint64{"2MB": 1, "1GB": 0}, ocispec.Host{HugePageSizes: []string{"2MB"}})
	if !reflect.DeepEqual(got, map[string]uint64{"2MB": 1}) {
		t.Errorf("got %v", got)
	}
}

// What a plugin alone has set outlives a change of limits.
func TestRespecKeepsWhatItIsNotTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	const before = `{"ociVersion": "1.0.2", "linux": {"resources": {
		"devices": [{"allow": false, "access": "rwm"}],
		"memory": {"limit": 100, "swappiness": 7}, "cpu": {"shares": 2, "quota": 3},
		"unified": {"memory.low": "1"}}}}`
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	limit, shares := int64(200), uint64(9)
	data, err := respec(path, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limit}, CPU: &specs.LinuxCPU{Shares: &shares},
		Unified: map[string]string{"memory.high": "2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var after specs.Spec
	if err := json.Unmarshal(data, &after); err != nil {
		t.Fatal(err)
	}
	r := after.Linux.Resources
	if *r.Memory.Limit != 200 || *r.CPU.Shares != 9 || r.Unified["memory.high"] != "2" {
		t.Errorf("not changed: %s", data)
	}
	if *r.Memory.Swappiness != 7 || *r.CPU.Quota != 3 || r.Unified["memory.low"] != "1" || len(r.Devices) != 1 {
		t.Errorf("lost: %s", data)
	}
}
