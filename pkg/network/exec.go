package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/stagelet/stagelet/internal/errs"
)

const (
	maxOutput = 1 << 20 // bytes of an answer; more is no CNI result
	maxWords  = 2 << 10 // bytes of a plugin's words in an error
	// pipeGrace is how long output is awaited from children that a plugin
	// left behind.
	pipeGrace = time.Second
	// busyGrace is how long a program is awaited that is just being
	// installed (ETXTBSY).
	busyGrace = 5 * time.Second
)

// pluginError is a plugin that did not do what it was asked to, in its words.
type pluginError struct {
	plugin  string
	command string
	kind    errs.Kind
	code    uint   // of the CNI error, 0 when there was none
	reason  string // what became of the plugin, when it gave no CNI error
	words   string
	cause   error // the context's, when that ended the plugin
}

func (e *pluginError) Error() string {
	text := "plugin " + e.plugin + " on " + e.command
	if e.reason != "" {
		text += " " + e.reason
	}
	if e.words != "" {
		text += ": " + e.words
	}
	return text
}

func (e *pluginError) Unwrap() error { return e.cause }

// runner executes plugins for libcni (invoke.Exec).
//
// A plugin leads a process group of its own. When its time is over, the whole
// group is killed. When only this process dies, the plugin is left to finish:
// half an ADD or DEL is worse to take back than a whole one (see orphan.go).
type runner struct{ version.PluginDecoder }

var _ invoke.Exec = (*runner)(nil)

// FindInPath implements invoke.Exec.
func (*runner) FindInPath(plugin string, dirs []string) (string, error) {
	path, err := invoke.FindInPath(plugin, dirs)
	if err == nil {
		return path, nil
	}
	if strings.ContainsRune(plugin, os.PathSeparator) || plugin == "" {
		return "", errs.New("find plugin", errs.Precondition, fmt.Sprintf("%q", plugin), errors.New("is not the name of a plugin"))
	}
	return "", errs.New("find plugin", errs.Unavailable, plugin,
		fmt.Errorf("it is not in %s; install it there", strings.Join(dirs, ", ")))
}

// ExecPlugin implements invoke.Exec.
func (*runner) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	started := time.Now()
	out, err := run(ctx, invocation{path: path, stdin: stdin, env: withSystemPath(environ)})
	perr := &pluginError{plugin: baseName(path), command: envValue(environ, "CNI_COMMAND")}
	if err == nil {
		if perr.command == "ADD" && !isObject(out.stdout) {
			perr.kind, perr.reason, perr.words = errs.Corrupt, "answered no CNI result", words(out.stdout, out.stderr)
			return nil, perr
		}
		return out.stdout, nil
	}
	var said types.Error
	switch {
	case out.overflow:
		perr.kind, perr.reason = errs.Corrupt, fmt.Sprintf("was killed after %d bytes of output", maxOutput)
		perr.words = words(out.stderr)
	case ctx.Err() != nil:
		perr.kind, perr.cause = errs.KindOf(ctx.Err()), ctx.Err()
		perr.reason = fmt.Sprintf("was killed after %s: %v", time.Since(started).Round(time.Millisecond), ctx.Err())
		perr.words = words(out.stdout, out.stderr)
	case json.Unmarshal(out.stdout, &said) == nil && (said.Msg != "" || said.Code != 0):
		perr.code, perr.words, perr.kind = said.Code, words([]byte(said.Error())), kindOfCode(said.Code)
		if perr.words == "" {
			perr.words = fmt.Sprintf("error code %d", said.Code)
		}
	default:
		perr.kind, perr.reason, perr.words = errs.Unavailable, "ended with "+err.Error(), words(out.stdout, out.stderr)
	}
	return nil, perr
}

// kindOfCode translates the error codes of the CNI specification, "Error".
func kindOfCode(code uint) errs.Kind {
	switch code {
	case types.ErrIncompatibleCNIVersion, types.ErrUnsupportedField, types.ErrInvalidNetworkConfig:
		return errs.Precondition
	}
	return errs.Unavailable
}

type invocation struct {
	path  string
	args  []string
	stdin []byte
	env   []string
}

type output struct {
	stdout, stderr []byte
	overflow       bool
}

// run executes one program to its end, or kills its process group when ctx
// ends or its output is no longer sane.
func run(ctx context.Context, in invocation) (output, error) {
	for started := time.Now(); ; {
		out, err := runOnce(ctx, in)
		if !errors.Is(err, syscall.ETXTBSY) || time.Since(started) > busyGrace || !sleep(ctx, 100*time.Millisecond) {
			return out, err
		}
	}
}

func runOnce(ctx context.Context, in invocation) (output, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stdout := &bounded{limit: maxOutput, onOverflow: cancel}
	stderr := &tail{limit: maxWords}
	cmd := exec.CommandContext(ctx, in.path, in.args...)
	cmd.Env, cmd.Dir = in.env, "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in.stdin), stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = pipeGrace
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		err = nil // it ended well; a child of it has its pipes, and is not awaited
	}
	return output{stdout: stdout.data, stderr: stderr.data, overflow: stdout.overflow}, err
}

// bounded keeps what is written up to a limit, and tells of more once.
type bounded struct {
	data       []byte
	limit      int
	overflow   bool
	onOverflow func()
}

func (b *bounded) Write(p []byte) (int, error) {
	if !b.overflow && len(b.data)+len(p) <= b.limit {
		b.data = append(b.data, p...)
	} else if !b.overflow {
		b.overflow = true
		b.onOverflow()
	}
	return len(p), nil
}

// tail keeps the last bytes written.
type tail struct {
	data  []byte
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if over := len(t.data) - t.limit; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

// words makes one printable line of what a plugin wrote.
func words(parts ...[]byte) string {
	joined := string(bytes.TrimSpace(bytes.Join(parts, []byte(" "))))
	if len(joined) > maxWords {
		joined = joined[:maxWords] + "…"
	}
	return strings.Join(strings.FieldsFunc(strings.ToValidUTF8(joined, "?"), func(r rune) bool {
		return r <= ' ' || r == 0x7f || r >= 0x80 && r < 0xa0
	}), " ")
}

func isObject(data []byte) bool {
	var object map[string]json.RawMessage
	return json.Unmarshal(data, &object) == nil && object != nil
}

func envValue(environ []string, key string) string {
	for i := len(environ) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(environ[i], key+"="); ok {
			return v
		}
	}
	return ""
}

// withSystemPath lets plugins find iptables and the like even when this
// process was started with a user's PATH, or none.
func withSystemPath(environ []string) []string {
	const system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	path := system
	if have := envValue(environ, "PATH"); have != "" {
		path = have + ":" + system
	}
	return append(environ, "PATH="+path)
}

func baseName(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// sleep reports whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
