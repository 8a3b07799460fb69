package appc_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
)

var id = "sha512-" + strings.Repeat("ab", 64)

// worker has every field that the specification knows of.
var worker = `{
  "acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/reduce-worker",
  "labels": [{"name": "version", "value": "1.0.0"}, {"name": "os", "value": "linux"}, {"name": "arch", "value": "amd64"}],
  "app": {
    "exec": ["/usr/bin/reduce-worker", "--quiet"], "user": "100", "group": "/usr/bin/reduce-worker", "supplementaryGids": [400, 500],
    "eventHandlers": [{"name": "pre-start", "exec": ["/usr/bin/get"]}, {"name": "post-stop", "exec": ["/usr/bin/put", "-v"]}],
    "workingDirectory": "/opt/work", "environment": [{"name": "WORKER_DEBUG.x-1", "value": "$true"}],
    "isolators": [{"name": "resource/memory", "value": {"limit": "2G"}}],
    "mountPoints": [{"name": "work", "path": "/var/lib/work", "readOnly": true}],
    "ports": [{"name": "health", "port": 4000, "protocol": "tcp", "socketActivated": true}, {"name": "ftp-data", "port": 20000, "count": 1000, "protocol": "tcp"}],
    "userAnnotations": {"Any thing": "at all"}, "userLabels": {"a": "b"}
  },
  "dependencies": [{"imageName": "example.com/base", "imageID": "` + id + `", "labels": [{"name": "env", "value": "canary"}], "size": 22017258}],
  "pathWhitelist": ["/etc/systemd/system/", "/usr/bin/worker"],
  "annotations": [{"name": "created", "value": "2014-10-27T19:32:27.67021798Z"}, {"name": "appc.io/executor/supports-systemd-notify", "value": "false"}],
  "later": {"versions": ["may", "add"]}
}`

// pod has every field that the specification knows of.
var pod = `{
  "acKind": "PodManifest", "acVersion": "0.8.11+git",
  "apps": [{
    "name": "reduce-worker", "image": {"name": "example.com/reduce-worker", "id": "` + id + `", "labels": [{"name": "version", "value": "1.0.0"}]},
    "app": {"exec": ["/bin/worker"], "group": "0", "user": "0", "ports": [{"name": "x", "port": 1, "protocol": "udp"}]},
    "readOnlyRootFS": true, "mounts": [{"volume": "work", "path": "/var/lib/work"}, {"volume": "own", "path": "/own", "appVolume": {"name": "own", "kind": "empty"}}],
    "annotations": [{"name": "foo", "value": "baz"}]
  }, {"name": "backup", "image": {"id": "sha512-abc"}}],
  "volumes": [{"name": "work", "kind": "host", "source": "/opt/work", "readOnly": true, "recursive": false}, {"name": "tmp", "kind": "empty", "mode": "1777", "uid": 7, "gid": 8}],
  "isolators": [{"name": "resource/memory", "value": {"limit": "4G"}}],
  "annotations": [{"name": "ip-address", "value": "10.1.2.3"}],
  "ports": [{"name": "ftp", "hostPort": 2121, "hostIP": "203.0.113.23", "podPort": {"name": "ftp", "port": 21, "protocol": "tcp"}}],
  "userAnnotations": {"x": "y"}, "userLabels": {"x": "y"}
}`

func TestParseImageManifest(t *testing.T) {
	m, err := appc.ParseImageManifest([]byte(worker))
	if err != nil {
		t.Fatal(err)
	}
	a := m.App
	if v, _ := m.Labels.Get("version"); v != "1.0.0" || m.Name != "example.com/reduce-worker" {
		t.Errorf("it is %s %s", m.Name, v)
	}
	if len(a.SupplementaryGIDs) != 2 || len(a.EventHandlers) != 2 || a.Ports[0].Count != 1 || a.Ports[1].Count != 1000 || !a.MountPoints[0].ReadOnly {
		t.Errorf("the app is %+v", a)
	}
	if m.PathWhitelist[0] != "/etc/systemd/system" {
		t.Errorf("the whitelist is %q", m.PathWhitelist)
	}
	if m.Dependencies[0].Size != 22017258 || m.Dependencies[0].ImageID != id {
		t.Errorf("it depends on %+v", m.Dependencies)
	}
	again(t, m, appc.ParseImageManifest)
}

func TestParsePodManifest(t *testing.T) {
	m, err := appc.ParsePodManifest([]byte(pod))
	if err != nil {
		t.Fatal(err)
	}
	if m.Apps[0].App.Ports[0].Count != 1 || m.Ports[0].PodPort.Count != 1 || *m.Volumes[0].Recursive || *m.Volumes[1].UID != 7 {
		t.Errorf("it is %+v", m)
	}
	again(t, m, appc.ParsePodManifest)
}

// again checks that a manifest that was written is read as the same.
func again[T any](t *testing.T, m *T, parse func([]byte) (*T, error)) {
	t.Helper()
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	m, err = parse(data)
	if err != nil {
		t.Fatalf("what was written can't be read: %v\n%s", err, data)
	}
	if second, err := json.Marshal(m); err != nil || string(second) != string(data) {
		t.Errorf("written again it is\n%s, %v, was\n%s", second, err, data)
	}
}

// change is a change of a text, and what is wrong with it then.
type change struct {
	from, to string
	want     error
	says     string
}

func refusals[T any](t *testing.T, valid string, parse func([]byte) (*T, error), all []change) {
	for _, c := range all {
		t.Run(fmt.Sprintf("%.60s", c.to), func(t *testing.T) {
			text := strings.Replace(valid, c.from, c.to, 1)
			if text == valid {
				t.Fatalf("%s is not in it", c.from)
			}
			_, err := parse([]byte(text))
			if !errors.Is(err, c.want) || err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error is %v, want %q and %v", err, c.says, c.want)
			}
			if errs.KindOf(err) == errs.Internal {
				t.Errorf("%v is of no kind", err)
			}
		})
	}
}

func TestRefusedImageManifests(t *testing.T) {
	refusals(t, worker, appc.ParseImageManifest, []change{
		{`"ImageManifest"`, `"PodManifest"`, image.WrongFormat, "acKind"},
		{`"acKind": "ImageManifest",`, ``, image.WrongFormat, "acKind"},
		{`"0.8.11"`, `"1.0.0"`, image.WrongFormat, "knows 0.8.11"},
		{`"0.8.11"`, `"0.8"`, image.Malformed, "acVersion"},
		{`"0.8.11"`, `"0.08.11"`, image.Malformed, "acVersion"},
		{`"example.com/reduce-worker"`, `"Example.com/x"`, image.BadReference, "Example.com"},
		{`"example.com/reduce-worker"`, `"example.com//x"`, image.BadReference, "name"},
		{`"example.com/reduce-worker"`, `"../etc"`, image.BadReference, "name"},
		{`"example.com/reduce-worker"`, `"` + strings.Repeat("x", 1025) + `"`, image.BadReference, "name"},
		{`"name": "os"`, `"name": "version"`, image.Unrepeatable, "labels"},
		{`"name": "os"`, `"name": "name"`, image.Malformed, "labels"},
		{`"name": "os"`, `"name": "O S"`, image.BadReference, "labels"},
		{`"/usr/bin/reduce-worker", "--quiet"`, `"", "x"`, image.Malformed, "exec"},
		{`"--quiet"`, `"a\u0000b"`, image.Malformed, "NUL"},
		{`"user": "100",`, ``, image.Incomplete, "user"},
		{`"group": "/usr/bin/reduce-worker"`, `"group": "/usr/../../x"`, image.PathEscape, "group"},
		{`[400, 500]`, `[-1]`, image.Malformed, "supplementaryGIDs"},
		{`[400, 500]`, `[4294967295]`, image.Malformed, "supplementaryGIDs"},
		{`"post-stop"`, `"pre-start"`, image.Unrepeatable, "eventHandlers"},
		{`"post-stop"`, `"pre-stop"`, image.Malformed, "eventHandlers"},
		{`["/usr/bin/get"]`, `[]`, image.Incomplete, "pre-start"},
		{`"/opt/work"`, `"opt/work"`, image.Malformed, "workingDirectory"},
		{`"/opt/work"`, `"/opt/../../work"`, image.PathEscape, "workingDirectory"},
		{`"WORKER_DEBUG.x-1"`, `"A=B"`, image.Malformed, "environment"},
		{`[{"name": "WORKER_DEBUG.x-1", "value": "$true"}]`, `[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]`, image.Unrepeatable, "environment"},
		{`"value": {"limit": "2G"}`, `"x": 1`, image.Incomplete, "isolators"},
		{`"value": {"limit": "2G"}`, `"value": null`, image.Incomplete, "isolators"},
		{`"path": "/var/lib/work"`, `"path": "var"`, image.Malformed, "mountPoints"},
		{`"path": "/var/lib/work"`, `"path": "/` + strings.Repeat("x/", 2048) + `"`, image.TooLarge, "mountPoints"},
		{`"name": "work"`, `"name": "a/b"`, image.BadReference, "mountPoints"},
		{`"port": 4000`, `"port": 0`, image.Malformed, "ports"},
		{`"port": 4000`, `"port": 65536`, image.Malformed, "ports"},
		{`"count": 1000`, `"count": 45537`, image.Malformed, "ports"},
		{`"count": 1000`, `"count": 18446744073709551615`, image.Malformed, "ports"},
		{`"name": "ftp-data"`, `"name": "health"`, image.Unrepeatable, "ports"},
		{`"protocol": "tcp"`, `"protocol": ""`, image.Incomplete, "ports"},
		{`{"Any thing": "at all"}`, `{"x": 1}`, image.Malformed, ""},
		{`"example.com/base"`, `""`, image.BadReference, "imageName"},
		{id, `sha512-abcd`, image.BadDigest, "imageID"},
		{id, "sha256-" + strings.Repeat("a", 64), image.BadDigest, "imageID"},
		{id, strings.ToUpper(id), image.BadDigest, "imageID"},
		{`22017258`, `-1`, image.Malformed, ""},
		{`[{"name": "env", "value": "canary"}]`, `[{"name": "a", "value": ""}, {"name": "a", "value": ""}]`, image.Unrepeatable, "dependencies"},
		{`"/usr/bin/worker"`, `"usr/bin/worker"`, image.Malformed, "pathWhitelist"},
		{`"/usr/bin/worker"`, `"/usr/../bin"`, image.PathEscape, "pathWhitelist"},
		{`"name": "appc.io/executor/supports-systemd-notify"`, `"name": "created"`, image.Unrepeatable, "annotations"},
		{`"acKind"`, `"ACKIND": "x", "acKind"`, image.Ambiguous, "ackind"},
		{`"later"`, `"name": "example.com/other", "later"`, image.Ambiguous, "name"},
		{`"later": {`, `"later": {]`, image.Malformed, ""},
		{`"later": {`, `"later": {"x": "` + strings.Repeat("x", image.MaxDocument) + `", `, image.TooLarge, ""},
		{`"dependencies": [`, `"dependencies": [` + strings.Repeat(`{"imageName": "x"},`, image.MaxLayers), image.TooLarge, "dependencies"},
		{`"environment": [`, `"environment": [` + strings.Repeat(`{"name": "X"},`, 1000), image.TooLarge, "environment"},
		{`"later": {`, `"later": ` + strings.Repeat("[", 20000) + `, "x": {`, image.Malformed, ""},
	})
}

func TestRefusedPodManifests(t *testing.T) {
	refusals(t, pod, appc.ParsePodManifest, []change{
		{`"PodManifest"`, `"ImageManifest"`, image.WrongFormat, "acKind"},
		{`"backup"`, `"reduce-worker"`, image.Unrepeatable, "apps"},
		{`"backup"`, `"example.com/x"`, image.BadReference, "apps[1]"},
		{`{"id": "sha512-abc"}`, `{}`, image.Incomplete, "image"},
		{`"sha512-abc"`, `"sha512-xyz"`, image.BadDigest, "id"},
		{`"sha512-abc"`, `"sha512-abz"`, image.BadDigest, "id"},
		{`"sha512-abc"`, `"sha512-ABC"`, image.BadDigest, "id"},
		{`"sha512-abc"`, `"sha512-"`, image.BadDigest, "id"},
		{`"sha512-abc"`, `"sha256-abc"`, image.BadDigest, "id"},
		{`"path": "/var/lib/work"`, `"path": "/own"`, image.Unrepeatable, "mounts"},
		{`"path": "/var/lib/work"`, `"path": "own"`, image.Malformed, "mounts"},
		{`"kind": "empty"`, `"kind": "full"`, image.Malformed, "appVolume"},
		{`"source": "/opt/work"`, `"source": ""`, image.Malformed, "source"},
		{`"source": "/opt/work"`, `"source": "/x", "mode": "0755"`, image.Malformed, "volumes"},
		{`"1777"`, `"999"`, image.Malformed, "mode"},
		{`"1777"`, `"17777"`, image.Malformed, "mode"},
		{`"uid": 7`, `"uid": -1`, image.Malformed, "volumes"},
		{`"name": "tmp"`, `"name": "work"`, image.Unrepeatable, "volumes"},
		{`"hostPort": 2121`, `"hostPort": 70000`, image.Malformed, "hostPort"},
		{`"203.0.113.23"`, `"localhost"`, image.Malformed, "hostIP"},
		{`"port": 21,`, `"port": 0,`, image.Malformed, "podPort"},
		{`"user": "0"`, `"user": ""`, image.Incomplete, "user"},
	})
	if _, err := appc.ParsePodManifest([]byte(`{"acKind": "PodManifest", "acVersion": "0.8.11", "apps": []}`)); !errors.Is(err, image.Incomplete) {
		t.Errorf("a pod of no apps gives %v", err)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(worker))
	f.Add([]byte(pod))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := appc.ParseImageManifest(data); err == nil {
			again(t, m, appc.ParseImageManifest)
		}
		if m, err := appc.ParsePodManifest(data); err == nil {
			again(t, m, appc.ParsePodManifest)
		}
	})
}
