package podfile

import (
	"fmt"
	"reflect"
	"strings"
)

// Note tells of something that a file asks for and doesn't get, or gets in
// another way: the pod runs all the same.
type Note struct {
	Path string // of the field: "spec.containers[0].livenessProbe"
	Text string
}

const notHonoured = "not honoured"

// String reads "path: text".
func (n Note) String() string { return n.Path + ": " + n.Text }

// Fields that are known and have no effect. A tag `why` says the reason.
type (
	unhonoured struct{ raw } // whoever sets it is told
	refused    struct{ raw } // a pod without it would be another one, or less safe
	silent     struct{ raw } // written by API servers; means nothing to us
)

// raw is any JSON.
type raw []byte

// UnmarshalJSON keeps what is there.
func (r *raw) UnmarshalJSON(data []byte) error {
	*r = append((*r)[:0], data...)
	return nil
}

// asks reports whether the field says anything.
func (r raw) asks() bool {
	switch strings.TrimSpace(string(r)) {
	case "", "null", "false", "0", `""`, "{}", "[]":
		return false
	}
	return true
}

// audit walks through a decoded file: what isn't honoured is noted, in the
// order of the fields; the first that is refused is an error.
func audit(path string, v any) (notes []Note, err error) {
	a := &auditor{}
	a.walk(path, reflect.ValueOf(v), "")
	return a.notes, a.err
}

type auditor struct {
	notes []Note
	err   error
}

func (a *auditor) walk(path string, v reflect.Value, why string) {
	if a.field(path, v.Interface(), why) {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			a.walk(path, v.Elem(), why)
		}
	case reflect.Slice:
		for i := range v.Len() {
			a.walk(at(path, i), v.Index(i), why)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && f.IsExported() {
				a.walk(under(path, name), v.Field(i), f.Tag.Get("why"))
			}
		}
	default:
	}
}

// field reports whether a value is of a field that has no effect, and tells.
func (a *auditor) field(path string, v any, why string) bool {
	switch field := v.(type) {
	case silent:
	case unhonoured:
		if field.asks() {
			text := notHonoured
			if why != "" {
				text += ": " + why
			}
			a.notes = append(a.notes, Note{path, text})
		}
	case refused:
		if field.asks() && a.err == nil {
			a.err = unsupported(path, "%s", why)
		}
	default:
		return false
	}
	return true
}

func at(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

func under(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
