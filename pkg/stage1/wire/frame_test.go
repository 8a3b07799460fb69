package wire_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// stream gives what it holds in pieces of a given size.
type stream struct {
	data  []byte
	piece int
}

func (s *stream) Recv(limit int) ([]byte, []*os.File, error) {
	n := min(limit, s.piece, len(s.data))
	if n == 0 {
		return nil, nil, io.EOF
	}
	b := s.data[:n]
	s.data = s.data[n:]
	return b, nil, nil
}

func (s *stream) Send(b []byte, _ ...*os.File) error {
	s.data = append(s.data, b...)
	return nil
}

func TestFramesSurviveAnyCut(t *testing.T) {
	want := wire.Request{Major: 1, Method: wire.Hello, Params: json.RawMessage(`{"text":"` + strings.Repeat("x", 200_000) + `"}`)}
	for _, piece := range []int{1, 3, 4, 5, 1000, 1 << 20} {
		s := &stream{piece: piece}
		for range 2 {
			if err := wire.Send(s, want); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			var got wire.Request
			if _, err := wire.Recv(s, &got); err != nil {
				t.Fatalf("pieces of %d: %v", piece, err)
			}
			if got.Method != want.Method || !bytes.Equal(got.Params, want.Params) {
				t.Fatalf("pieces of %d: another request came", piece)
			}
		}
		if _, err := wire.Recv(s, new(wire.Request)); !errors.Is(err, io.EOF) {
			t.Fatalf("at the end: %v", err)
		}
	}
}

func TestNoFrames(t *testing.T) {
	frame := func(n uint32, body string) []byte { return append(binary.BigEndian.AppendUint32(nil, n), body...) }
	for name, data := range map[string][]byte{
		"half a head": {0, 0},
		"half a body": frame(10, "{}"),
		"empty":       frame(0, ""),
		"no JSON":     frame(3, "{]}"),
		"too long":    frame(wire.MaxFrame+1, "{}"),
		"other form":  frame(4, `"ha"`),
	} {
		if _, err := wire.Recv(&stream{data: data, piece: 100}, new(wire.Request)); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestTooLongToSend(t *testing.T) {
	s := &stream{}
	if err := wire.Send(s, strings.Repeat("x", wire.MaxFrame)); !errors.Is(err, errs.Exhausted) || len(s.data) > 0 {
		t.Errorf("error %v, %d bytes sent", err, len(s.data))
	}
	if err := wire.Send(s, func() {}); !errors.Is(err, errs.Invalid) {
		t.Errorf("error %v", err)
	}
}

func TestDescriptorsTravel(t *testing.T) {
	ours, theirs, err := sys.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	other, err := sys.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := wire.Send(ours, wire.Request{Method: wire.Dial}, w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var req wire.Request
	files, err := wire.Recv(other, &req)
	if err != nil || len(files) != 1 || req.Method != wire.Dial {
		t.Fatalf("%+v, %d files, %v", req, len(files), err)
	}
	if _, err := files[0].WriteString("through"); err != nil {
		t.Fatal(err)
	}
	files[0].Close()
	if data, err := io.ReadAll(r); err != nil || string(data) != "through" {
		t.Errorf("%q, %v", data, err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := wire.Send(ours, req, null, null, null, null, null); !errors.Is(err, errs.Invalid) {
		t.Errorf("error %v", err)
	}
}

func TestErrorsTravel(t *testing.T) {
	want := errs.New("start app", errs.Precondition, "id", errors.New("it runs"))
	got := wire.FromError(errs.Wrap("outer", "", want)).Err()
	if !errors.Is(got, errs.Precondition) || got.Error() != "outer: start app id: it runs" {
		t.Errorf("error %v", got)
	}
}

func FuzzRecv(f *testing.F) {
	f.Add([]byte{0, 0, 0, 2, '{', '}'}, uint8(1))
	f.Add(binary.BigEndian.AppendUint32(nil, 1<<31), uint8(4))
	whole, err := wire.Frame(wire.Request{Major: 1, Method: wire.StopApp, Params: json.RawMessage(`{"id":"x"}`)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, uint8(7))
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		s := &stream{data: data, piece: int(piece) + 1}
		for {
			var req wire.Request
			files, err := wire.Recv(s, &req)
			if len(files) > 0 {
				t.Fatal("descriptors from nowhere")
			}
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, errs.Corrupt) {
					t.Fatalf("error %v", err)
				}
				return
			}
			if _, err := wire.Frame(req); err != nil {
				t.Fatalf("what came can't be sent on: %v", err)
			}
		}
	})
}
