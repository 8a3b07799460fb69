package atomicfile_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
)

type thing struct {
	Name string `json:"name"`
	N    int64  `json:"n"`
}

func TestRecordRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "thing.json")
	want := thing{Name: "<é>&\u2028", N: 1 << 60}
	for _, write := range []func(string, string, any) error{atomicfile.WriteRecord, atomicfile.WriteRecordDurable} {
		if err := write(path, "thing", want); err != nil {
			t.Fatal(err)
		}
		var got thing
		boot, err := atomicfile.ReadRecord(path, "thing", &got)
		if err != nil || got != want {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
		if now, _ := atomicfile.BootID(); boot != now || boot == "" {
			t.Errorf("boot %q, want %q", boot, now)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDamagedRecordsAreCorrupt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "thing.json")
	if err := atomicfile.WriteRecord(path, "thing", thing{Name: "abc", N: 7}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty":        {},
		"torn":         whole[:len(whole)/2],
		"altered":      bytes.Replace(whole, []byte(`"n":7`), []byte(`"n":8`), 1),
		"other kind":   bytes.Replace(whole, []byte(`"kind":"thing"`), []byte(`"kind":"other"`), 1),
		"zeros":        make([]byte, len(whole)),
		"not a record": []byte(`[1,2,3]`),
		"no value":     []byte(`{"kind":"thing","crc32c":"00000000"}`),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := atomicfile.ReadRecord(path, "thing", &thing{}); !errors.Is(err, errs.Corrupt) {
				t.Errorf("got %v, want a corrupt record", err)
			}
		})
	}
	t.Run("a directory", func(t *testing.T) {
		if _, err := atomicfile.ReadRecord(t.TempDir(), "thing", &thing{}); !errors.Is(err, errs.Corrupt) {
			t.Errorf("got %v, want a corrupt record", err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		if _, err := atomicfile.ReadRecord(path+"-not", "thing", &thing{}); !errors.Is(err, errs.NotFound) {
			t.Errorf("got %v, want not found", err)
		}
	})
}

func FuzzReadRecord(f *testing.F) {
	good, err := atomicfile.EncodeRecord("thing", thing{Name: "a", N: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"kind":"thing","value":`))
	path := filepath.Join(f.TempDir(), "r")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := atomicfile.ReadRecord(path, "thing", &thing{}); err != nil && !errors.Is(err, errs.Corrupt) {
			t.Errorf("%q: %v is not of kind corrupt", data, err)
		}
	})
}

func TestAbandoned(t *testing.T) {
	dir := t.TempDir()
	mine := atomicfile.TempName(filepath.Join(dir, "a-b-c"))
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	orphan := filepath.Join(dir, atomicfile.TempPrefix+"a-b-c-"+strconv.Itoa(dead.Process.Pid)+"-1")
	regular := filepath.Join(dir, "a-1-1")
	for path, want := range map[string]bool{mine: false, orphan: true, regular: false} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := atomicfile.Abandoned(path); got != want {
			t.Errorf("Abandoned(%s) = %t, want %t", path, got, want)
		}
	}
}
