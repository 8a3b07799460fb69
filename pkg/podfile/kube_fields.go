package podfile

import (
	"cmp"
	"strings"
)

// value gives what a variable is: what is written, with variables filled in,
// or a field of the pod as it stands.
func (r *kubeReader) value(path string, e kubeEnv) (string, error) {
	if e.ValueFrom == nil {
		value, err := r.texts.expand(e.Value)
		if err != nil {
			return "", invalid(path+".value", "%v", err)
		}
		return value, nil
	}
	ref := e.ValueFrom.FieldRef
	switch path += ".valueFrom"; {
	case e.Value != "":
		return "", invalid(path, "there is a value, too")
	case ref == nil:
		return "", invalid(path, "says of no field: fieldRef")
	}
	value, err := r.field(path+".fieldRef", *ref)
	if err != nil {
		return "", err
	}
	if value, err = r.texts.literal(value); err != nil {
		return "", invalid(path, "%v", err)
	}
	return value, nil
}

// field gives a field of the pod, as kubelet does: a label or an annotation
// that isn't there is empty. What is known only once the pod runs is refused.
func (r *kubeReader) field(path string, ref kubeFieldRef) (string, error) {
	if v := ref.APIVersion; v != "" && v != "v1" {
		return "", invalid(path+".apiVersion", "%.80q is not v1", v)
	}
	path += ".fieldPath"
	meta := &r.pod.Metadata
	if list, key, is := subscript(ref.FieldPath); is {
		switch list {
		case "metadata.labels":
			return meta.Labels[key], nil
		case "metadata.annotations":
			return meta.Annotations[key], nil
		}
		return "", invalid(path, "%.120q has no keys", list)
	}
	switch ref.FieldPath {
	case "metadata.name":
		return cmp.Or(r.options.Name, meta.Name), nil
	case "metadata.namespace":
		return cmp.Or(meta.Namespace, defaultNamespace), nil
	case "metadata.uid":
		return r.options.uid, nil
	case "metadata.labels", "metadata.annotations":
		return "", invalid(path, "a variable is one of them: %s['KEY']", ref.FieldPath)
	case "status.podIP", "status.podIPs", "status.hostIP", "status.hostIPs":
		return "", unsupported(path, "%s is not known before the pod runs; ask in the pod", ref.FieldPath)
	case "spec.nodeName", "spec.serviceAccountName":
		return "", unsupported(path, "%s: there is no cluster here; write the value out", ref.FieldPath)
	}
	return "", invalid(path, "%.120q is no field that a variable can be of", ref.FieldPath)
}

// subscript reads LIST['KEY'].
func subscript(path string) (list, key string, is bool) {
	list, rest, found := strings.Cut(path, "['")
	key, closed := strings.CutSuffix(rest, "']")
	return list, key, found && closed && key != ""
}
