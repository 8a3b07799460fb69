package ocispec

import (
	"errors"
	"math"
	"reflect"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
)

func TestParseUlimits(t *testing.T) {
	got, err := ParseUlimits(map[string]string{"nproc": "7", "nofile": "1024:524288", "core": "0:unlimited"})
	want := []specs.POSIXRlimit{
		{Type: "RLIMIT_CORE", Soft: 0, Hard: math.MaxUint64},
		{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 524288},
		{Type: "RLIMIT_NPROC", Soft: 7, Hard: 7},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for name, value := range map[string]string{
		"files": "1", "NOFILE": "1", "nofile": "", "nproc": "2:1", "core": "-1", "cpu": "1:2:3", "stack": "8M", "as": "unlimited:1", "rss": " 1",
	} {
		if got, err := ParseUlimits(map[string]string{name: value}); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s=%q: %+v, %v", name, value, got, err)
		}
	}
	if got, err := ParseUlimits(nil); got != nil || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestCheckUlimits(t *testing.T) {
	var own syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own); err != nil {
		t.Fatal(err)
	}
	limit := func(hard uint64) []specs.POSIXRlimit { return []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: hard}} }
	if err := CheckUlimits(limit(own.Max), Host{}); err != nil {
		t.Error(err)
	}
	if err := CheckUlimits(limit(own.Max+1), Host{}); !errors.Is(err, errs.Denied) {
		t.Errorf("got %v", err)
	}
	if err := CheckUlimits(limit(own.Max+1), Host{Effective: []string{"CAP_SYS_RESOURCE"}}); err != nil {
		t.Error(err)
	}
}
