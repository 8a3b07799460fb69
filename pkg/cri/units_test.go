package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func TestToStatus(t *testing.T) {
	already := status.Error(codes.Unimplemented, "x")
	for _, test := range []struct {
		err  error
		code codes.Code
		text string
	}{
		{nil, codes.OK, ""},
		{already, codes.Unimplemented, "x"},
		{errors.New("odd"), codes.Internal, "odd"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, "context deadline exceeded"},
		{context.Canceled, codes.Canceled, "context canceled"},
		{errs.Wrap("outer", "x", errs.New("inner", errs.Denied, "y", nil)), codes.PermissionDenied, "outer x: inner y: denied"},
		{errs.New("pull", errs.Denied, "img", fmt.Errorf("%w: no key", crierrors.ErrSignatureValidationFailed)), codes.Unknown, "SignatureValidationFailed: pull img: SignatureValidationFailed: no key"},
		{errs.Wrap("outer", "x", tagged{errors.New("why"), crierrors.ErrRegistryUnavailable}), codes.Unknown, "RegistryUnavailable: outer x: why"},
	} {
		err := toStatus(test.err)
		if status.Code(err) != test.code || status.Convert(err).Message() != test.text {
			t.Errorf("%v: got %v", test.err, err)
		}
	}
	for kind, code := range map[errs.Kind]codes.Code{
		errs.Internal: codes.Internal, errs.Invalid: codes.InvalidArgument, errs.NotFound: codes.NotFound, errs.Exists: codes.AlreadyExists,
		errs.Precondition: codes.FailedPrecondition, errs.Unavailable: codes.Unavailable, errs.Timeout: codes.DeadlineExceeded,
		errs.Canceled: codes.Canceled, errs.Corrupt: codes.DataLoss, errs.Denied: codes.PermissionDenied,
		errs.Unsupported: codes.Unimplemented, errs.Exhausted: codes.ResourceExhausted, "new": codes.Internal,
	} {
		if got := status.Code(toStatus(errs.New("x", kind, "", nil))); got != code {
			t.Errorf("%s: got %s, want %s", kind, got, code)
		}
	}
	if long := status.Convert(toStatus(errors.New(strings.Repeat("é", maxErrorText)))).Message(); len(long) > maxErrorText+4 {
		t.Errorf("%d bytes of text", len(long))
	}
}

func TestSignals(t *testing.T) {
	for value := range runtimeapi.Signal_name {
		signal := runtimeapi.Signal(value)
		name, err := translateSignal("stop_signal", signal)
		if err != nil {
			t.Fatal(err)
		}
		want := signal
		switch signal { // names of the same number
		case runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT:
			want = runtimeapi.Signal_SIGNAL_SIGTERM
		case runtimeapi.Signal_SIGNAL_SIGCLD:
			want = runtimeapi.Signal_SIGNAL_SIGCHLD
		case runtimeapi.Signal_SIGNAL_SIGIOT:
			want = runtimeapi.Signal_SIGNAL_SIGABRT
		case runtimeapi.Signal_SIGNAL_SIGPOLL:
			want = runtimeapi.Signal_SIGNAL_SIGIO
		}
		if got := criSignal(name); got != want {
			t.Errorf("%s became %q, which became %s", signal, name, got)
		}
	}
	for name, want := range map[string]runtimeapi.Signal{
		"": runtimeapi.Signal_SIGNAL_SIGTERM, "9": runtimeapi.Signal_SIGNAL_SIGKILL, "hup": runtimeapi.Signal_SIGNAL_SIGHUP,
		"37": runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3, "16": runtimeapi.Signal_SIGNAL_SIGSTKFLT, "SIGNO": 0, "1000": 0,
	} {
		if got := criSignal(name); got != want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
	}
}

func TestContainerPIDNamespace(t *testing.T) {
	target := pod.App{App: &manifest.App{ID: "t", Name: "t"}, Status: manifest.Status{State: manifest.AppRunning}}
	created := pod.App{App: &manifest.App{ID: "c", Name: "c"}}
	for _, test := range []struct {
		pod  manifest.NamespaceMode
		o    *runtimeapi.NamespaceOption
		want manifest.PIDNamespace
		kind errs.Kind
	}{
		{pod: manifest.NamespacePod, want: manifest.PIDNamespace{Mode: manifest.NamespacePod}},
		{pod: manifest.NamespaceApp, want: manifest.PIDNamespace{Mode: manifest.NamespaceApp}},
		{pod: manifest.NamespaceHost, o: &runtimeapi.NamespaceOption{}, want: manifest.PIDNamespace{Mode: manifest.NamespaceHost}},
		{pod: manifest.NamespaceApp, o: &runtimeapi.NamespaceOption{}, kind: errs.Invalid},
		{pod: manifest.NamespacePod, o: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}, want: manifest.PIDNamespace{Mode: manifest.NamespaceApp}},
		{pod: manifest.NamespaceApp, o: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "t"}, want: manifest.PIDNamespace{Mode: manifest.NamespaceTarget, Target: "t"}},
		{pod: manifest.NamespaceApp, o: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "c"}, kind: errs.Precondition},
	} {
		p := somePod()
		p.Pod.Namespaces.PID = test.pod
		p.Apps = []pod.App{target, created}
		got, err := appNamespaces("o", test.o, p)
		if got != test.want || (test.kind == "") != (err == nil) || (err != nil && !errors.Is(err, test.kind)) {
			t.Errorf("%s, %v: got %v, %v", test.pod, test.o, got, err)
		}
	}
}

type appArmor struct {
	profile *runtimeapi.SecurityProfile
	old     string
}

func (a appArmor) GetApparmor() *runtimeapi.SecurityProfile { return a.profile }
func (a appArmor) GetApparmorProfile() string               { return a.old }

func TestAppArmor(t *testing.T) {
	kind := func(k runtimeapi.SecurityProfile_ProfileType, name string) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: k, LocalhostRef: name}
	}
	const byDefault, off, local = runtimeapi.SecurityProfile_RuntimeDefault, runtimeapi.SecurityProfile_Unconfined, runtimeapi.SecurityProfile_Localhost
	for _, test := range []struct {
		profile *runtimeapi.SecurityProfile
		old     string
		who     privilege
		host    bool
		want    string
		kind    errs.Kind
		parser  bool
	}{
		{},
		{host: true},
		{host: true, parser: true, want: manifest.DefaultAppArmor},
		{host: true, parser: true, who: privileged},
		{parser: true},
		{profile: kind(byDefault, "")},
		{old: "runtime/default"},
		{profile: kind(byDefault, ""), host: true, want: manifest.DefaultAppArmor},
		{profile: kind(local, "localhost/mine"), host: true, want: "mine"},
		{profile: kind(byDefault, ""), host: true, who: privileged},
		{profile: kind(off, ""), host: true, want: "unconfined"},
		{profile: kind(off, "")},
		{profile: kind(local, "mine"), host: true, want: "mine"},
		{old: "localhost/mine", host: true, want: "mine"},
		{profile: kind(local, "mine"), host: true, who: privileged, want: "mine"},
		{profile: kind(local, "mine"), kind: errs.Unsupported},
	} {
		got, err := translateAppArmor("s", appArmor{test.profile, test.old}, test.who, platform{appArmor: test.host, appArmorParser: test.parser})
		if got != test.want || (test.kind == "") != (err == nil) || (err != nil && !errors.Is(err, test.kind)) {
			t.Errorf("%+v: got %q, %v", test, got, err)
		}
	}
}

func TestDetectPlatform(t *testing.T) {
	sys := t.TempDir()
	t.Setenv("PATH", sys)
	if got := detectPlatform(sys); got != (platform{}) {
		t.Errorf("got %+v", got)
	}
	for path, text := range map[string]string{"module/apparmor/parameters/enabled": "Y\n", "fs/selinux/enforce": "1"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(sys, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sys, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(sys, "apparmor_parser"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := detectPlatform(sys); !got.appArmor || !got.selinux || !got.appArmorParser {
		t.Errorf("got %+v", got)
	}
}

func TestSeconds(t *testing.T) {
	for n, want := range map[int64]time.Duration{0: 0, 5: 5 * time.Second} {
		if got, err := seconds(n); got != want || err != nil {
			t.Errorf("%d: got %s, %v", n, got, err)
		}
	}
	if got, err := seconds(1 << 62); err != nil || got+stopMargin < got {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := seconds(-1); !errors.Is(err, errs.Invalid) {
		t.Errorf("got %v", err)
	}
}
