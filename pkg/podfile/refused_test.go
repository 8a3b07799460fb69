package podfile

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
)

// kube gives a Pod with more fields of its spec, in JSON, and of its container.
func kube(spec, container string) string {
	if spec != "" {
		spec += ","
	}
	if container != "" {
		container = "," + container
	}
	return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{` + spec + `"restartPolicy":"Never","containers":[{"name":"c","image":"i"` + container + `}]}}`
}

// field gives a Pod with a variable of that field.
func field(path string) string {
	return kube("", `"env":[{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"`+path+`"}}}]`)
}

func podManifest(rest string) string {
	return `{"acKind":"PodManifest","acVersion":"0.8.11","apps":[{"name":"a","image":{"name":"example.com/a"}` + rest + `}`
}

func isolated(name, value string) string {
	return podManifest(`,"app":{"exec":["/a"],"user":"0","group":"0","isolators":[{"name":"` + name + `","value":` + value + `}]}}]`)
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		kind errs.Kind
		says string
	}{
		"empty":              {"", errs.Invalid, "empty"},
		"no object":          {"[1]", errs.Invalid, "no object"},
		"unknown form":       {"a: b", errs.Invalid, "neither"},
		"several documents":  {kube("", "") + "\n---\na: b\n", errs.Invalid, "several documents"},
		"too large":          {strings.Repeat(" ", MaxSize+1), errs.Invalid, "larger"},
		"alias":              {"a: &a x\nb: *a\n", errs.Invalid, "aliases"},
		"deep":               {strings.Repeat("- ", 2000) + "x", errs.Invalid, "deeper"},
		"one key twice":      {"kind: Pod\nkind: Pod\n", errs.Invalid, "kind"},
		"image manifest":     {`{"acKind":"ImageManifest","acVersion":"0.8.11"}`, errs.Invalid, "run the image"},
		"Deployment":         {`{"apiVersion":"apps/v1","kind":"Deployment"}`, errs.Invalid, "Deployment"},
		"List":               {`{"apiVersion":"v1","kind":"List"}`, errs.Invalid, "List"},
		"no containers":      {`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{}}`, errs.Invalid, "no app"},
		"no name":            {`{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"name":"c","image":"i"}]}}`, errs.Invalid, "metadata.name"},
		"misspelt":           {kube("", `"comand":["x"]`), errs.Invalid, "spec.containers[0].comand"},
		"other case":         {kube(`"HostNetwork":true`, ""), errs.Invalid, "HostNetwork"},
		"wrong type":         {kube(`"hostNetwork":"yes"`, ""), errs.Invalid, "hostNetwork"},
		"secret":             {kube(`"volumes":[{"name":"v","secret":{"secretName":"s"}}]`, ""), errs.Unsupported, "spec.volumes[0].secret"},
		"token":              {kube(`"volumes":[{"name":"v","projected":{"sources":[{"serviceAccountToken":{}}]}}]`, ""), errs.Unsupported, "spec.volumes[0].projected"},
		"unknown volume":     {kube(`"volumes":[{"name":"v","rbd":{}}]`, ""), errs.Invalid, "rbd"},
		"two sources":        {kube(`"volumes":[{"name":"v","emptyDir":{},"hostPath":{"path":"/"}}]`, ""), errs.Invalid, "several sources"},
		"no source":          {kube(`"volumes":[{"name":"v"}]`, ""), errs.Invalid, "no source"},
		"automount":          {kube(`"automountServiceAccountToken":true`, ""), errs.Unsupported, "automountServiceAccountToken"},
		"secretKeyRef":       {kube("", `"env":[{"name":"A","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}]`), errs.Unsupported, "spec.containers[0].env[0].valueFrom"},
		"configMapKeyRef":    {kube("", `"env":[{"name":"A","valueFrom":{"configMapKeyRef":{"name":"s","key":"k"}}}]`), errs.Unsupported, "there are no ConfigMaps"},
		"address":            {field("status.podIP"), errs.Unsupported, "env[0].valueFrom.fieldRef.fieldPath: status.podIP is not known before the pod runs"},
		"node":               {field("spec.nodeName"), errs.Unsupported, "no cluster"},
		"no field":           {field("metadata.nme"), errs.Invalid, `"metadata.nme" is no field`},
		"all labels":         {field("metadata.labels"), errs.Invalid, "metadata.labels['KEY']"},
		"label without key":  {field("metadata.labels['']"), errs.Invalid, "is no field"},
		"key of a name":      {field("metadata.name['x']"), errs.Invalid, "has no keys"},
		"field of v2":        {kube("", `"env":[{"name":"A","valueFrom":{"fieldRef":{"apiVersion":"v2","fieldPath":"metadata.name"}}}]`), errs.Invalid, "fieldRef.apiVersion"},
		"value and field":    {kube("", `"env":[{"name":"A","value":"x","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}]`), errs.Invalid, "there is a value, too"},
		"value of nothing":   {kube("", `"env":[{"name":"A","valueFrom":{}}]`), errs.Invalid, "env[0].valueFrom"},
		"laughing fields":    {`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","annotations":{"a":"` + strings.Repeat("x", 100000) + `"}},"spec":{"containers":[{"name":"c","image":"i","env":[` + strings.Repeat(`{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"metadata.annotations['a']"}}},`, 30) + `{"name":"B"}]}]}}`, errs.Invalid, "longer than"},
		"envFrom":            {kube("", `"envFrom":[{"configMapRef":{"name":"s"}}]`), errs.Unsupported, "envFrom"},
		"a file as dir":      {kube(`"volumes":[{"name":"v","hostPath":{"path":"/etc/passwd","type":"Directory"}}]`, ""), errs.Precondition, "no Directory"},
		"absent":             {kube(`"volumes":[{"name":"v","hostPath":{"path":"/absent","type":"DirectoryOrCreate"}}]`, ""), errs.Precondition, "make it first"},
		"sub path climbs":    {kube(`"volumes":[{"name":"v","hostPath":{"path":"/etc"}}]`, `"volumeMounts":[{"name":"v","mountPath":"/v","subPath":"../root"}]`), errs.Invalid, "subPath"},
		"sub path is a link": {kube(`"volumes":[{"name":"v","hostPath":{"path":"/proc/self"}}]`, `"volumeMounts":[{"name":"v","mountPath":"/v","subPath":"root"}]`), errs.Denied, "out of the volume"},
		"no such volume":     {kube("", `"volumeMounts":[{"name":"v","mountPath":"/v"}]`), errs.Invalid, "volumeMounts[0].name"},
		"windows":            {kube(`"os":{"name":"windows"}`, ""), errs.Unsupported, "spec.os"},
		"sysctl of the host": {kube(`"securityContext":{"sysctls":[{"name":"kernel.panic","value":"1"}]}`, ""), errs.Invalid, "kernel.panic"},
		"profile climbs":     {kube("", `"securityContext":{"seccompProfile":{"type":"Localhost","localhostProfile":"../x"}}`), errs.Invalid, "localhostProfile"},
		"no quantity":        {kube("", `"resources":{"limits":{"cpu":"much"}}`), errs.Invalid, "quantity"},
		"unknown resource":   {kube("", `"resources":{"limits":{"example.com/gpu":1}}`), errs.Unsupported, "gpu"},
		"unknown handler":    {kube(`"hostUsers":true`, `"tty":1`), errs.Invalid, "tty"},
		"limit of gpus":      {kube("", `"resources":{"requests":{"example.com/gpu":1}}`), errs.Unsupported, "requests"},
		"laughs":             {kube("", `"env":[{"name":"A","value":"`+strings.Repeat("x", 1000)+`"},{"name":"B","value":"`+strings.Repeat("$(A)", 1000)+`"},{"name":"C","value":"`+strings.Repeat("$(B)", 1000)+`"}]`), errs.Invalid, "spec.containers[0].env[2].value"},
		"more laughs":        {kube("", `"env":[{"name":"A","value":"`+strings.Repeat("x", 100000)+`"}],"args":["`+strings.Repeat(`$(A)","`, 1000)+`"]`), errs.Invalid, "spec.containers[0].args"},
		"users and network":  {kube(`"hostUsers":false,"hostNetwork":true`, ""), errs.Invalid, "spec.hostUsers"},
		"users and mounts":   {kube(`"hostUsers":false,"volumes":[{"name":"v","hostPath":{"path":"/"}}]`, `"volumeMounts":[{"name":"v","mountPath":"/v","mountPropagation":"Bidirectional"}]`), errs.Invalid, "spec.hostUsers"},
		"too many":           {`{"pod":{"metadata":{"name":"a"}},"containers":[` + strings.Repeat(`{"metadata":{"name":"c"},"image":{"image":"i"}},`, MaxApps) + `{"metadata":{"name":"c"},"image":{"image":"i"}}]}`, errs.Invalid, "257 apps"},
		"page size":          {kube("", `"resources":{"limits":{"hugepages-much":1}}`), errs.Invalid, "hugepages-much"},
		"claims":             {kube("", `"resources":{"claims":[{"name":"x"}]}`), errs.Unsupported, "claims"},
		"protocol":           {kube("", `"ports":[{"hostPort":1,"containerPort":1,"protocol":"HTTP"}]`), errs.Invalid, "spec.containers[0].ports[0].protocol"},
		"pull policy":        {kube("", `"imagePullPolicy":"always"`), errs.Invalid, "imagePullPolicy"},
		"no image":           {`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c"}]}}`, errs.Invalid, "spec.containers[0].image"},
		"signal":             {kube("", `"lifecycle":{"stopSignal":"SIGWHAT"}`), errs.Invalid, "lifecycle.stopSignal"},
		"dns policy":         {kube(`"dnsPolicy":"Mine"`, ""), errs.Invalid, "spec.dnsPolicy"},
		"no nameserver":      {kube(`"dnsPolicy":"None"`, ""), errs.Invalid, "spec.dnsConfig.nameservers"},
		"groups policy":      {kube(`"securityContext":{"supplementalGroupsPolicy":"All"}`, ""), errs.Invalid, "supplementalGroupsPolicy"},
		"fs group":           {kube(`"securityContext":{"fsGroup":-1},"volumes":[{"name":"v","emptyDir":{}}]`, ""), errs.Invalid, "fsGroup"},
		"group alone":        {kube("", `"securityContext":{"runAsGroup":5}`), errs.Invalid, "run_as_group"},
		"privileged, but no": {kube("", `"securityContext":{"privileged":true,"allowPrivilegeEscalation":false}`), errs.Invalid, "allowPrivilegeEscalation"},
		"proc mount":         {kube("", `"securityContext":{"procMount":"Some"}`), errs.Invalid, "procMount"},
		"profile type":       {kube("", `"securityContext":{"appArmorProfile":{"type":"Mine"}}`), errs.Invalid, "appArmorProfile.type"},
		"medium":             {kube(`"volumes":[{"name":"v","emptyDir":{"medium":"HugePages"}}]`, ""), errs.Unsupported, "spec.volumes[0].emptyDir.medium"},
		"two volumes":        {kube(`"volumes":[{"name":"v","emptyDir":{}},{"name":"v","emptyDir":{}}]`, ""), errs.Invalid, "spec.volumes[1].name"},
		"type of a path":     {kube(`"volumes":[{"name":"v","hostPath":{"path":"/","type":"Dir"}}]`, ""), errs.Invalid, "hostPath.type"},
		"relative path":      {kube(`"volumes":[{"name":"v","hostPath":{"path":"x"}}]`, ""), errs.Invalid, "hostPath.path"},
		"no reference":       {kube(`"volumes":[{"name":"v","image":{}}]`, ""), errs.Invalid, "image.reference"},
		"out of an empty":    {kube(`"volumes":[{"name":"v","emptyDir":{}}]`, `"volumeMounts":[{"name":"v","mountPath":"/v","subPath":"a/../../b"}]`), errs.Invalid, "subPath"},
		"root of an empty":   {kube(`"volumes":[{"name":"v","emptyDir":{}}]`, `"volumeMounts":[{"name":"v","mountPath":"/v","subPath":"/a"}]`), errs.Invalid, "subPath"},
		"absent sub path":    {kube(`"volumes":[{"name":"v","hostPath":{"path":"/"}}]`, `"volumeMounts":[{"name":"v","mountPath":"/v","subPath":"absent"}]`), errs.NotFound, "subPath"},
		"below an empty":     {kube(`"volumes":[{"name":"v","emptyDir":{}}]`, `"volumeMounts":[{"name":"v","mountPath":"/v","mountPropagation":"Bidirectional"}]`), errs.Unsupported, "mountPropagation"},
		"propagation":        {kube(`"volumes":[{"name":"v","hostPath":{"path":"/"}}]`, `"volumeMounts":[{"name":"v","mountPath":"/v","mountPropagation":"Both"}]`), errs.Invalid, "mountPropagation"},
		"recursively":        {kube(`"volumes":[{"name":"v","hostPath":{"path":"/"}}]`, `"volumeMounts":[{"name":"v","mountPath":"/v","recursiveReadOnly":"Yes"}]`), errs.Invalid, "recursiveReadOnly"},
		"relative mount":     {kube(`"volumes":[{"name":"v","hostPath":{"path":"/"}}]`, `"volumeMounts":[{"name":"v","mountPath":"v"}]`), errs.Invalid, "mountPath"},
		"shares":             {isolated("os/linux/cpu-shares", `1`), errs.Invalid, "1 is not between"},
		"context":            {isolated("os/linux/selinux-context", `{"user":"a:b","role":"r","type":"t","level":"s0"}`), errs.Invalid, "a context has"},
		"two sysctls":        {podManifest(`}],"isolators":[{"name":"os/unix/sysctl","value":{"net.a":"1"}},{"name":"os/unix/sysctl","value":{"net.b":"1"}}]`), errs.Invalid, "isolators[1]"},
		"a sysctl":           {podManifest(`}],"isolators":[{"name":"os/unix/sysctl","value":{"kernel.panic":"1"}}]`), errs.Invalid, "kernel.panic"},
		"name of an app":     {strings.Replace(kube("", ""), `"name":"c"`, `"name":"C_1"`, 1), errs.Invalid, "C_1"},
		"alias without ip":   {kube(`"hostAliases":[{"ip":"x","hostnames":["a"]}]`, ""), errs.Invalid, "hostAliases[0].ip"},
		"alias with a line":  {kube(`"hostAliases":[{"ip":"10.0.0.1","hostnames":["a\\n10.0.0.2 b"]}]`, ""), errs.Invalid, "hostAliases[0].hostnames[0]"},
		"CRI without pod":    {`{"containers":[]}`, errs.Invalid, "pod"},
		"CRI unknown field":  {`{"pod":{"metadata":{"name":"a"},"hostnam":"x"},"containers":[]}`, errs.Invalid, "hostnam"},
		"CRI windows":        {`{"pod":{"metadata":{"name":"a"},"windows":{}},"containers":[]}`, errs.Invalid, "windows"},
		"CRI value":          {`{"pod":{"metadata":{"name":"a"}},"containers":[{"metadata":{"name":"c"},"envs":[{"key":"a","value":{}}]}]}`, errs.Invalid, "containers[0].envs[0].value"},
		"no volume of appc":  {podManifest(`,"mounts":[{"volume":"v","path":"/v"}]}]`), errs.Invalid, "apps[0].mounts[0].volume"},
		"port of nobody":     {podManifest(`}],"ports":[{"name":"http","hostPort":80}]`), errs.Invalid, "ports[0]"},
		"two sets":           {strings.Replace(isolated("os/linux/capabilities-retain-set", `{"set":["CAP_CHOWN"]}`), `"isolators":[`, `"isolators":[{"name":"os/linux/capabilities-remove-set","value":{"set":["CAP_KILL"]}},`, 1), errs.Invalid, "one isolator at most"},
		"empty set":          {isolated("os/linux/seccomp-retain-set", `{"set":[]}`), errs.Invalid, "apps[0].app.isolators[0].value.set"},
		"no capability":      {isolated("os/linux/capabilities-retain-set", `{"set":["CAP_FLY"]}`), errs.Invalid, "CAP_FLY"},
		"no such error":      {isolated("os/linux/seccomp-remove-set", `{"set":["reboot"],"errno":"EX"}`), errs.Invalid, "EX"},
		"score":              {isolated("os/linux/oom-score-adj", `5000`), errs.Invalid, "5000"},
	} {
		f, err := Read(context.Background(), []byte(c.file), options())
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
}

func TestNoted(t *testing.T) {
	for name, c := range map[string]struct{ file, notes string }{
		"nothing":              {kube("", ""), ""},
		"said to be nothing":   {kube(`"affinity":{},"tolerations":[],"nodeSelector":null,"automountServiceAccountToken":false`, `"livenessProbe":null,"envFrom":[]`), ""},
		"a probe":              {kube("", `"startupProbe":{"tcpSocket":{}}`), "spec.containers[0].startupProbe: not honoured"},
		"resources":            {kube("", `"resources":{"requests":{"memory":1,"ephemeral-storage":1},"limits":{"ephemeral-storage":1}}`), "spec.containers[0].resources.limits.ephemeral-storage: disks are not limited; spec.containers[0].resources.requests.ephemeral-storage: disks are not limited; spec.containers[0].resources.requests.memory: nothing is set aside; a limit would hold"},
		"memory":               {kube(`"volumes":[{"name":"v","emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}}]`, ""), ""},
		"limit of a disk":      {kube(`"volumes":[{"name":"v","emptyDir":{"sizeLimit":"1Mi"}}]`, ""), "spec.volumes[0].emptyDir.sizeLimit: disks are not limited"},
		"DNS of a cluster":     {kube(`"dnsPolicy":"ClusterFirst"`, ""), "spec.dnsPolicy: there is no DNS of a cluster: it is the host's"},
		"unknown isolator":     {isolated("example.com/x", `1`), "apps[0].app.isolators[0]: example.com/x is not honoured"},
		"requested memory":     {isolated("resource/memory", `{"request":"1G"}`), "apps[0].app.isolators[0].value.request: nothing is set aside; a limit would hold"},
		"a pod's own isolator": {podManifest(`}],"isolators":[{"name":"resource/cpu","value":{"limit":"1"}}]`), "isolators[0]: resource/cpu is not honoured: limits are each app's"},
	} {
		f, err := Read(context.Background(), []byte(c.file), options())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var notes []string
		for _, n := range f.Notes {
			notes = append(notes, n.String())
		}
		if got := strings.Join(notes, "; "); got != c.notes {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// A host without such labels tells so; one with them gives them.
func TestLabels(t *testing.T) {
	for isolator, c := range map[string]struct{ value, host, want string }{
		"os/linux/selinux-context":  {`{"user":"system_u","role":"system_r","type":"dhcpc_t","level":"s0"}`, "/sys/fs/selinux/enforce", "system_u:system_r:dhcpc_t:s0"},
		"os/linux/apparmor-profile": {`{"profile":"mine"}`, "/sys/kernel/security/apparmor", "mine"},
	} {
		f, err := Read(context.Background(), []byte(isolated(isolator, c.value)), options())
		if err != nil {
			t.Fatal(err)
		}
		_, missing := os.Stat(c.host)
		s := f.Plan.Apps[0].App.Security
		if given := s.SELinuxLabel == c.want || s.AppArmor == c.want; given != (missing == nil) || given == (len(f.Notes) == 1) {
			t.Errorf("%s: %+v, %v", isolator, s, f.Notes)
		}
	}
}

func TestResolv(t *testing.T) {
	c := parseResolv([]byte("# a comment\nnameserver 10.0.0.1\nnameserver\nsearch a b\ndomain c\noptions ndots:2 rotate\n"))
	if got := strings.Join(append(append(c.Servers, c.Searches...), c.Options...), " "); got != "10.0.0.1 c ndots:2 rotate" {
		t.Errorf("got %q", got)
	}
	f, err := Read(context.Background(), []byte(kube(`"dnsPolicy":"Default","dnsConfig":{"searches":["mine.example.com"]}`, "")), options())
	if err != nil || !slices.Contains(f.Plan.Pod.DNS.Searches, "mine.example.com") {
		t.Errorf("over the host's: %+v, %v", f, err)
	}
}
