package cri

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// states gives the rows of a section of docs/cri-coverage.md: what, and what
// is true of it.
func states(t *testing.T, title string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, row := range rows(t, title) {
		found[row.name] = row.state
	}
	return found
}

// row is one of docs/cri-coverage.md. tests is its third column.
type row struct{ name, state, tests string }

func rows(t *testing.T, title string) (all []row) {
	t.Helper()
	text, err := os.ReadFile("../../docs/cri-coverage.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## "+title+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	line := regexp.MustCompile("(?m)^\\| `?([A-Za-z0-9_.]+)`? \\| ([a-z]+) \\|([^|\n]*)")
	for _, match := range line.FindAllStringSubmatch(section, -1) {
		if match[2] != "state" { // the head of the table
			all = append(all, row{match[1], match[2], strings.TrimSpace(match[3])})
		}
	}
	return all
}

// TestCoverageIsTested: each row names the tests that hold it, and there are
// such tests. What is ignored needs none.
func TestCoverageIsTested(t *testing.T) {
	tests := testsOfTheTree(t)
	for _, title := range []string{"RuntimeService", "ImageService", "PodSandboxConfig", "ContainerConfig"} {
		for _, row := range rows(t, title) {
			if row.tests == "" {
				if row.state != "ignored" {
					t.Errorf("%s: %s is %s, and no test says so", title, row.name, row.state)
				}
				continue
			}
			for name := range strings.SplitSeq(row.tests, ", ") {
				if !tests[name] {
					t.Errorf("%s: %s is held by %s, which is not there", title, row.name, name)
				}
			}
		}
	}
}

// testsOfTheTree gives all tests, each as "package.Test".
func testsOfTheTree(t *testing.T) map[string]bool {
	t.Helper()
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	tests := map[string]bool{}
	for _, top := range []string{"../../cmd", "../../internal", "../../pkg", "../../test"} {
		err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, match := range function.FindAllSubmatch(text, -1) {
				tests[filepath.Base(filepath.Dir(path))+"."+string(match[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return tests
}

// TestCoverageDocument: every RPC is in docs/cri-coverage.md with what is true
// of it, and every field that a sandbox or a container is made of.
func TestCoverageDocument(t *testing.T) {
	for title, service := range map[string]grpc.ServiceDesc{
		"RuntimeService": runtimeapi.RuntimeService_ServiceDesc, "ImageService": runtimeapi.ImageService_ServiceDesc,
	} {
		documented := states(t, title)
		for _, method := range service.Methods {
			checkRPC(t, documented, method.MethodName)
		}
		for _, stream := range service.Streams {
			checkRPC(t, documented, stream.StreamName)
		}
	}
	for title, config := range map[string]protoreflect.ProtoMessage{
		"PodSandboxConfig": &runtimeapi.PodSandboxConfig{}, "ContainerConfig": &runtimeapi.ContainerConfig{},
	} {
		documented := states(t, title)
		checkFields(t, title, documented, "", config.ProtoReflect().Descriptor())
	}
}

func checkRPC(t *testing.T, documented map[string]string, name string) {
	t.Helper()
	want := "served"
	if notYet[name] {
		want = "later"
	}
	if documented[name] != want {
		t.Errorf("%s is %s, and documented as %q", name, want, documented[name])
	}
}

// checkFields wants each field documented by its path, or a whole message by
// that of the message.
func checkFields(t *testing.T, title string, documented map[string]string, prefix string, m protoreflect.MessageDescriptor) {
	t.Helper()
	fields := m.Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		path := prefix + string(field.Name())
		switch {
		case documented[path] != "":
		case field.Message() != nil && !field.IsMap():
			checkFields(t, title, documented, path+".", field.Message())
		default:
			t.Errorf("%s: %s is not documented", title, path)
		}
	}
}
