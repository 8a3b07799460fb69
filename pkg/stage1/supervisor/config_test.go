package supervisor

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// The narrow types must read what stage0 writes.
func TestConfigIsThatOfTheManifest(t *testing.T) {
	pod := manifest.Pod{
		ID: "id", Hostname: "host", LogDir: "/log", Sysctls: map[string]string{"a": "b"},
		Namespaces: manifest.Namespaces{Network: manifest.NamespacePod, IPC: manifest.NamespaceHost, PID: manifest.NamespaceApp},
		Volumes:    []manifest.EmptyVolume{{Name: "v", InMemory: true}},
	}
	want := podConfig{
		ID: "id", Hostname: "host", LogDir: "/log", Sysctls: map[string]string{"a": "b"},
		Namespaces: podNamespaces{Network: manifest.NamespacePod, IPC: manifest.NamespaceHost, PID: manifest.NamespaceApp},
		Volumes:    []manifest.EmptyVolume{{Name: "v", InMemory: true}},
	}
	if got := reread[podConfig](t, pod); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	executor := manifest.Executor{Runtime: manifest.Artifact{Path: "/runc"}, Args: []string{"--x"}, Exit: manifest.ExitReap}
	if got := reread[stage1Config](t, manifest.Stage1{Executor: executor}); !reflect.DeepEqual(got.Executor, executor) {
		t.Errorf("%+v, want %+v", got, executor)
	}
}

func reread[T any](t *testing.T, v any) (got T) {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	return got
}
