package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/internal/testutil/host"
)

// busyboxImage is the name of the image in $BUSYBOX.
const busyboxImage = "localhost/stagelet/busybox:latest"

// patience is how long the tests wait for what ought to happen at once.
const patience = time.Minute

type hostKey struct{}

func hostOf(ts *testscript.TestScript) *host.Host { return ts.Value(hostKey{}).(*host.Host) }

func cmdStagelet(ts *testscript.TestScript, neg bool, args []string) {
	defer hostOf(ts).Remember()
	switch err := ts.Exec(testutil.ServerBinary, args...); {
	case err != nil && !neg:
		ts.Fatalf("%v", err)
	case err == nil && neg:
		ts.Fatalf("it succeeded")
	}
}

func cmdExitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode N CMD ARGS")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	defer hostOf(ts).Remember()
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually RE CMD ARGS")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	defer hostOf(ts).Remember()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no %q after %s: %v", args[0], patience, err)
		}
	}
}

func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: json PATH RE")
	}
	want, err := regexp.Compile(args[1])
	ts.Check(err)
	got, err := lookUp(ts.ReadFile("stdout"), args[0])
	ts.Check(err)
	if want.MatchString(got) == neg {
		ts.Fatalf("%s is %s", args[0], got)
	}
}

func cmdCapture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 || len(args) > 2 {
		ts.Fatalf("usage: capture VAR [PATH]")
	}
	value := strings.TrimSpace(ts.ReadFile("stdout"))
	if len(args) == 2 {
		var err error
		value, err = lookUp(value, args[1])
		ts.Check(err)
	}
	ts.Setenv(args[0], value)
}

// lookUp gives what path names in a JSON text: keys and indices with slashes
// between them, "len" for the length of a list. A string comes without quotes.
func lookUp(text, path string) (string, error) {
	var at any
	if err := json.Unmarshal([]byte(text), &at); err != nil {
		return "", err
	}
	for _, step := range strings.FieldsFunc(path, func(r rune) bool { return r == '/' }) {
		switch v := at.(type) {
		case map[string]any:
			at = v[step] // nil, null in JSON, when there is none
		case []any:
			if step == "len" {
				at = len(v)
				continue
			}
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(v) {
				return "", fmt.Errorf("no element %s of %d in %s", step, len(v), path)
			}
			at = v[i]
		default:
			return "", fmt.Errorf("nothing at %s of %s: it is below %v", step, path, at)
		}
	}
	if s, ok := at.(string); ok {
		return s, nil
	}
	data, err := json.Marshal(at)
	return string(data), err
}

func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("unsupported: ! serve")
	}
	h := hostOf(ts)
	defer h.Remember()
	switch {
	case len(args) == 1 && args[0] == "stop":
		ts.Check(h.Stop(os.Interrupt))
	case len(args) == 1 && args[0] == "kill":
		ts.Check(h.Stop(os.Kill))
	default:
		ts.Check(h.Serve(args...))
	}
}

func cmdBusybox(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: busybox FILE NAME")
	}
	ts.Check(writeImage(ts.MkAbs(args[0]), args[1]))
}

func writeBusybox(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "busybox.tar")
	if err := writeImage(path, busyboxImage); err != nil {
		t.Fatal(err)
	}
	return path
}

func writeImage(path, name string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(busybox.Image{Name: name}.WriteDocker(f), f.Close())
}
