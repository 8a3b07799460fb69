package podfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	yamlnode "go.yaml.in/yaml/v3"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// The bounds of a file. Whoever writes by hand stays far below.
const (
	MaxSize  = 1 << 20 // bytes
	maxDepth = 64      // of nesting, in YAML
)

// toJSON gives a file as JSON: as it is, or translated from YAML as kubectl
// does. The file is one document; nothing of it grows by being translated, as
// aliases are refused.
func toJSON(data []byte) ([]byte, error) {
	if len(data) > MaxSize {
		return nil, invalid("", "it is larger than %d bytes", MaxSize)
	}
	if json.Valid(data) {
		return data, nil
	}
	if err := checkYAML(data); err != nil {
		return nil, err
	}
	translated, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, invalid("", "%v", err)
	}
	return translated, nil
}

func checkYAML(data []byte) error {
	d := yamlnode.NewDecoder(bytes.NewReader(data))
	var first, second yamlnode.Node
	if err := d.Decode(&first); errors.Is(err, io.EOF) {
		return invalid("", "it is empty")
	} else if err != nil {
		return invalid("", "%v", err)
	}
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		return invalid("", "it has several documents: a file is one pod")
	}
	return checkNode(&first, maxDepth)
}

func checkNode(n *yamlnode.Node, depth int) error {
	switch {
	case n.Kind == yamlnode.AliasNode:
		return invalid("", "line %d: aliases (*%.40s) are not understood; write the value out", n.Line, n.Value)
	case depth == 0:
		return invalid("", "line %d: it is nested deeper than %d levels", n.Line, maxDepth)
	}
	for _, child := range n.Content {
		if err := checkNode(child, depth-1); err != nil {
			return err
		}
	}
	return nil
}

// decode reads JSON into a value, and refuses fields that the value's type
// doesn't have, and those that come twice.
func decode(path string, data []byte, into any) error {
	unknown, err := kjson.UnmarshalStrict(data, into)
	if err != nil {
		return invalid(path, "%v", err)
	}
	if len(unknown) > 0 {
		return invalid(path, "%v", errors.Join(unknown...))
	}
	return nil
}
