package podfile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/cri"
)

// criFile holds what crictl takes as files of their own: one
// PodSandboxConfig, and a ContainerConfig for each container. Both spellings
// of their fields are understood, those of api.proto, which crictl uses, and
// those of protobuf's JSON.
type criFile struct {
	Pod        json.RawMessage   `json:"pod"`
	Containers []json.RawMessage `json:"containers"`
	// RuntimeHandler is the RunPodSandboxRequest's.
	RuntimeHandler string `json:"runtimeHandler"`
}

func readCRI(data []byte, o Options) (*File, error) {
	var f criFile
	if err := decode("", data, &f); err != nil {
		return nil, err
	}
	if f.Pod == nil {
		return nil, invalid("pod", "is missing")
	}
	var sandbox runtimeapi.PodSandboxConfig
	if err := decodeProto("pod", f.Pod, &sandbox); err != nil {
		return nil, err
	}
	if sandbox.Metadata == nil {
		return nil, invalid("pod.metadata", "is missing")
	}
	fillIdentity(sandbox.Metadata)
	containers := make([]*runtimeapi.ContainerConfig, len(f.Containers))
	for i, raw := range f.Containers {
		containers[i] = &runtimeapi.ContainerConfig{}
		if err := decodeProto(at("containers", i), raw, containers[i]); err != nil {
			return nil, err
		}
	}
	plan, err := cri.Plan(&sandbox, containers, cmp.Or(f.RuntimeHandler, o.Handler), o.Handlers)
	return &File{Plan: plan}, err
}

// defaultNamespace is that of pods that name none.
const defaultNamespace = "default"

// fillIdentity gives a pod what kubelet's pods always have. The UID is
// another one later.
func fillIdentity(m *runtimeapi.PodSandboxMetadata) {
	if m.Namespace == "" {
		m.Namespace = defaultNamespace
	}
	m.Uid, m.Attempt = "0", 0
}

// decodeProto reads a message. Values of variables are plain text, as crictl
// has them, and not the base64 of protobuf's JSON.
func decodeProto(path string, data json.RawMessage, into proto.Message) error {
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&fields); err != nil {
		return invalid(path, "%v", err)
	}
	envs, _ := fields["envs"].([]any)
	for i, one := range envs {
		env, _ := one.(map[string]any)
		switch value := env["value"].(type) {
		case nil:
		case string:
			env["value"] = []byte(value)
		default:
			return invalid(at(path+".envs", i)+".value", "it is no text")
		}
	}
	plain, err := json.Marshal(fields)
	if err != nil {
		return invalid(path, "%v", err)
	}
	if err := protojson.Unmarshal(plain, into); err != nil {
		return invalid(path, "%s", protoError(err))
	}
	return nil
}

// protoError takes the prefix off, whose spelling protobuf varies on purpose,
// and the position, which isn't one in the file.
func protoError(err error) string {
	text := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	text = strings.TrimPrefix(text, "proto: ")
	if strings.HasPrefix(text, "(line ") || strings.HasPrefix(text, "syntax error (line ") {
		if _, after, found := strings.Cut(text, "): "); found {
			return after
		}
	}
	return text
}
