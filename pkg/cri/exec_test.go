package cri

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// onHost runs commands beside no app at all, as the engine would in one.
func onHost(ctx context.Context, _ string, r stage0.ExecRequest) (int, error) {
	cmd := exec.CommandContext(ctx, r.Args[0], r.Args[1:]...)
	cmd.Stdout, cmd.Stderr = r.Stdout, r.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return exit.ExitCode(), nil
	}
	return 0, err
}

func execSync(t *testing.T, run func(context.Context, string, stage0.ExecRequest) (int, error), timeout int64, cmd ...string) (*runtimeapi.ExecSyncResponse, error) {
	t.Helper()
	n := newNode()
	n.addImage()
	n.exec = run
	c := serve(t, n)
	id := addContainer(t, c, addPod(t, c, "web"), "app")
	return c.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: timeout})
}

func TestExecSync(t *testing.T) {
	r, err := execSync(t, onHost, 10, "sh", "-c", "echo out; echo err >&2; exit 3")
	if err != nil || string(r.GetStdout()) != "out\n" || string(r.GetStderr()) != "err\n" || r.GetExitCode() != 3 {
		t.Errorf("got %v, %v", r, err)
	}
}

func TestExecSyncTimeout(t *testing.T) {
	start := time.Now()
	_, err := execSync(t, onHost, 1, "sleep", "100")
	wantRefusal(t, err, codes.DeadlineExceeded, "after 1s")
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %s", took)
	}
}

// TestExecSyncHugeOutput: both streams are cut so that the response can be
// received; the command is not hindered.
func TestExecSyncHugeOutput(t *testing.T) {
	r, err := execSync(t, onHost, 0, "sh", "-c", "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; exit 5")
	if err != nil {
		t.Fatal(err)
	}
	if proto.Size(r) > maxMessage || proto.Size(r) < maxMessage-4096 || r.GetExitCode() != 5 {
		t.Errorf("got %d bytes of stdout, %d of stderr, exit code %d", len(r.GetStdout()), len(r.GetStderr()), r.GetExitCode())
	}
}

// TestExecSyncLeftBehind: a process that keeps the pipes open does not keep
// the caller.
func TestExecSyncLeftBehind(t *testing.T) {
	start := time.Now()
	r, err := execSync(t, onHost, 0, "sh", "-c", "sleep 30 & echo $!")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(r.GetStdout())))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %s", took)
	}
}

// TestExecOutputBlocks: the command's end of a pipe must not be O_NONBLOCK.
func TestExecOutputBlocks(t *testing.T) {
	flags := func(_ context.Context, _ string, r stage0.ExecRequest) (int, error) {
		cmd := exec.Command("sh", "-c", "grep flags: /proc/self/fdinfo/5 /proc/self/fdinfo/6")
		cmd.ExtraFiles = append(cmd.ExtraFiles, nil, nil, r.Stdout, r.Stderr)[0:4]
		out, err := cmd.CombinedOutput()
		if err == nil {
			_, err = io.Copy(r.Stdout, bytes.NewReader(out))
		}
		return 0, err
	}
	r, err := execSync(t, flags, 0, "x")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(r.GetStdout())) {
		octal := strings.TrimSpace(line[strings.LastIndex(line, ":")+1:])
		if len(octal) >= 4 && strings.ContainsRune("4567", rune(octal[len(octal)-4])) { // 04000 is O_NONBLOCK
			t.Errorf("flags are %s", octal)
		}
	}
}

func TestExecSyncRefusals(t *testing.T) {
	_, err := execSync(t, onHost, 0)
	wantRefusal(t, err, codes.InvalidArgument, "cmd")
	_, err = execSync(t, onHost, -1, "true")
	wantRefusal(t, err, codes.InvalidArgument, "timeout")
	_, err = execSync(t, func(context.Context, string, stage0.ExecRequest) (int, error) {
		return 0, errs.New("exec in app", errs.Precondition, "app", errors.New("it isn't running"))
	}, 0, "true")
	wantRefusal(t, err, codes.FailedPrecondition, "isn't running")
	_, err = execSync(t, func(context.Context, string, stage0.ExecRequest) (int, error) { panic("s3cr3t") }, 0, "true")
	wantRefusal(t, err, codes.Internal, "defect")
	if strings.Contains(status.Convert(err).Message(), "s3cr3t") {
		t.Errorf("a panic's words reached the client: %v", err)
	}
}

func TestFit(t *testing.T) {
	for _, test := range []struct{ a, b, limit, wantA, wantB int }{
		{0, 0, 10, 0, 0},
		{4, 6, 10, 4, 6},
		{20, 20, 10, 5, 5},
		{20, 2, 10, 8, 2},
		{2, 20, 10, 2, 8},
		{20, 0, 10, 10, 0},
		{0, 20, 10, 0, 10},
	} {
		a, b := fit(make([]byte, test.a), make([]byte, test.b), test.limit)
		if len(a) != test.wantA || len(b) != test.wantB {
			t.Errorf("fit(%d, %d, %d) = %d, %d; want %d, %d", test.a, test.b, test.limit, len(a), len(b), test.wantA, test.wantB)
		}
	}
}
